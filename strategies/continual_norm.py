"""Continual Normalisation: GroupNorm without weights, then BatchNorm, in the place of each BatchNorm layer.

    y = BatchNorm(GroupNorm(x))      BatchNorm: weight, bias and running statistics as before; GroupNorm: none of its own

GroupNorm first makes the samples alike, each by its own mean and variance, so that the moments BatchNorm keeps differ less from
experience to experience and bias old samples less towards the newest data; BatchNorm still shares among samples what
GroupNorm alone gives up. The network is rebuilt when it is made, with BatchNorm's weight, bias and statistics; names in its
state_dict stay. Training mini-batches of a single class still mislead the BatchNorm in it; `swap_norm` drops that.
Shapes: B batch, C channels, * space: layers take (B, C) or (B, C, *).

Source: Pham et al. 2022 (2203.16102). Peers: the authors' code and Renate's ContinualNorm have our `groups` as G and
num_groups (32), and fail where C is no multiple of it; here it is the greatest common divisor.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from ..platform.models.batchnorm import num_groups, replace_batchnorm
from ..platform.training.plugin import Plugin

NEUTRAL: dict[str, Any] | None = {"groups": None}
ROLES = ("norms",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Put a GroupNorm before each BatchNorm when the network is built (Continual Normalisation).

    groups: of channels, fewer where C is not their multiple or a group would be one channel; null: BatchNorm alone.
    """

    groups: int | None = 32

    def __post_init__(self) -> None:
        groups = self.groups
        if groups is not None and groups < 1:
            raise ValueError(f"{groups=}: must be >= 1, or null for BatchNorm alone")


class ContinualNorm(_BatchNorm):
    """BatchNorm of what GroupNorm makes of its input."""

    def __init__(self, like: _BatchNorm, groups: int) -> None:
        """`like`: the BatchNorm layer whose weight, bias, statistics and settings it takes over."""
        super().__init__(like.num_features, like.eps, like.momentum, like.affine, like.track_running_stats)
        self.load_state_dict(like.state_dict())
        self.groups = num_groups(like, groups)

    def _check_input_dim(self, input: Tensor) -> None:
        """Whatever its predecessor took."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, *) -> the same shape."""
        alike = functional.group_norm(input, self.groups, eps=self.eps)
        return super().forward(alike)


def adapt(config: Config, network: nn.Module, generator: torch.Generator) -> nn.Module:
    """Replace the BatchNorm layers; UserError where there is none."""
    groups = config.groups
    if groups is not None:
        replace_batchnorm("strategies.continual_norm", network, lambda layer: ContinualNorm(layer, groups))
    return network


class ContinualNormPlugin(Plugin):
    """Does nothing: it is in the network."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the statistics are the network's."""
        return {}


def build(config: Config, seed: int) -> ContinualNormPlugin:
    """The plugin; it draws no random numbers."""
    return ContinualNormPlugin()
