"""A small convolutional network: blocks of 3x3 convolution, ReLU and 2x2 max-pooling, then one hidden layer."""

from typing import Annotated

import torch
from annotated_types import MinLen
from torch import nn

from ...config.settings import PositiveInt, settings
from ...errors import UserError
from ..heads import Classifier, Init, initialise
from ._layers import Norm, norm2d


@settings
class Config:
    """Small CNN: blocks of convolution and max-pooling, then a hidden layer.

    channels: channels of each block; each block halves height and width.
    hidden: width of the hidden layer.
    norm: batch, group or layer normalisation after each convolution; null: none.
    init: kaiming (He 2015), xavier (Glorot 2010), or torch (PyTorch's default).
    """

    channels: Annotated[tuple[PositiveInt, ...], MinLen(1)] = (16, 32)
    hidden: PositiveInt = 128
    norm: Norm | None = None
    init: Init = "kaiming"


@torch.random.fork_rng(devices=[])  # torch's layers initialise themselves with the global generator
def build(config: Config, shape: tuple[int, ...], num_classes: int, generator: torch.Generator) -> nn.Module:
    """Build the network for pictures of `shape` (C, H, W); each block halves height and width.

    Raises:
        UserError: the samples are not pictures, or are smaller than the blocks need.
    """
    if len(shape) != 3 or min(shape[1:]) < 2 ** len(config.channels):
        raise UserError(
            f"model.small_cnn.channels={list(config.channels)}: {len(config.channels)} blocks need pictures of at least "
            f"{2 ** len(config.channels)} pixels a side; these samples have the shape {list(shape)}."
        )
    channels, height, width = shape
    layers: list[nn.Module] = []
    for num_out in config.channels:
        layers.append(nn.Conv2d(channels, num_out, 3, padding=1))
        if config.norm is not None:
            layers.append(norm2d(config.norm, num_out))
        layers += [nn.ReLU(), nn.MaxPool2d(2)]
        channels, height, width = num_out, height // 2, width // 2
    layers += [nn.Flatten(), nn.Linear(channels * height * width, config.hidden), nn.ReLU()]
    trunk = nn.Sequential(*layers)
    initialise(trunk, config.init, generator)
    return Classifier(trunk, config.hidden, num_classes, generator)
