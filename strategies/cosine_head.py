"""Cosine head: an output is the cosine of the features and the class's weights, so that no class wins by a large norm.

    logit_c = scale * cos(w_c, f) = scale * w_c . f / (|w_c| |f|)

There is no bias. In a linear head the weights and biases of new classes become larger than those of old ones, and old samples
are classified as new classes. Cosines are at most 1; `scale` is what softmax needs to become confident.
Shapes: B batch, D features, C classes.

Sources: Gidaris & Komodakis 2018 (1804.09458), Hou et al. 2019 (LUCIR, CVPR; its equation 4, eta is the scale).
Peers: FACIL's and PyCIL's CosineLinear (sigma) start a learned scale at 1; 160 epochs get away from there, a few do not. Ours
starts at 10, as Gidaris & Komodakis'. PODNet's head, with several weights per class, is local_similarity.
"""

import torch
from torch import nn

from ..platform.config.settings import PositiveFloat, settings
from ..platform.models.cosine_head import with_cosine_head
from ..platform.training.plugin import Plugin

NEUTRAL = None
NEUTRAL_REASON = "it replaces the head: at no scale are its outputs those of a linear head"
ROLES = ("head",)


@settings
class Config:
    """Replace the linear head by one of scaled cosines.

    scale: the factor of the cosines, > 0; its initial value if it is learned.
    learned: whether the scale is trained too.
    """

    scale: PositiveFloat = 10.0
    learned: bool = True


def adapt(config: Config, network: nn.Module, generator: torch.Generator) -> nn.Module:
    """Return the network with the cosine head; no random numbers are used."""
    return with_cosine_head(network, config.scale, config.learned, "strategies.cosine_head")


class CosineHeadPlugin(Plugin[Config]):
    """Does nothing: `adapt` has replaced the head."""

    STATE = ()
