"""Select the layers of a network by name, and find its head."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from ..errors import UserError, comma_separated, nearest
from .blocks import outer_blocks

FEATURES = "features"  # the input of the head, or of the last linear layer
_MAX_BLOCKS = 5  # selected by default, in addition to the features


def select_layers(model: nn.Module, patterns: Sequence[str] | None, key: str) -> list[str]:
    """Return the names of the modules that match any of the patterns, in the model's order.

    Args:
        model: the network.
        patterns: names of modules, with or without wildcards, or "features" for the input of the head. A pattern with wildcards
            selects only modules that have weights. None: at most five of the outer blocks (see `outer_blocks`) and the features.
        key: the path of the patterns in the YAML, for errors.

    Raises:
        UserError: a pattern matches no module.
    """
    if patterns is None:
        blocks = outer_blocks(model)
        last = len(blocks) - 1
        chosen = (
            blocks if last < _MAX_BLOCKS else [blocks[round(i * last / (_MAX_BLOCKS - 1))] for i in range(_MAX_BLOCKS)]
        )
        return [*chosen, FEATURES]
    known = [name for name, _ in model.named_modules() if name]
    for pattern in patterns:
        if pattern != FEATURES and not any(fnmatchcase(name, pattern) for name in known):
            raise UserError(
                f"{key}={list(patterns)}: '{pattern}' fits no layer of the network.{nearest(pattern, known)} "
                f"Known: {comma_separated([FEATURES, *known])}."
            )
    weighty = {name for name, module in model.named_modules() if next(module.parameters(), None) is not None}
    names = [
        name
        for name in known
        if name in patterns or (name in weighty and any(fnmatchcase(name, pattern) for pattern in patterns))
    ]
    return names + [FEATURES] * (FEATURES in patterns)


def find_head(model: nn.Module) -> nn.Module:
    """Return the head, or the last linear layer if there is no head.

    Raises:
        UserError: the network has neither.
    """
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    head: nn.Module | None = getattr(model, "head", None) or (linear[-1] if linear else None)
    if head is None:
        raise UserError("layers='features': the network has neither a head nor a linear layer; name its layers.")
    return head
