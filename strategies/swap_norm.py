"""Replace BatchNorm by a normalisation that treats each sample alone and keeps no statistics.

    y = weight * (x - mean_g) / sqrt(var_g + eps) + bias      mean_g, var_g: of one sample over a group of its channels
    group: 32 groups (fewer in narrow layers)      layer: one group of all channels      instance: one group per channel

BatchNorm's running statistics follow the newest data, and its mini-batch statistics mix the samples of a mini-batch. Both harm
where data do not come from one distribution (a stream; one-class or tiny mini-batches). Here the layers are replaced when the
network is built: weight and bias of each BatchNorm layer are kept, its statistics are dropped. For a pretrained network this is a
different function: train it further, or load one that was trained with such layers (``model.torchvision.norm: group``).
Shapes: B batch, C channels, * space: layers take (B, C) or (B, C, *).

Sources: Wu & He 2018 (1803.08494, GroupNorm), Ba 2016 (1607.06450, LayerNorm over channels and space, as in their section on
convolutions), Ulyanov 2016 (1607.08022, InstanceNorm). Pham 2022 (2203.16102) compares them on streams. Peers: none of Avalanche,
FACIL and Mammoth has such a setting; there the network is written with other layers.
"""

from typing import Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..platform.config.settings import settings
from ..platform.errors import UserError
from ..platform.models.batchnorm import num_groups, replace_batchnorm
from ..platform.training.plugin import Plugin

NEUTRAL = {"kind": None}
ROLES = ("norms",)
Kind = Literal["group", "layer", "instance"]


@settings
class Config:
    """Replace BatchNorm layers by GroupNorm, LayerNorm or InstanceNorm when the network is built.

    kind: "group", "layer" or "instance" (maps only); null: BatchNorm stays.
    """

    kind: Kind | None = "group"


def as_group_norm(layer: _BatchNorm, kind: Kind) -> nn.GroupNorm:
    """Return a layer of that kind with the weight, bias and eps of a BatchNorm layer; all three kinds are GroupNorms.

    Raises:
        UserError: instance normalisation of single values.
    """
    channels = layer.num_features
    if kind == "instance" and isinstance(layer, nn.BatchNorm1d):
        raise UserError(
            "strategies.swap_norm.kind='instance': needs maps; a BatchNorm1d layer has one value a channel."
        )
    groups = {"group": num_groups(layer), "layer": 1, "instance": channels}[kind]
    norm = nn.GroupNorm(groups, channels, eps=layer.eps, affine=layer.affine)
    if layer.affine:
        norm.load_state_dict({"weight": layer.weight, "bias": layer.bias})
    return norm


def adapt(config: Config, network: nn.Module, generator: torch.Generator) -> nn.Module:
    """Replace the network's BatchNorm layers.

    Raises:
        UserError: there is none.
    """
    kind = config.kind
    if kind is not None:
        replace_batchnorm("strategies.swap_norm", network, lambda layer: as_group_norm(layer, kind))
    return network


class SwapNormPlugin(Plugin[Config]):
    """Does nothing: `adapt` replaces the layers."""

    STATE = ()
