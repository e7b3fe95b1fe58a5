"""Checks that need data or a network: strategies that cannot run together, settings that do not fit the stream."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

from ..config.registry import is_neutral
from ..config.schema import Training
from ..config.settings import stream_problem
from ..data.streams import Stream
from ..errors import UserError, comma_separated
from ..training.optimization import value_at
from .resolve import ResolvedExperiment, ResolvedPart
from .training_plan import PlannedExperience

_ROLES = {  # what only one strategy of a trial can do; a module lists its roles in ROLES
    "criterion": "replace the cross-entropy by another loss",
    "predictions": "replace how predictions are made",
    "second loss": "compute another cross-entropy in addition to that of training",
    "memory": "keep a memory of old samples",
    "head": "replace the network's head",
    "data": "replace the training data",
    "norms": "replace the network's BatchNorm layers",
    "final weights": "decide which weights an experience ends with",
}


_RENAMED_ROLES = {"loss of its own": "second loss"}


def check_combination(resolved: ResolvedExperiment) -> None:
    """Raise UserError for strategies that cannot run together or with the training settings, with the reason."""
    for strategy in resolved.strategies:
        for role in set(strategy.declared("ROLES")) - set(_ROLES):
            new = _RENAMED_ROLES.get(role)
            advice = f"it was renamed to '{new}'" if new else f"must be one of {comma_separated(_ROLES)}"
            raise UserError(f"{strategy.path}: ROLES has '{role}': {advice}")
    for first, second in combinations(resolved.strategies, 2):
        if reason := conflict(first, second):
            raise UserError(f"strategies: {first.name} and {second.name} cannot run together: {reason}")
    training = resolved.experiment.training
    for strategy in resolved.strategies:
        if training.full_head and (reason := strategy.declared("NO_FULL_HEAD", "")):
            raise UserError(f"training.full_head: {strategy.path} cannot run with it: {reason}")
        own_loss = {"criterion", "second loss"} & {*strategy.declared("ROLES")}
        if training.label_smoothing > 0 and own_loss and not strategy.declared("WRAPS_CRITERION", False):
            key = f"training.label_smoothing={training.label_smoothing}"
            raise UserError(f"{key}: is not used with {strategy.path}, which computes another loss: set it to 0")


def conflict(first: ResolvedPart, second: ResolvedPart) -> str:
    """Return why two strategies cannot run together; an empty text if they can."""
    for role in sorted({*first.declared("ROLES")} & {*second.declared("ROLES")}):
        return f"both {_ROLES[role]}; choose one"
    for each, other in ((first, second), (second, first)):
        if reason := each.declared("CONFLICTS", {}).get(other.name):
            return str(reason)
        if each.declared("NEEDS_PAST", False) and other.name == "joint":
            return f"joint trains once on all data, so there is no past for {each.name} to use"
    return ""


def check_strategy_needs(strategy: ResolvedPart, stream: Stream, planned: Sequence[PlannedExperience]) -> None:
    """Raise UserError if a strategy lacks what it needs, or could never act.

    It may need validation samples, and what its `check_stream` and `check_training` require.

    Args:
        strategy: the strategy.
        stream: the trial's stream.
        planned: the experiences that are trained on.
    """
    num_trained = len(planned)
    if hasattr(strategy.module, "Config"):
        check_settings_fit(strategy.module, strategy.config, strategy.path, len(stream.class_names), num_trained)
    if check_stream := strategy.declared("check_stream", None):
        check_stream(strategy.config, len(stream.class_names), num_trained)
    epochs = [each.epochs for each in planned if each.epochs is not None]
    if epochs and len(epochs) == num_trained and (problems := training_problems(strategy, epochs)):
        raise UserError("\n".join(problems))
    needs_validation = strategy.declared("needs_validation", None)
    if needs_validation and needs_validation(strategy.config):
        empty = [e.name for e in stream.experiences if not len(e.validation)]
        if empty:
            raise UserError(
                f"benchmark.{stream.name}.validation: {strategy.path} needs validation samples; '{empty[0]}' has none."
            )


def empty_validation_warning(stream: Stream) -> str:
    """Return a sentence if some experiences have validation samples and others none, else an empty text."""
    empty = [experience.name for experience in stream.experiences if not len(experience.validation)]
    if not empty or len(empty) == len(stream.experiences):
        return ""
    return (
        f"benchmark.{stream.name}.validation: {len(empty)} of {len(stream.experiences)} experiences have no validation "
        f"samples, such as '{empty[0]}': the validation metrics that need them are undefined."
    )


def training_problems(strategy: ResolvedPart, epochs: Sequence[int]) -> list[str]:
    """Return a sentence for each setting that can never act in so many epochs, by the module's `check_training`.

    Args:
        strategy: the strategy.
        epochs: of each experience that is trained on; at least one number.
    """
    check_training = strategy.declared("check_training", None)
    if not check_training or strategy.does_nothing:
        return []
    problems = check_training(strategy.config, epochs).items()
    return [f"{strategy.path}.{name}={getattr(strategy.config, name)!r}: {problem}." for name, problem in problems]


def check_settings_fit(module: Any, config: Any, path: str, num_classes: int, num_trained: int) -> None:
    """Raise UserError for a strategy's setting that does not fit the stream, by its annotation; not if it does nothing."""
    if is_neutral(module, config):
        return
    if problem := stream_problem(config, num_classes, num_trained):
        raise UserError(f"{path}.{problem}.")


def check_list_lengths(training: Training, num_experiences: int) -> None:
    """Raise UserError for a list per experience that does not have one value for each."""
    optimizer = training.optimizer
    lists: dict[str, Any] = {
        "training.epochs": training.epochs,
        "training.iterations": training.iterations,
        "training.batch_size": training.batch_size,
        "training.optimizer.lr": optimizer.lr,
        "training.optimizer.weight_decay": optimizer.weight_decay,
        "training.optimizer.clip": optimizer.clip,
    }
    for key, value in lists.items():
        if isinstance(value, tuple):
            value_at(lists[key], num_experiences - 1, key)
            if len(value) > num_experiences:
                raise UserError(f"{key}={list(value)}: has {len(value)} values for {num_experiences} experiences.")
