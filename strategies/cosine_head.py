"""Cosine head: an output is the cosine between the features and the class's weights, so that no class wins by a large norm.

    logit_c = scale * cos(w_c, f) = scale * w_c . f / (|w_c| |f|)

There is no bias. In a linear head the weights and biases of new classes become larger than those of old ones, and old
samples are taken for new classes. `scale` is what softmax needs to become sure of a class: cosines are at most 1.
Shapes: B batch, D features, C classes.

Sources: Gidaris & Komodakis 2018 (1804.09458), Hou et al. 2019 (LUCIR, CVPR; its equation 4, eta is the scale).
Peers: FACIL's and PyCIL's CosineLinear (sigma) start a learned scale at 1, from which 160 epochs get away and a few do not;
ours starts at 10, as Gidaris & Komodakis'. PODNet's head, with several weights a class, is local_similarity.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..platform.errors import UserError
from ..platform.models.heads import Head
from ..platform.training.plugin import Plugin

NEUTRAL: dict[str, Any] | None = None
NEUTRAL_REASON = "it is another head: whatever its scale, its outputs are not those of a linear one"
ROLES = ("head",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Put a head of cosines in the place of the linear one.

    scale: what the cosines are multiplied by, > 0; where it is learned, what it starts from.
    learned: whether the scale is trained along.
    """

    scale: float = 10.0
    learned: bool = True

    def __post_init__(self) -> None:
        scale = self.scale
        if not 0 < scale < math.inf:
            raise ValueError(f"{scale=}: must be > 0 and finite")


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


def adapt(config: Config, network: nn.Module, generator: torch.Generator) -> nn.Module:
    """The network with the cosine head; nothing is drawn."""
    return with_cosine_head(network, config.scale, config.learned, "strategies.cosine_head")


class CosineHeadPlugin(Plugin):
    """What there is to do, `adapt` has done."""

    def state_dict(self) -> dict[str, Any]:
        """There is nothing to save: the head is the network's."""
        return {}


def build(config: Config, seed: int) -> CosineHeadPlugin:
    """The plugin; it draws no random numbers."""
    return CosineHeadPlugin()
