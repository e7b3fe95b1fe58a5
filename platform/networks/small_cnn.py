"""A small convolutional network: blocks of 3x3 convolution, ReLU and 2x2 max-pooling, then one hidden layer.

Shapes: B batch, C channels, H height, W width, D features of the hidden layer.
"""

from dataclasses import dataclass

import torch
from torch import nn

from ..errors import UserError
from ..heads import Head, Init, initialise


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Small CNN: `channels` of its conv + pool blocks, width of the `hidden` layer, `batch_norm`, `init` kaiming or xavier."""

    channels: tuple[int, ...] = (16, 32)
    hidden: int = 128
    batch_norm: bool = False
    init: Init = "kaiming"

    def __post_init__(self) -> None:
        if not self.channels or min(self.channels) < 1:
            raise ValueError(f"channels={list(self.channels)}: must hold at least one number, each at least 1")
        if self.hidden < 1:
            raise ValueError(f"hidden={self.hidden}: must be at least 1")


class SmallCNN(nn.Module):
    """Convolutional blocks and a hidden layer (`features`), growing head."""

    def __init__(self, config: Config, shape: tuple[int, ...], num_classes: int, generator: torch.Generator) -> None:
        super().__init__()
        channels, height, width = shape
        layers: list[nn.Module] = []
        for num_out in config.channels:
            layers.append(nn.Conv2d(channels, num_out, 3, padding=1))
            if config.batch_norm:
                layers.append(nn.BatchNorm2d(num_out))
            layers += [nn.ReLU(), nn.MaxPool2d(2)]
            channels, height, width = num_out, height // 2, width // 2
        layers += [nn.Flatten(), nn.Linear(channels * height * width, config.hidden), nn.ReLU()]
        self.trunk = nn.Sequential(*layers)
        initialise(self.trunk, config.init, generator)
        self.head = Head(config.hidden, num_classes, generator)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Inputs (B, C, H, W) -> features (B, D)."""
        return self.trunk(x)  # type: ignore[no-any-return]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Inputs (B, C, H, W) -> logits (B, classes)."""
        return self.head(self.trunk(x))  # type: ignore[no-any-return]


def build(config: Config, shape: tuple[int, ...], num_classes: int, generator: torch.Generator) -> nn.Module:
    """Build the network for pictures of `shape` (C, H, W); each block halves them.

    Raises:
        UserError: the samples are no pictures, or smaller than the blocks need.
    """
    if len(shape) != 3 or min(shape[1:]) < 2 ** len(config.channels):
        raise UserError(
            f"model.small_cnn.channels={list(config.channels)}: {len(config.channels)} blocks need pictures of at least "
            f"{2 ** len(config.channels)} pixels a side; these samples have the shape {list(shape)}."
        )
    return SmallCNN(config, shape, num_classes, generator)
