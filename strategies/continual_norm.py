"""Continual Normalisation: GroupNorm without weights, then BatchNorm, instead of each BatchNorm layer.

    y = BatchNorm(GroupNorm(x))      BatchNorm: weight, bias and running statistics as before; GroupNorm: has none

GroupNorm first normalises each sample by its mean and variance. So the moments that BatchNorm keeps differ less from
experience to experience, and bias old samples less towards the newest data. BatchNorm still shares information between
samples, which GroupNorm alone gives up. The layers are replaced when the network is built, with BatchNorm's weight, bias and
statistics; names in the state_dict stay. Training mini-batches of a single class still mislead this BatchNorm; `swap_norm`
removes BatchNorm.
Shapes: B batch, C channels, * space: layers take (B, C) or (B, C, *).

Source: Pham et al. 2022 (2203.16102). Peers: the authors' code and Renate's ContinualNorm call our `groups` G and num_groups
(32), and fail if C is not a multiple of it; here the greatest common divisor is used.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from ..platform.config.settings import PositiveInt, settings
from ..platform.models.batchnorm import num_groups, replace_batchnorm
from ..platform.training.plugin import Plugin

NEUTRAL = {"groups": None}
ROLES = ("norms",)


@settings
class Config:
    """Add a GroupNorm before each BatchNorm when the network is built (Continual Normalisation).

    groups: of channels, fewer if C is not a multiple or a group would be one channel; null: BatchNorm alone.
    """

    groups: PositiveInt | None = 32


class ContinualNorm(_BatchNorm):
    """BatchNorm applied to GroupNorm's output."""

    def __init__(self, like: _BatchNorm, groups: int) -> None:
        """Copy weight, bias, statistics and settings of the BatchNorm layer `like`."""
        super().__init__(like.num_features, like.eps, like.momentum, like.affine, like.track_running_stats)
        self.load_state_dict(like.state_dict())
        self.groups = num_groups(like, groups)

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept every shape that the replaced layer took."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised input, (B, C, *), in the same shape."""
        normalised = functional.group_norm(input, self.groups, eps=self.eps)
        return super().forward(normalised)


def adapt(config: Config, network: nn.Module, generator: torch.Generator) -> nn.Module:
    """Replace the BatchNorm layers; UserError if there is none."""
    groups = config.groups
    if groups is not None:
        replace_batchnorm("strategies.continual_norm", network, lambda layer: ContinualNorm(layer, groups))
    return network


class ContinualNormPlugin(Plugin[Config]):
    """Does nothing: the layers are part of the network."""

    STATE = ()
