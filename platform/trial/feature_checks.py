"""Warnings before the start: strategies that store what they computed from features, on a trunk that still learns."""

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..config.schema import Training
from ..models.blocks import is_head
from ..training.optimization import blocks_from_head, parameter_groups
from ..training.plugin import Plugin
from .resolve import ResolvedPart


def stale_feature_warnings(
    training: Training,
    network: nn.Module,
    strategies: Sequence[ResolvedPart],
    plugins: Sequence[Any],
    num_experiences: int,
) -> tuple[str, ...]:
    """Return a sentence for each strategy whose stored statistics of features will no longer fit the trunk.

    Args:
        training: the settings of the training.
        network: the network, with what strategies add to it.
        strategies: the strategies.
        plugins: their plugins, in the same order.
        num_experiences: experiences that are trained on.
    """
    ours = [plugin for plugin in plugins if isinstance(plugin, Plugin)]
    if any(plugin.accumulates for plugin in ours):  # the statistics are those of all data, each time
        return ()
    storing = [
        part for part, plugin in zip(strategies, plugins, strict=True) if getattr(plugin, "stores_features", False)
    ]
    experiences = range(1, num_experiences) if storing else ()
    parts = next(filter(None, (_learning(training, network, ours, number) for number in experiences)), [])
    if not parts:
        return ()
    more = f" and {len(parts) - 1} more" if len(parts) > 1 else ""
    return tuple(
        f"{part.path}: classifies by statistics of the features, but the trunk still learns after the first experience "
        f"({parts[0]}{more}), so the statistics of old classes go stale and accuracy can collapse: "
        f"freeze the trunk (strategies.freezing={{}}; with pretrained weights strategies.freezing={{from_experience: 0}})."
        for part in storing
        if not part.does_nothing
    )


def _learning(training: Training, network: nn.Module, plugins: Sequence[Plugin[Any]], num_trained: int) -> list[str]:
    """Return the names of the trunk's parameters, and BatchNorm layers' statistics, that change in an experience."""
    fixed = {
        id(parameter)
        for group in parameter_groups(training.optimizer, network.named_parameters(), blocks_from_head(network))
        if group.get("factors", {}).get("lr") == 0
        for parameter in group["params"]
    }
    for plugin in plugins:
        parameters, norms = plugin.always_frozen(network, num_trained)
        fixed |= {id(each) for each in (*parameters, *norms)}
    names = [
        name
        for name, parameter in network.named_parameters()
        if parameter.requires_grad and not is_head(name) and id(parameter) not in fixed
    ]
    return names + [
        f"{name}.running_mean"
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm)
        and module.running_mean is not None
        and not is_head(name)
        and id(module) not in fixed
    ]
