"""Checks that need data or a network: strategies that cannot run together, lists of the wrong length, batches of one."""

import copy
from itertools import combinations
from typing import TYPE_CHECKING, Any

import torch

from ..config.schema import Experiment
from ..data.streams import Stream
from ..errors import UserError
from ..training.optimization import num_iterations, value_at
from .resolve import plugin_configs

if TYPE_CHECKING:
    pass


_ROLES = {  # what only one strategy of a trial can do; a module names its own in ROLES
    "criterion": "put a loss of their own in the place of the cross-entropy",
    "predictions": "replace how predictions are made",
    "loss of its own": "have a cross-entropy of their own beside that of training",
    "memory": "keep a memory of old samples",
    "head": "replace the network's head",
    "data": "replace the data that are trained on",
    "norms": "replace the network's BatchNorm layers",
}


def check_combination(config: Experiment) -> None:
    """Refuse strategies that cannot run together, with the reason that one of them gives."""
    named = [
        (name, module)
        for name, (module, _) in zip(config.strategies, plugin_configs(config, "strategies"), strict=True)
    ]
    for (first, one), (second, other) in combinations(named, 2):
        for role in sorted(set(getattr(one, "ROLES", ())) & set(getattr(other, "ROLES", ()))):
            raise UserError(f"strategies: {first} and {second} cannot run together: both {_ROLES[role]}; choose one")
        reason = getattr(one, "CONFLICTS", {}).get(second) or getattr(other, "CONFLICTS", {}).get(first)
        if reason:
            raise UserError(f"strategies: {first} and {second} cannot run together: {reason}")
    for name, module in named:
        if config.training.full_head and hasattr(module, "NO_FULL_HEAD"):
            raise UserError(f"training.full_head: strategies.{name} cannot run with it: {module.NO_FULL_HEAD}")
        own_loss = {"criterion", "loss of its own"} & {*getattr(module, "ROLES", ())}
        wraps = getattr(module, "WRAPS_CRITERION", False)
        if config.training.label_smoothing > 0 and own_loss and not wraps:
            key = f"training.label_smoothing={config.training.label_smoothing}"
            raise UserError(f"{key}: is not used beside strategies.{name}, which has a loss of its own: set it to 0")


def _check_stream(module: Any, config: Any, stream: Stream, num_trained: int) -> None:
    """What a strategy needs of the stream: validation samples, room for the classes."""
    if hasattr(module, "check_stream"):
        module.check_stream(config, len(stream.class_names), num_trained)
    if getattr(module, "needs_validation", lambda config: False)(config):
        empty = [e.name for e in stream.experiences if not len(e.validation)]
        if empty:
            name = module.__name__.rpartition(".")[2]
            raise UserError(
                f"benchmark.{stream.name}.validation: strategies.{name} needs validation samples; '{empty[0]}' has none."
            )


def _check_lengths(config: Experiment, num_experiences: int) -> None:
    """Lists per experience must have one value for each."""
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


def _check_last_batches(config: Experiment, stream: Stream, network: torch.nn.Module) -> None:
    """Refuse a last mini-batch of one sample where BatchNorm cannot take it, rather than hours later."""
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
