"""Run a network in evaluation mode, and leave its modules' training flags as they were.

Shapes: N samples, B batch, K outputs of the head.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


@contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every module's own training flag is put back afterwards."""
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
    """Logits (N, K) of a model over batches, in evaluation mode; `predict`: what strategies make of it."""
    with evaluation_mode(model):
        return torch.cat([(predict or model)(x) for x in batches])
