"""How much each parameter matters to what was learned: per-sample gradients summed up, and the penalty that protects it.

    penalty = sum_i omega_i (theta_i - theta*_i)^2      omega: importances, theta*: anchors, by parameter's name

A head that grew is held in the rows that it had; new rows are free. Sums over samples are of powers of each sample's own
gradient, never of a mini-batch's mean: in closed form where a network is made of linear layers, whose gradient for a sample
is an outer product (sum_b (delta_b a_b^T)^2 = (delta^2)^T a^2), elsewhere by `torch.func`.
Shapes: B samples, C outputs, M values for a sample, R, K the rows that a head had.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from ..config.registry import own_outputs
from ..data.streams import resident
from ..models.heads import Head
from ..training.evaluation import evaluating
from ..training.plugin import Plugin
from .replay_memory import stored

Named = dict[str, Tensor]
Power = Literal[1, 2]  # of a sample's gradient: its size, or its square
# (logits (B, C), rows (B, ...)) -> (B, M): M numbers for each sample, each with a gradient
Objective = Callable[[Tensor, Tensor], Tensor]
_CHUNK_BYTES = 128 * 2**20  # of gradients held at a time
_BATCH = 256  # samples run at a time
_LINEAR = (nn.Linear, Head)


def copies(model: nn.Module) -> Named:
    """The parameters as they are."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def part(tensor: Tensor, shape: torch.Size) -> Tensor:
    """The first rows (and columns) of a tensor that grew."""
    return tensor if tensor.shape == shape else tensor[tuple(map(slice, shape))]


def grown(tensor: Tensor, shape: torch.Size) -> Tensor:
    """The tensor with zeros in the rows that it has not."""
    if tensor.shape == shape:
        return tensor
    result = tensor.new_zeros(shape)
    result[tuple(map(slice, tensor.shape))] = tensor
    return result


def summed(old: Named, new: Named, decay: float = 1.0) -> Named:
    """decay * old + new, by name and in the new shapes; what has no new value keeps the decayed old one."""
    result = {name: decay * tensor for name, tensor in old.items()}
    for name, tensor in new.items():
        result[name] = grown(result[name], tensor.shape) + tensor if name in result else tensor
    return result


def penalty(parameters: Named, anchors: Named, importances: Named) -> Tensor:
    """sum_i omega_i (theta_i - theta*_i)^2, a scalar; of parameters that grew, the part that has an importance."""
    terms = [
        (omega * (part(parameters[name], omega.shape) - part(anchors[name], omega.shape)).square()).sum()
        for name, omega in importances.items()
        if name in parameters
    ]
    return torch.stack(terms).sum()


class Quadratic:
    """The penalty with its anchors and importances, as the strategies keep it; false until it has some."""

    def __init__(self) -> None:
        self.anchors: Named = {}
        self.importances: Named = {}

    def __bool__(self) -> bool:
        return bool(self.importances)

    def of(self, model: nn.Module) -> Tensor:
        """The penalty of the network as it is, a scalar with a gradient."""
        return penalty(dict(model.named_parameters()), self.anchors, self.importances)

    def anchor(self, model: nn.Module, importances: Named) -> None:
        """These importances, around the network as it is, in the place of what there was."""
        self.anchors, self.importances = copies(model), importances

    def add(self, model: nn.Module, importances: Named) -> None:
        """Put a second penalty, around the network as it is, onto the one there was.

        The sum of two quadratics is one again: omega = omega_1 + omega_2 around the mean of both anchors, weighted by omega,
        and a constant, which has no gradient and is left out.
        """
        total = summed(self.importances, importances)
        for name, anchor in copies(model).items():
            if name not in importances:
                continue
            if name in self.anchors:
                share = torch.nan_to_num(importances[name] / total[name], nan=1.0)
                held = grown(self.anchors[name], anchor.shape)
                anchor = held + share * (anchor - held)
            self.anchors[name] = anchor
        self.importances = total

    def to(self, device: torch.device) -> None:
        """Bring it to where the network is; called where the training of an experience begins or goes on."""
        self.anchors, self.importances = moved_to(self.anchors, device), moved_to(self.importances, device)

    def state_dict(self) -> dict[str, Any]:
        """Anchors and importances."""
        return {"anchors": self.anchors, "importances": self.importances}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them over."""
        self.anchors, self.importances = dict(state["anchors"]), dict(state["importances"])


class PenaltyPlugin(Plugin):
    """Adds weight * penalty to the loss; a subclass puts something into `penalty` when an experience ends."""

    def __init__(self, weight: float) -> None:
        self.weight, self.penalty = weight, Quadratic()

    def state_dict(self) -> dict[str, Any]:
        """Anchors and importances."""
        return self.penalty.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them over."""
        self.penalty.load_state_dict(state)

    def on_resume(self, strategy: Any) -> None:
        """Bring them to the device."""
        self.penalty.to(strategy.device)

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Bring them to the device."""
        self.penalty.to(strategy.device)

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Add the penalty to the loss."""
        if self.penalty and self.weight > 0:
            strategy.loss = strategy.loss + self.weight * self.penalty.of(strategy.model)


class PathPlugin(PenaltyPlugin):
    """One that follows the parameters through each iteration: a subclass overrides `follow`.

    `with_penalty`: whether the gradients are those of the loss with the penalty.
    """

    def __init__(self, weight: float, with_penalty: bool) -> None:
        super().__init__(weight)
        self.with_penalty = with_penalty
        self._before: Named = {}  # the parameters before this iteration's step, and their gradients
        self._gradients: Named = {}

    def follow(self, strategy: Any, gradients: Named, steps: Named) -> None:
        """After an iteration: gradients before anything changed them, and how far each parameter went."""
        raise NotImplementedError

    def after_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Keep the gradients; where float16 overflowed they are 0, as the step will be."""
        if self.weight == 0:
            return
        self._before = copies(strategy.model)
        named = strategy.model.named_parameters()
        self._gradients = {n: torch.nan_to_num(p.grad, 0.0, 0.0, 0.0) for n, p in named if p.grad is not None}
        for name, omega in self.penalty.importances.items():
            if not self.with_penalty and name in self._gradients:
                pull = part(self._before[name], omega.shape) - part(self.penalty.anchors[name], omega.shape)
                part(self._gradients[name], omega.shape).sub_(2 * self.weight * omega * pull)

    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        """Tell the subclass."""
        if self._gradients:
            named = dict(strategy.model.named_parameters())
            steps = {name: named[name].detach() - self._before[name] for name in self._gradients}
            self.follow(strategy, self._gradients, steps)
        self._gradients, self._before = {}, {}


def moved_to(named: Named, device: torch.device) -> Named:
    """The tensors on a device."""
    return {name: tensor.to(device) for name, tensor in named.items()}


def own_samples(strategy: Any, order: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The experience's training samples at positions `order` (n,): x (B, *shape), y (B,), t (B,), without augmentation."""
    dataset = strategy.experience.dataset
    columns, found = stored(dataset), resident(dataset)
    for index in order.split(_BATCH):
        x, y, t = (columns[name][index] for name in ("x", "y", "t"))
        x = x if found is None else found.stream.normalise(x)
        yield x.to(strategy.device), y.to(strategy.device), t.to(strategy.device)


def predictions(strategy: Any, x: Tensor, tasks: Tensor) -> Tensor:
    """Logits (B, C) of samples in evaluation mode, those of other tasks' classes at -inf where the task is given."""
    with evaluating(strategy.model):
        logits: Tensor = strategy.model(x)
        return own_outputs(strategy, logits, tasks)


def gradient_sums(model: nn.Module, x: Tensor, rows: Tensor, objective: Objective, power: Power) -> Named:
    """sum over samples b and values m of |gradient of the m-th value of b|^power, for each parameter.

    `x` (B, *shape); `rows` (B, ...) is what the objective is told of each sample. The network is run in evaluation mode, each
    sample by itself; parameters that are frozen at the moment count too.
    """
    with evaluating(model), torch.enable_grad():
        found = _closed_form(model, x, rows, objective, power)
        return _one_by_one(model, x, rows, objective, power) if found is None else found


def _closed_form(model: nn.Module, x: Tensor, rows: Tensor, objective: Objective, power: Power) -> Named | None:
    """For a network of linear layers, each run once on (B, features); None for any other."""
    layers = {name: module for name, module in model.named_modules() if type(module) in _LINEAR}  # not subclasses: lora
    owned = {f"{name}.{kind}" for name, layer in layers.items() for kind, _ in layer.named_parameters(recurse=False)}
    if owned != {name for name, _ in model.named_parameters()}:
        return None
    with _watched(layers) as runs:
        values = objective(model(x.detach().requires_grad_()), rows)  # a graph even through frozen layers
    if sorted(name for name, _, _ in runs) != sorted(layers) or any(given.ndim != 2 for _, given, _ in runs):
        return None
    sums = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    outputs = [output for _, _, output in runs]
    for value in values.unbind(1):
        deltas = torch.autograd.grad(value.sum(), outputs, retain_graph=True)
        for (name, given, _), delta in zip(runs, deltas, strict=True):
            size = delta.abs().pow(power)
            sums[f"{name}.weight"] += size.T @ given.detach().abs().pow(power)
            if f"{name}.bias" in sums:
                sums[f"{name}.bias"] += size.sum(0)
    return sums


@contextmanager
def _watched(layers: Mapping[str, nn.Module]) -> Iterator[list[tuple[str, Tensor, Tensor]]]:
    """Collect (name, input, output) of each run of the layers."""
    runs: list[tuple[str, Tensor, Tensor]] = []

    def keep(name: str) -> Callable[[Any, tuple[Tensor, ...], Tensor], None]:
        return lambda module, given, output: runs.append((name, given[0], output))

    handles = [layer.register_forward_hook(keep(name)) for name, layer in layers.items()]
    try:
        yield runs
    finally:
        for handle in handles:
            handle.remove()


def _one_by_one(model: nn.Module, x: Tensor, rows: Tensor, objective: Objective, power: Power) -> Named:
    """For any network: the gradients of each sample themselves, a few samples at a time."""
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def values(parameters: Named, x: Tensor, row: Tensor) -> Tensor:
        return objective(functional_call(model, (parameters, buffers), (x[None],)), row[None])[0]

    with torch.no_grad():
        num_values = len(values(parameters, x[0], rows[0]))
    each = 4 * num_values * sum(parameter.numel() for parameter in parameters.values())
    sums = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    gradients = vmap(jacrev(values), in_dims=(None, 0, 0))
    size = max(1, _CHUNK_BYTES // each)
    for chunk, told in zip(x.split(size), rows.split(size), strict=True):
        try:
            found = gradients(parameters, chunk, told)
        except RuntimeError:  # what torch.func cannot do: control flow by data, one_hot
            found = _looped(values, parameters, chunk, told)
        for name, gradient in found.items():
            sums[name] += gradient.abs().pow(power).flatten(0, 1).sum(0)
    return sums


def _looped(values: Callable[[Named, Tensor, Tensor], Tensor], parameters: Named, x: Tensor, rows: Tensor) -> Named:
    """The same gradients, (B, M, *shape) by name, in a backward pass for each."""
    leaves = {name: parameter.clone().requires_grad_() for name, parameter in parameters.items()}
    found: dict[str, list[Tensor]] = {name: [] for name in leaves}
    for sample, row in zip(x, rows, strict=True):
        for value in values(leaves, sample, row):
            gradients = torch.autograd.grad(value, list(leaves.values()), retain_graph=True, allow_unused=True)
            for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True):
                found[name].append(torch.zeros_like(leaf) if gradient is None else gradient)
    return {name: torch.stack(each).unflatten(0, (len(x), -1)) for name, each in found.items()}
