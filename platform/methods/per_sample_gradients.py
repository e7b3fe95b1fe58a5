"""Sums over samples of powers of each sample's gradient, never of a mini-batch's mean gradient.

For networks of linear layers there is a closed form: a sample's gradient is an outer product, so
sum_b (delta_b a_b^T)^2 = (delta^2)^T a^2. Other networks use `torch.func`.
Shapes: n samples in all, B samples at a time, C outputs, M values for a sample.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap

from ..data.samples import stored_samples
from ..models.activation_capture import ActivationCapture
from ..models.functional import call_with
from ..models.heads import Head
from ..models.inference import evaluation_mode
from ..training.plugin_api import mask_other_tasks
from .quadratic_penalty import NamedTensors

Power = Literal[1, 2]  # of a sample's gradient: its absolute value, or its square
# (logits (B, C), rows (B, ...)) -> (B, M): M values for each sample, each differentiable
Objective = Callable[[Tensor, Tensor], Tensor]
_CHUNK_BYTES = 128 * 2**20  # of gradients in memory at a time
_BATCH = 256  # samples in a forward pass
_LINEAR = (nn.Linear, Head)


def training_samples(learner: Any, order: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the experience's training samples at positions `order` (n,), without augmentation.

    Yields:
        x (B, *shape), y (B,), t (B,): inputs, labels and task labels.
    """
    samples = stored_samples(learner.experience.dataset)
    for index in order.split(_BATCH):
        x, y, t = samples.inputs(index), samples.y[index], samples.t[index]
        yield x.to(learner.device), y.to(learner.device), t.to(learner.device)


def masked_predictions(learner: Any, x: Tensor, tasks: Tensor) -> Tensor:
    """Return logits (B, C) in evaluation mode; where the task is given, -inf for other tasks' classes."""
    with evaluation_mode(learner.model):
        logits: Tensor = learner.model(x)
        return mask_other_tasks(learner, logits, tasks)


def gradient_sums(model: nn.Module, x: Tensor, rows: Tensor, objective: Objective, power: Power) -> NamedTensors:
    """Return sum over samples b and values m of |gradient of the m-th value of b|^power, for each parameter.

    The network runs in evaluation mode, on each sample separately. Parameters that are frozen now count too.

    Args:
        model: the network.
        x: samples (B, *shape).
        rows: (B, ...), what the objective gets for each sample besides the logits.
        objective: a function of logits (B, C) and rows to values (B, M).
        power: 1 or 2.
    """
    with evaluation_mode(model), torch.enable_grad():
        sums = _closed_form(model, x, rows, objective, power)
        return _one_by_one(model, x, rows, objective, power) if sums is None else sums


def _closed_form(model: nn.Module, x: Tensor, rows: Tensor, objective: Objective, power: Power) -> NamedTensors | None:
    """For a network of linear layers, each run once on (B, features); None for any other."""
    # not isinstance: subclasses, such as lora's, compute something else
    layers = {name: module for name, module in model.named_modules() if type(module) in _LINEAR}
    owned = {f"{name}.{kind}" for name, layer in layers.items() for kind, _ in layer.named_parameters(recurse=False)}
    if owned != {name for name, _ in model.named_parameters()}:
        return None
    capture = ActivationCapture(tuple(layers), every_run=True)
    with capture.attached(model):
        values = objective(model(x.detach().requires_grad_()), rows)  # a graph even through frozen layers
    runs = capture.runs
    if sorted(run.layer for run in runs) != sorted(layers) or any(run.input.ndim != 2 for run in runs):
        return None
    sums = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    outputs = [run.output for run in runs]
    for value in values.unbind(1):
        deltas = torch.autograd.grad(value.sum(), outputs, retain_graph=True)
        for (name, inputs, _), delta in zip(runs, deltas, strict=True):
            size = delta.abs().pow(power)
            sums[f"{name}.weight"] += size.T @ inputs.detach().abs().pow(power)
            if f"{name}.bias" in sums:
                sums[f"{name}.bias"] += size.sum(0)
    return sums


def _one_by_one(model: nn.Module, x: Tensor, rows: Tensor, objective: Objective, power: Power) -> NamedTensors:
    """For any network: each sample's gradients, a few samples at a time."""
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def values(parameters: NamedTensors, x: Tensor, row: Tensor) -> Tensor:
        return objective(call_with(model, parameters, x[None]), row[None])[0]

    with torch.no_grad():
        num_values = len(values(parameters, x[0], rows[0]))
    bytes_per_sample = 4 * num_values * sum(parameter.numel() for parameter in parameters.values())
    sums = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    gradients = vmap(jacrev(values), in_dims=(None, 0, 0))
    size = max(1, _CHUNK_BYTES // bytes_per_sample)
    for chunk, chunk_rows in zip(x.split(size), rows.split(size), strict=True):
        try:
            chunk_gradients = gradients(parameters, chunk, chunk_rows)
        except RuntimeError:  # torch.func does not support data-dependent control flow or one_hot
            chunk_gradients = _looped(values, parameters, chunk, chunk_rows)
        for name, gradient in chunk_gradients.items():
            sums[name] += gradient.abs().pow(power).flatten(0, 1).sum(0)
    return sums


def _looped(
    values: Callable[[NamedTensors, Tensor, Tensor], Tensor], parameters: NamedTensors, x: Tensor, rows: Tensor
) -> NamedTensors:
    """The same gradients, (B, M, *shape) by name, with a backward pass for each."""
    leaves = {name: parameter.clone().requires_grad_() for name, parameter in parameters.items()}
    collected: dict[str, list[Tensor]] = {name: [] for name in leaves}
    for sample, row in zip(x, rows, strict=True):
        for value in values(leaves, sample, row):
            gradients = torch.autograd.grad(value, list(leaves.values()), retain_graph=True, allow_unused=True)
            for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True):
                collected[name].append(torch.zeros_like(leaf) if gradient is None else gradient)
    return {name: torch.stack(tensors).unflatten(0, (len(x), -1)) for name, tensors in collected.items()}
