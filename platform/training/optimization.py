"""Optimizer, learning-rate schedule and values per experience, as pure functions."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from ..config.schema import Optimizer, Schedule, Training
from ..config.settings import value_at as value_at
from ..errors import UserError
from ..models.blocks import block_numbers, blocks_of
from ..models.heads import summarise_layers
from .optimizers import SGD, Adam, AdamW
from .plugin import strategy_name


def make_optimizer(
    config: Optimizer, named: Iterable[tuple[str, Parameter]], experience: int, depths: Mapping[str, int] | None = None
) -> torch.optim.Optimizer:
    """Return a new optimizer over the `named` parameters, with the rates of an experience (0-based).

    `depths`: see `parameter_groups`.
    """
    optimizer: torch.optim.Optimizer
    groups = parameter_groups(config, named, depths)
    if config.name == "sgd":
        optimizer = SGD(groups, lr=0.0, momentum=config.momentum)
    else:
        cls = Adam if config.name == "adam" else AdamW
        optimizer = cls(groups)
    set_rates(optimizer, config, experience)
    return optimizer


def parameter_groups(
    config: Optimizer, named: Iterable[tuple[str, Parameter]], depths: Mapping[str, int] | None = None
) -> list[dict[str, Any]]:
    """Return one group for each pattern in `config.groups` and, last, one for the rest; each holds its `factors`.

    With `config.layer_decay`, each group is split into one group per depth.

    Args:
        config: settings of the optimizer.
        named: names and parameters.
        depths: name -> blocks from the head (see `blocks_from_head`); names that are missing count as the head, 0.

    Raises:
        UserError: a pattern matches no parameter that the patterns before it have left, or no layer can have a lower rate.
    """
    by_name = dict(named)
    remaining = dict(by_name)
    known = summarise_layers(remaining)
    groups: list[dict[str, Any]] = []
    for pattern, factors in config.groups.items():
        names = [name for name in remaining if fnmatchcase(name, pattern)]
        if not names:
            raise UserError(
                f"training.optimizer.groups.{pattern}: fits no parameter (that a pattern before it has left). "
                f"Layers of this network: {known}."
            )
        groups.append({"params": [remaining.pop(name) for name in names], "factors": dict(factors)})
    if remaining or not groups:
        groups.append({"params": list(remaining.values())})
    if config.layer_decay == 1.0:
        return groups
    if not depths:
        raise UserError(
            f"training.optimizer.layer_decay={config.layer_decay}: the network has no trunk of blocks with weights."
        )
    names_by_parameter = {parameter: name for name, parameter in by_name.items()}
    return [part for group in groups for part in _by_depth(group, config.layer_decay, names_by_parameter, depths)]


def _by_depth(
    group: dict[str, Any], decay: float, names: Mapping[Parameter, str], depths: Mapping[str, int]
) -> list[dict[str, Any]]:
    """The group split into one for each depth, the deepest first."""
    parts: dict[int, list[Parameter]] = {}
    for parameter in group["params"]:
        parts.setdefault(depths.get(names[parameter], 0), []).append(parameter)
    factors = group.get("factors", {})
    return [
        {"params": parts[depth], "factors": {**factors, "lr": factors.get("lr", 1.0) * decay**depth}}
        for depth in sorted(parts, reverse=True)
    ]


def blocks_from_head(model: torch.nn.Module) -> dict[str, int]:
    """Return how many blocks below the head each of the trunk's parameters is: 1 in the last block.

    Empty if the network has no blocks.
    """
    num_blocks = len(blocks_of(model))
    return {name: num_blocks - number for name, number in block_numbers(model).items()} if num_blocks else {}


def set_rates(optimizer: torch.optim.Optimizer, config: Optimizer, experience: int) -> None:
    """Set the learning rate and weight decay of an experience (0-based) in each group of an optimizer."""
    set_lr(optimizer, value_at(config.lr, experience, "training.optimizer.lr"))
    decay = value_at(config.weight_decay, experience, "training.optimizer.weight_decay")
    for group in optimizer.param_groups:
        group["weight_decay"] = decay * _factor(group, "weight_decay")


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of each group to `lr` times the group's factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * _factor(group, "lr")


def base_lr(optimizer: torch.optim.Optimizer) -> float:
    """Return the learning rate without the groups' factors, or NaN if all factors are 0."""
    groups = [group for group in reversed(optimizer.param_groups) if _factor(group, "lr")]
    return groups[0]["lr"] / _factor(groups[0], "lr") if groups else math.nan


def _factor(group: dict[str, Any], key: str) -> float:
    factor: float = group.get("factors", {}).get(key, 1.0)
    return factor


def num_iterations(training: Training, experience: int, num_batches: int) -> int:
    """Return the number of iterations of an experience (0-based): as configured, or all of its epochs.

    `num_batches`: mini-batches per epoch.
    """
    if training.iterations is not None:
        return value_at(training.iterations, experience, "training.iterations")
    return num_batches * value_at(training.epochs, experience, "training.epochs")


def nonfinite_loss_source(learner: Any, hooks: Sequence[Callable[..., None]]) -> str:
    """Return which term made the loss non-finite, as part of a sentence; empty if unknown.

    The criterion and the hooks that add to it are run again, one after the other. The trial is over, so running a hook twice does
    no harm.
    """
    learner.loss = learner.criterion()
    if not math.isfinite(learner.loss.item()):
        return ", in the cross-entropy itself"
    for hook in hooks:
        hook(learner)
        if not math.isfinite(learner.loss.item()):
            return f", by the term of strategy {strategy_name(getattr(hook, '__self__', hook))}"
    return ""


def stability_advice(config: Optimizer, experience: int) -> str:
    """Return what to change in the optimizer after a loss that is not finite, with its settings of an experience (0-based)."""
    lr = value_at(config.lr, experience, "training.optimizer.lr")
    if config.clip is None:
        return f"lower training.optimizer.lr={lr}, or set training.optimizer.clip=1.0 (it is null: no clipping)."
    clip = value_at(config.clip, experience, "training.optimizer.clip")
    return f"lower training.optimizer.lr={lr} or training.optimizer.clip={clip}."


def lr_factor(schedule: Schedule, iteration: int, num_iterations: int) -> float:
    """Return the factor on the learning rate at `iteration` (0-based) of an experience of `num_iterations`.

    It is a linear warm-up over ``warmup * num_iterations``, then 1 (constant), ``gamma^(steps passed)`` (step) or half a cosine
    from 1 to 0 over the rest (Loshchilov & Hutter 2017, without restarts).
    """
    warm = schedule.warmup * num_iterations
    if iteration < warm:
        return (iteration + 1) / (warm + 1)
    if schedule.name == "step":
        return schedule.gamma ** sum(iteration >= step * num_iterations for step in schedule.steps)
    if schedule.name == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (iteration - warm) / max(1.0, num_iterations - warm)))
    return 1.0


def make_criterion(training: Training) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the cross-entropy, with smoothed labels if configured: (logits (B, C), y (B,)) -> a scalar."""
    if training.label_smoothing == 0:
        return torch.nn.CrossEntropyLoss()
    return partial(smoothed_cross_entropy, smoothing=training.label_smoothing)


def smoothed_cross_entropy(logits: Tensor, y: Tensor, smoothing: float) -> Tensor:
    """Return the cross-entropy, a scalar, with targets (1 - smoothing) * one-hot + smoothing / C.

    C counts the classes whose logit is not -inf: those of the sample's task. Szegedy et al. 2016 (1512.00567).
    """
    allowed = logits > -torch.inf
    log_p = logits.log_softmax(1)
    mean_log_p = log_p.masked_fill(~allowed, 0.0).sum(1) / allowed.sum(1)
    return -((1 - smoothing) * log_p.gather(1, y[:, None])[:, 0] + smoothing * mean_log_p).mean()
