"""What a network makes of samples, layer by layer, and numbers on it: similarity, effective rank, what a linear classifier reads.

Shapes: n samples, D and E features of two layers, C classes.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from ..errors import UserError, listed, nearest
from .blocks import outer_blocks

FEATURES = "features"  # what the head, or the last linear layer, is given
_MOST = 5  # layers that are looked at by default, beside the features


def select_layers(model: nn.Module, patterns: Sequence[str] | None, key: str) -> list[str]:
    """Names of the modules that fit any of the patterns, in the model's order; "features": what the head is given.

    A pattern with wildcards stands for modules that hold weights. None: the blocks of the trunk that hold weights, five of them
    at most, and the features. The trunk's blocks are the children of the first module, from the outermost on, that has more than
    one with weights (the head left out).

    Raises:
        UserError: a pattern fits no module; `key` is that of the patterns.
    """
    if patterns is None:
        blocks = outer_blocks(model)
        last = len(blocks) - 1
        kept = blocks if last < _MOST else [blocks[round(i * last / (_MOST - 1))] for i in range(_MOST)]
        return [*kept, FEATURES]
    known = [name for name, _ in model.named_modules() if name]
    for pattern in patterns:
        if pattern != FEATURES and not any(fnmatchcase(name, pattern) for name in known):
            raise UserError(
                f"{key}={list(patterns)}: '{pattern}' fits no layer of the network.{nearest(pattern, known)} "
                f"Known: {listed([FEATURES, *known])}."
            )
    weighty = {name for name, module in model.named_modules() if next(module.parameters(), None) is not None}
    found = [
        name
        for name in known
        if name in patterns or (name in weighty and any(fnmatchcase(name, pattern) for pattern in patterns))
    ]
    return found + [FEATURES] * (FEATURES in patterns)


def find_head(model: nn.Module) -> nn.Module:
    """The head, or the last linear layer.

    Raises:
        UserError: the network has neither.
    """
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    head: nn.Module | None = getattr(model, "head", None) or (linear[-1] if linear else None)
    if head is None:
        raise UserError("layers='features': the network has neither a head nor a linear layer; name its layers.")
    return head
