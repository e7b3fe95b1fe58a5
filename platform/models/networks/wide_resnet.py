"""Wide residual networks, WRN-depth-widen (Zagoruyko & Komodakis 2016, 1605.07146): pre-activation blocks, for small pictures.

Shapes: B batch, C channels, H height, W width.
"""

from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional

from ...config.settings import Fraction, PositiveInt, settings
from ..heads import Classifier, Init, initialise
from ._layers import MeanPool, Norm, check_image_shape, norm2d


@settings
class Config:
    """Wide residual network, WRN-depth-widen.

    depth: 6n + 4, at least 10: 16, 22, 28, 40.
    widen: factor on the stages' 16, 32 and 64 channels.
    dropout: rate of dropout between the two convolutions of each block.
    norm: batch, group or layer normalisation before each convolution; null: none.
    init: kaiming (He 2015), xavier (Glorot 2010), or torch (PyTorch's default).
    """

    depth: int = 16
    widen: PositiveInt = 2
    dropout: Fraction = 0.0
    norm: Norm | None = "batch"
    init: Init = "kaiming"

    def __post_init__(self) -> None:
        if self.depth < 10 or (self.depth - 4) % 6:
            raise ValueError(f"depth={self.depth}: must be 6n + 4, at least 10: 10, 16, 22, 28, 34, 40")


class _Block(nn.Module):
    """Normalisation, ReLU and a 3x3 convolution, twice; a 1x1 convolution as shortcut where the channels change."""

    def __init__(self, num_in: int, num_out: int, stride: int, config: Config) -> None:
        super().__init__()
        self.norm1 = norm2d(config.norm, num_in)
        self.conv1 = nn.Conv2d(num_in, num_out, 3, stride, padding=1, bias=False)
        self.norm2 = norm2d(config.norm, num_out)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = nn.Conv2d(num_out, num_out, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(num_in, num_out, 1, stride, bias=False) if num_in != num_out else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C, H, W) to (B, C', H', W')."""
        active = functional.relu(self.norm1(x))
        out = self.conv2(self.dropout(functional.relu(self.norm2(self.conv1(active)))))
        return out + (x if self.shortcut is None else self.shortcut(active))  # type: ignore[no-any-return]


@torch.random.fork_rng(devices=[])  # torch's layers initialise themselves with the global generator
def build(config: Config, shape: tuple[int, ...], num_classes: int, generator: torch.Generator) -> nn.Module:
    """Build the network for pictures of `shape` (C, H, W).

    Raises:
        UserError: the samples are not pictures, or have fewer than 8 pixels a side.
    """
    check_image_shape("wide_resnet", shape, 8)
    stages = OrderedDict[str, nn.Module](stem=nn.Conv2d(shape[0], 16, 3, padding=1, bias=False))
    num_in = 16
    for stage in range(3):
        num_out = 16 * 2**stage * config.widen
        blocks = []
        for index in range((config.depth - 4) // 6):
            blocks.append(_Block(num_in, num_out, 2 if stage > 0 and index == 0 else 1, config))
            num_in = num_out
        stages[f"stage{stage + 1}"] = nn.Sequential(*blocks)
    stages.update(norm=norm2d(config.norm, num_in), relu=nn.ReLU(), pool=MeanPool())
    trunk = nn.Sequential(stages)
    initialise(trunk, config.init, generator)
    return Classifier(trunk, num_in, num_classes, generator)
