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
from torch import nn

from ..platform.models.cosine_head import with_cosine_head
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
