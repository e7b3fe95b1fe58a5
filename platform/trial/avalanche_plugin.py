"""Build the Avalanche plugins that a config names by their dotted path."""

import inspect
from typing import Any

from ..errors import UserError, comma_separated, nearest
from ..training.plugin import EVENTS


def build_avalanche_plugin(cls: type, arguments: Any) -> Any:
    """Return an instance of an Avalanche plugin.

    A plugin that reads a live evaluator is refused: without that evaluator's metric it would silently do nothing.

    Raises:
        UserError: the class is not a plugin that can run here, or it does not accept the arguments.
    """
    key = _check_arguments(cls, arguments)
    try:
        return cls(**arguments)
    except (TypeError, ValueError, AssertionError, AttributeError) as error:
        raise UserError(f"{key}={dict(arguments)}: is refused by Avalanche: {error}") from error


def _check_arguments(cls: type, arguments: Any) -> str:
    """Check an Avalanche plugin and its arguments against its signature; return its key in the YAML."""
    key = f"strategies.{cls.__module__}.{cls.__qualname__}"
    if cls.__name__ == "EarlyStoppingPlugin":
        raise UserError(f"{key}: it reads an evaluator that retain does not run; use strategies.early_stopping.")
    if not any(hasattr(cls, event) for event in EVENTS):
        raise UserError(f"{key}: is no Avalanche plugin: it has none of its hooks, such as before_training_exp.")
    known = inspect.signature(cls).parameters
    for name in arguments:
        if name not in known:
            raise UserError(f"{key}.{name}: no such argument.{nearest(name, known)} Known: {comma_separated(known)}.")
    try:
        inspect.signature(cls).bind(**arguments)
    except TypeError as error:
        raise UserError(f"{key}: {error}; known arguments: {comma_separated(known)}.") from None
    return key
