"""A head whose outputs are scaled cosines, and how it replaces a linear one.

Shapes: B batch, D features, C classes.
"""

import math

import torch
from torch import Tensor, nn

from ..errors import UserError
from .heads import Head


class CosineHead(nn.Module):
    """Features (B, D) -> scale * cosines (B, C); C grows as that of `heads.Head`: old rows keep their bits."""

    scale: Tensor

    def __init__(self, weight: Tensor, scale: float, learned: bool = True) -> None:
        """`weight` (C, D): the rows to begin with."""
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone())
        value = torch.tensor(scale, device=weight.device)
        if learned:
            self.scale = nn.Parameter(value)
        else:
            self.register_buffer("scale", value)

    @property
    def num_classes(self) -> int:
        """C, the number of rows."""
        return self.weight.shape[0]

    def grow(self, num_classes: int, generator: torch.Generator) -> None:
        """Add rows up to `num_classes`; fewer than there are changes nothing. New rows: uniform in +-1/sqrt(D), as LUCIR's."""
        added = num_classes - self.num_classes
        if added <= 0:
            return
        bound = 1 / math.sqrt(self.weight.shape[1])
        rows = (torch.rand(added, self.weight.shape[1], generator=generator) * 2 - 1) * bound
        rows = rows.to(self.weight.device, self.weight.dtype)
        self.weight = nn.Parameter(torch.cat([self.weight.detach(), rows]))

    def shrink(self, num_classes: int) -> None:
        """Keep the first `num_classes` rows: the size of a head that is to be loaded."""
        self.weight = nn.Parameter(self.weight.detach()[:num_classes].clone())

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, D) -> logits (B, C)."""
        normalise = nn.functional.normalize
        return self.scale * nn.functional.linear(normalise(features), normalise(self.weight))


def linear_head(network: nn.Module, key: str) -> Head | nn.Linear:
    """The network's `head`, which is to be replaced.

    Raises:
        UserError: it has no linear head of that name; `key` is the strategy's.
    """
    head = getattr(network, "head", None)
    if not isinstance(head, Head | nn.Linear):
        raise UserError(f"{key}: needs a network with a linear layer called `head`; this one has {type(head).__name__}")
    return head


def with_cosine_head(network: nn.Module, scale: float, learned: bool, key: str) -> nn.Module:
    """The network with its `head` (see `linear_head`) replaced; the rows are those of the linear one, its bias is dropped."""
    network.head = CosineHead(linear_head(network, key).weight, scale, learned)
    return network
