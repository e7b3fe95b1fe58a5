"""Checks that need data or a network: strategies that cannot run together, lists of the wrong length, mini-batches of one."""

import copy
from itertools import combinations
from typing import Any

import torch

from ..config.schema import Experiment
from ..data.streams import Stream
from ..errors import UserError, comma_separated
from ..training.optimization import num_iterations, value_at
from .resolve import plugin_configs

_ROLES = {  # what only one strategy of a trial can do; a module lists its roles in ROLES
    "criterion": "replace the cross-entropy by another loss",
    "predictions": "replace how predictions are made",
    "second loss": "compute another cross-entropy in addition to that of training",
    "memory": "keep a memory of old samples",
    "head": "replace the network's head",
    "data": "replace the training data",
    "norms": "replace the network's BatchNorm layers",
}


_RENAMED_ROLES = {"loss of its own": "second loss"}


def check_combination(config: Experiment) -> None:
    """Raise UserError for strategies that cannot run together or with the training settings, with the reason."""
    modules = [
        (name, module)
        for name, (module, _) in zip(config.strategies, plugin_configs(config, "strategies"), strict=True)
    ]
    for name, module in modules:
        for role in set(getattr(module, "ROLES", ())) - set(_ROLES):
            new = _RENAMED_ROLES.get(role)
            advice = f"it was renamed to '{new}'" if new else f"must be one of {comma_separated(_ROLES)}"
            raise UserError(f"strategies.{name}: ROLES has '{role}': {advice}")
    for (first, first_module), (second, second_module) in combinations(modules, 2):
        for role in sorted(set(getattr(first_module, "ROLES", ())) & set(getattr(second_module, "ROLES", ()))):
            raise UserError(f"strategies: {first} and {second} cannot run together: both {_ROLES[role]}; choose one")
        reason = getattr(first_module, "CONFLICTS", {}).get(second) or getattr(second_module, "CONFLICTS", {}).get(
            first
        )
        if reason:
            raise UserError(f"strategies: {first} and {second} cannot run together: {reason}")
    for name, module in modules:
        if config.training.full_head and hasattr(module, "NO_FULL_HEAD"):
            raise UserError(f"training.full_head: strategies.{name} cannot run with it: {module.NO_FULL_HEAD}")
        own_loss = {"criterion", "second loss"} & {*getattr(module, "ROLES", ())}
        wraps = getattr(module, "WRAPS_CRITERION", False)
        if config.training.label_smoothing > 0 and own_loss and not wraps:
            key = f"training.label_smoothing={config.training.label_smoothing}"
            raise UserError(f"{key}: is not used with strategies.{name}, which computes another loss: set it to 0")


def check_strategy_needs(module: Any, config: Any, stream: Stream, num_trained: int) -> None:
    """Raise UserError if the stream lacks what a strategy needs: validation samples, or what its `check_stream` requires.

    Args:
        module: the strategy's module.
        config: its settings.
        stream: the trial's stream.
        num_trained: number of experiences that are trained on.
    """
    if hasattr(module, "check_stream"):
        module.check_stream(config, len(stream.class_names), num_trained)
    if getattr(module, "needs_validation", lambda config: False)(config):
        empty = [e.name for e in stream.experiences if not len(e.validation)]
        if empty:
            name = module.__name__.rpartition(".")[2]
            raise UserError(
                f"benchmark.{stream.name}.validation: strategies.{name} needs validation samples; '{empty[0]}' has none."
            )


def check_list_lengths(config: Experiment, num_experiences: int) -> None:
    """Raise UserError for a list per experience that does not have one value for each."""
    training, optimizer = config.training, config.training.optimizer
    lists = {
        "training.epochs": training.epochs,
        "training.iterations": training.iterations,
        "training.batch_size": training.batch_size,
        "training.optimizer.lr": optimizer.lr,
        "training.optimizer.weight_decay": optimizer.weight_decay,
        "training.optimizer.clip": optimizer.clip,
    }
    for key, value in lists.items():
        if isinstance(value, tuple):
            value_at(value, num_experiences - 1, key)
            if len(value) > num_experiences:
                raise UserError(f"{key}={list(value)}: has {len(value)} values for {num_experiences} experiences.")


def check_last_batches(config: Experiment, stream: Stream, network: torch.nn.Module) -> None:
    """Raise UserError for a last mini-batch of one sample that BatchNorm cannot normalise, rather than fail hours later."""
    for number, experience in enumerate(stream.experiences):
        size = value_at(config.training.batch_size, number, "training.batch_size")
        length = -(-len(experience.train) // size)
        if len(experience.train) % size != 1 or num_iterations(config.training, number, length) < length:
            continue
        try:
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                copy.deepcopy(network).train()(torch.zeros(1, *stream.shape))
        except ValueError as error:  # torch: expected more than 1 value per channel when training
            raise UserError(
                f"training.batch_size={size}: leaves one sample for the last mini-batch of '{experience.name}' "
                f"({len(experience.train)} samples), which this network cannot be trained on ({error}): choose another."
            ) from None
