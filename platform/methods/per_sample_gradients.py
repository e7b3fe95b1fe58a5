"""Sums over samples of powers of each sample's own gradient, never of a mini-batch's mean.

For networks of linear layers in closed form: a sample's gradient is an outer product, so sum_b (delta_b a_b^T)^2 =
(delta^2)^T a^2. For other networks by `torch.func`.
Shapes: B samples, C outputs, M values for a sample.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from ..data.streams import resident_samples
from ..models.heads import Head
from ..models.inference import evaluation_mode
from ..training.plugin_api import mask_other_tasks
from .quadratic_penalty import Named
from .replay_memory import stored_samples

Power = Literal[1, 2]  # of a sample's gradient: its size, or its square
# (logits (B, C), rows (B, ...)) -> (B, M): M numbers for each sample, each with a gradient
Objective = Callable[[Tensor, Tensor], Tensor]
_CHUNK_BYTES = 128 * 2**20  # of gradients held at a time
_BATCH = 256  # samples run at a time
_LINEAR = (nn.Linear, Head)


def training_samples(learner: Any, order: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The experience's training samples at positions `order` (n,): x (B, *shape), y (B,), t (B,), without augmentation."""
    dataset = learner.experience.dataset
    columns, found = stored_samples(dataset), resident_samples(dataset)
    for index in order.split(_BATCH):
        x, y, t = (columns[name][index] for name in ("x", "y", "t"))
        x = x if found is None else found.stream.normalise(x)
        yield x.to(learner.device), y.to(learner.device), t.to(learner.device)


def masked_predictions(learner: Any, x: Tensor, tasks: Tensor) -> Tensor:
    """Logits (B, C) of samples in evaluation mode, those of other tasks' classes at -inf where the task is given."""
    with evaluation_mode(learner.model):
        logits: Tensor = learner.model(x)
        return mask_other_tasks(learner, logits, tasks)


def gradient_sums(model: nn.Module, x: Tensor, rows: Tensor, objective: Objective, power: Power) -> Named:
    """sum over samples b and values m of |gradient of the m-th value of b|^power, for each parameter.

    `x` (B, *shape); `rows` (B, ...) is what the objective is told of each sample. The network is run in evaluation mode, each
    sample by itself; parameters that are frozen at the moment count too.
    """
    with evaluation_mode(model), torch.enable_grad():
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
