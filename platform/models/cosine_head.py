"""A head whose outputs are scaled cosine similarities, and how it replaces a linear head.

Shapes: B batch, D features, C classes.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..errors import UserError
from .heads import Head


class GrowingHead(nn.Module):
    """Base of heads with a tensor for each class, in the rows of the parameter `ROWS`; they grow as `heads.Head` does."""

    ROWS: ClassVar[str]

    def new_rows(self, added: int, generator: torch.Generator) -> Tensor:
        """Return rows for `added` new classes."""
        raise NotImplementedError

    @property
    def rows(self) -> Tensor:
        """Return the rows of all classes."""
        rows: Tensor = getattr(self, self.ROWS)
        return rows

    @property
    def num_classes(self) -> int:
        """Return C, the number of rows."""
        return self.rows.shape[0]

    def grow(self, num_classes: int, generator: torch.Generator) -> None:
        """Add rows up to `num_classes`; old rows keep their bits; a smaller `num_classes` changes nothing."""
        added = num_classes - self.num_classes
        if added > 0:
            new = self.new_rows(added, generator).to(self.rows.device, self.rows.dtype)
            setattr(self, self.ROWS, nn.Parameter(torch.cat([self.rows.detach(), new])))

    def shrink(self, num_classes: int) -> None:
        """Keep the first `num_classes` rows, to fit a head that is to be loaded."""
        setattr(self, self.ROWS, nn.Parameter(self.rows.detach()[:num_classes].clone()))


class CosineHead(GrowingHead):
    """Maps features (B, D) to scale * cosines (B, C)."""

    ROWS = "weight"
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

    def new_rows(self, added: int, generator: torch.Generator) -> Tensor:
        """Return rows (added, D), uniform in +-1/sqrt(D) as in LUCIR."""
        num_features = self.weight.shape[1]
        return (torch.rand(added, num_features, generator=generator) * 2 - 1) * (1 / math.sqrt(num_features))

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
