"""Run a network in evaluation mode, and restore its modules' training flags.

Shapes: N samples, B batch, K outputs of the head.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


@contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """Switch to evaluation mode without gradients; on exit, restore every module's training flag."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, flag in flags:
            module.training = flag


def logits_of(
    model: torch.nn.Module,
    batches: Iterator[torch.Tensor],
    predict: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """Return logits (N, K) of a model over batches, in evaluation mode.

    `predict`, if given, is called instead of the model: strategies may predict in another way.
    """
    with evaluation_mode(model):
        return torch.cat([(predict or model)(x) for x in batches])
