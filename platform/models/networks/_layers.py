"""Layers that several networks choose by name.

Shapes: B batch, C channels, H height, W width.
"""

import math
from typing import Literal

import torch
from torch import nn

from ...errors import UserError

Norm = Literal["batch", "group", "layer"]
Activation = Literal["relu", "tanh", "gelu", "leaky_relu"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
}


def activation(name: Activation) -> nn.Module:
    """Return an activation layer by name."""
    return _ACTIVATIONS[name]()


def norm2d(kind: Norm | None, channels: int) -> nn.Module:
    """Return a normalisation of maps (B, C, H, W): batch (Ioffe 2015), group (Wu 2018), layer over C, H, W (Ba 2016), or none."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "group":
        return group_norm(channels)
    return nn.GroupNorm(1, channels) if kind == "layer" else nn.Identity()


def group_norm(channels: int) -> nn.GroupNorm:
    """Return a GroupNorm of 32 groups as in the paper, or fewer where C is no multiple of 32 or a group would be one channel."""
    groups = math.gcd(32, channels)
    return nn.GroupNorm(max(1, groups // 2) if groups == channels else groups, channels)


class MeanPool(nn.Module):
    """Averages maps (B, C, H, W) over height and width to (B, C)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the means. They are bit-identical each time, also on a GPU, which adaptive pooling does not guarantee."""
        return x.mean((2, 3))


def check_image_shape(name: str, shape: tuple[int, ...], smallest: int) -> None:
    """Refuse samples that are not pictures (C, H, W), or have a side of fewer pixels than `smallest`.

    Raises:
        UserError: names the network, the smallest size and the actual shape.
    """
    if len(shape) != 3 or min(shape[1:]) < smallest:
        raise UserError(
            f"model.{name}: needs pictures of at least {smallest} pixels a side; these samples have the shape {list(shape)}."
        )
