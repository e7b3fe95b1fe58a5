"""Residual networks (He 2016, 1512.03385): those for CIFAR of depth 6n + 2, and ResNet-18, -34 and -50.

The networks for CIFAR have three stages of 16, 32 and 64 channels, and shortcuts without parameters (option A: every second
pixel, zeros for new channels). The others have four stages of 64 to 512 channels, and 1x1 convolutions where the shape
changes. Layers are named trunk.stem.*, trunk.stage1.0.conv1.*, ...; `freezing` and parameter groups use these names.

Shapes: B batch, C channels, H height, W width, D features.
"""

from collections import OrderedDict
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from ...config.settings import PositiveInt, settings
from ..heads import Classifier, Init, initialise
from ._layers import MeanPool, Norm, check_image_shape, norm2d

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}  # blocks of each stage; other depths are 6n + 2


@settings
class Config:
    """Residual network.

    depth: 20, 32, 44, 56 or 110 (three stages, made for CIFAR), or 18, 34, 50 (four stages, made for ImageNet).
    stem: "cifar", a 3x3 convolution, or "imagenet", a 7x7 one of stride 2 and max-pooling, for large pictures.
    width: channels of the first stage; null: 16 with three stages, 64 with four.
    norm: batch, group or layer normalisation after each convolution; null: none.
    init: kaiming (He 2015), xavier (Glorot 2010), or torch (PyTorch's default).
    """

    depth: Literal[18, 20, 32, 34, 44, 50, 56, 110] = 18
    stem: Literal["cifar", "imagenet"] = "cifar"
    width: PositiveInt | None = None
    norm: Norm | None = "batch"
    init: Init = "kaiming"


class _Shortcut(nn.Module):
    """Option A: every `stride`-th pixel, zeros for new channels."""

    def __init__(self, stride: int, added: int) -> None:
        super().__init__()
        self.stride, self.added = stride, added

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C, H, W) to (B, C + added, H / stride, W / stride)."""
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))


def _convolution(num_in: int, num_out: int, size: int, stride: int = 1) -> nn.Conv2d:
    """A convolution without a bias, which changes height and width only by its stride."""
    return nn.Conv2d(num_in, num_out, size, stride, padding=size // 2, bias=False)


class _Block(nn.Module):
    """Convolutions with normalisation, and a shortcut past them: two 3x3 ones, or 1x1, 3x3, 1x1 with a bottleneck."""

    def __init__(
        self, num_in: int, num_out: int, stride: int, config: Config, *, bottleneck: bool, option_a: bool
    ) -> None:
        super().__init__()
        inner = num_out // 4 if bottleneck else num_out
        sizes = [(num_in, inner, 3, stride), (inner, num_out, 3, 1)]
        if bottleneck:
            sizes = [(num_in, inner, 1, 1), (inner, inner, 3, stride), (inner, num_out, 1, 1)]
        for number, (before, after, size, step) in enumerate(sizes, 1):
            self.add_module(f"conv{number}", _convolution(before, after, size, step))
            self.add_module(f"norm{number}", norm2d(config.norm, after))
        self.depth = len(sizes)
        self.shortcut: nn.Module = nn.Identity()
        if option_a and (stride > 1 or num_in != num_out):
            self.shortcut = _Shortcut(stride, num_out - num_in)
        elif stride > 1 or num_in != num_out:
            self.shortcut = nn.Sequential(_convolution(num_in, num_out, 1, stride), norm2d(config.norm, num_out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C, H, W) to (B, C', H', W')."""
        out = x
        for number in range(1, self.depth + 1):
            out = getattr(self, f"norm{number}")(getattr(self, f"conv{number}")(out))
            out = functional.relu(out) if number < self.depth else out
        return functional.relu(out + self.shortcut(x))


def _stem(config: Config, channels: int, width: int) -> nn.Sequential:
    if config.stem == "cifar":
        return nn.Sequential(_convolution(channels, width, 3), norm2d(config.norm, width), nn.ReLU())
    first = _convolution(channels, width, 7, 2)
    return nn.Sequential(first, norm2d(config.norm, width), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1))


@torch.random.fork_rng(devices=[])  # torch's layers initialise themselves with the global generator
def build(config: Config, shape: tuple[int, ...], num_classes: int, generator: torch.Generator) -> nn.Module:
    """Build the network for pictures of `shape` (C, H, W).

    Raises:
        UserError: the samples are not pictures, or have fewer than 8 pixels a side (32 with the ImageNet stem).
    """
    check_image_shape("resnet", shape, 8 if config.stem == "cifar" else 32)
    small = config.depth not in _BLOCKS
    numbers = (((config.depth - 2) // 6,) * 3) if small else _BLOCKS[config.depth]
    bottleneck = config.depth == 50
    width = config.width or (16 if small else 64)
    stages = OrderedDict[str, nn.Module](stem=_stem(config, shape[0], width))
    num_in = width
    for stage, number in enumerate(numbers):
        num_out = width * 2**stage * (4 if bottleneck else 1)
        blocks = []
        for index in range(number):
            stride = 2 if stage > 0 and index == 0 else 1
            blocks.append(_Block(num_in, num_out, stride, config, bottleneck=bottleneck, option_a=small))
            num_in = num_out
        stages[f"stage{stage + 1}"] = nn.Sequential(*blocks)
    stages["pool"] = MeanPool()
    trunk = nn.Sequential(stages)
    initialise(trunk, config.init, generator)
    return Classifier(trunk, num_in, num_classes, generator)
