"""A head whose outputs are scaled cosine similarities, and how it replaces a linear head.

Shapes: B batch, D features, C classes.
"""

import math

import torch
from torch import Tensor, nn

from ..errors import UserError
from .heads import Head


class CosineHead(nn.Module):
    """Maps features (B, D) to scale * cosines (B, C). C grows as in `heads.Head`: old rows stay bit-identical."""

    scale: Tensor

    def __init__(self, weight: Tensor, scale: float, learned: bool = True) -> None:
        """Start with the rows `weight` (C, D); the scale is a parameter if `learned`, else a buffer."""
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone())
        value = torch.tensor(scale, device=weight.device)
        if learned:
            self.scale = nn.Parameter(value)
        else:
            self.register_buffer("scale", value)

    @property
    def num_classes(self) -> int:
        """Return C, the number of rows."""
        return self.weight.shape[0]

    def grow(self, num_classes: int, generator: torch.Generator) -> None:
        """Add rows up to `num_classes`, uniform in +-1/sqrt(D) as in LUCIR; a smaller `num_classes` changes nothing."""
        added = num_classes - self.num_classes
        if added <= 0:
            return
        bound = 1 / math.sqrt(self.weight.shape[1])
        rows = (torch.rand(added, self.weight.shape[1], generator=generator) * 2 - 1) * bound
        rows = rows.to(self.weight.device, self.weight.dtype)
        self.weight = nn.Parameter(torch.cat([self.weight.detach(), rows]))

    def shrink(self, num_classes: int) -> None:
        """Keep the first `num_classes` rows, to fit a head that is to be loaded."""
        self.weight = nn.Parameter(self.weight.detach()[:num_classes].clone())

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (B, C) for features (B, D)."""
        normalise = nn.functional.normalize
        return self.scale * nn.functional.linear(normalise(features), normalise(self.weight))


def linear_head(network: nn.Module, key: str) -> Head | nn.Linear:
    """Return the network's `head`, which is to be replaced.

    Raises:
        UserError: the network has no linear layer of that name; `key` is the strategy's path in the YAML.
    """
    head = getattr(network, "head", None)
    if not isinstance(head, Head | nn.Linear):
        raise UserError(f"{key}: needs a network with a linear layer called `head`; this one has {type(head).__name__}")
    return head


def with_cosine_head(network: nn.Module, scale: float, learned: bool, key: str) -> nn.Module:
    """Replace the network's `head` (see `linear_head`) by a cosine head, and return the network.

    The rows of the linear head are copied; its bias is dropped.
    """
    network.head = CosineHead(linear_head(network, key).weight, scale, learned)
    return network
