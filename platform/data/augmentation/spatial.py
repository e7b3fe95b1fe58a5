"""Transformations that move pixels by whole steps, cover, or enlarge. Shapes: see `augmentation.base`."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ...config.settings import PositiveInt, UnitInterval, settings
from .base import Transformation, check_side, per_sample, replace_at, select, true_indices, uniform

_LOG_RATIO = math.log(4 / 3)  # maximum of width to height: Szegedy 2015


@settings
class Crop(Transformation):
    """Pad with black on each side, then crop to the original size at a random position (He et al. 2016, for CIFAR).

    padding: in pixels, on each side.
    """

    padding: PositiveInt = 4

    @property
    def num_draws(self) -> int:
        """Return 2: row and column."""
        return 2

    def apply(self, x: Tensor, u: Tensor) -> Tensor:
        """Crop at a whole pixel; all positions are equally likely."""
        corners = (u * (2 * self.padding + 1)).long()
        return crop(x, corners[:, 0], corners[:, 1], self.padding)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError if the crop could miss the whole picture."""
        check_side("padding", self.padding, shape)


@settings
class Flip(Transformation):
    """Mirror left and right. Not for digits or letters.

    p: probability.
    """

    p: UnitInterval = 0.5

    def apply(self, x: Tensor, u: Tensor) -> Tensor:
        """Mirror some pictures."""
        chosen = true_indices(u[:, 0] < self.p)
        return replace_at(x, chosen, select(x, chosen).flip(3))


@settings
class Cutout(Transformation):
    """Cover a square with grey; its centre is anywhere in the picture (DeVries & Taylor 2017).

    size: side of the square in pixels; in the paper 16 for CIFAR-10, 8 for CIFAR-100.
    value: grey value in [0, 1]; 0.5 is CIFAR's mean, which the paper uses.
    """

    size: PositiveInt = 16
    value: UnitInterval = 0.5

    @property
    def num_draws(self) -> int:
        """Return 2: row and column."""
        return 2

    def apply(self, x: Tensor, u: Tensor) -> Tensor:
        """Cover the square; near the edge a part of it is outside the picture."""
        centres = (u * torch.tensor(x.shape[2:])).long()
        return cutout(x, centres[:, 0], centres[:, 1], self.size, self.value)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError if the square could cover the whole picture."""
        check_side("size", self.size, shape)


@settings
class RandomResizedCrop(Transformation):
    """Crop a part of random area and aspect ratio, and enlarge it to the picture's size (Szegedy et al. 2015).

    Aspect ratios are 3/4 to 4/3, uniform in their logarithm. A side that would be too long is as long as the picture.
    low: smallest area of the part, as a fraction of the picture's.
    high: largest area of the part.
    """

    low: float = 0.08
    high: UnitInterval = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high:
            raise ValueError(f"low={self.low!r}: must be above 0 and at most high={self.high!r}")

    @property
    def num_draws(self) -> int:
        """Return 4: area, aspect ratio, row and column."""
        return 4

    def apply(self, x: Tensor, u: Tensor) -> Tensor:
        """Crop at whole pixels, then resize bilinearly."""
        sides = torch.tensor(x.shape[2:])
        area = uniform(u[:, 0], self.low, self.high) * sides.prod()
        ratio = torch.exp(uniform(u[:, 1], -_LOG_RATIO, _LOG_RATIO))
        cut = (
            torch.stack([area / ratio, area * ratio], 1)
            .sqrt()
            .round()
            .long()
            .clamp(min=torch.ones(2).long(), max=sides)
        )
        return resized_crop(x, (u[:, 2:] * (sides - cut + 1)).long(), cut)


def crop(x: Tensor, top: Tensor, left: Tensor, padding: int) -> Tensor:
    """Pad the pictures with black and crop (H, W) at the corner (top, left), each (B,) in 0 .. 2 * padding."""
    height, width = x.shape[2:]
    windows = F.pad(x, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)  # views
    samples, rows, columns = (index.to(x.device, non_blocking=True) for index in (torch.arange(len(x)), top, left))
    return windows[samples, :, rows, columns]


def cutout(x: Tensor, row: Tensor, column: Tensor, size: int, value: float) -> Tensor:
    """Set a square of `size` to `value`; its upper left is (row - size // 2, column - size // 2), each (B,)."""
    rows, columns = (
        torch.arange(length, device=x.device) - per_sample(at - size // 2, x).view(-1, 1)
        for length, at in zip(x.shape[2:], (row, column), strict=True)
    )
    inside = ((rows >= 0) & (rows < size))[:, None, :, None] & ((columns >= 0) & (columns < size))[:, None, None, :]
    return x.masked_fill(inside, value)


def resized_crop(x: Tensor, corner: Tensor, size: Tensor) -> Tensor:
    """Resize rectangles to (H, W) bilinearly, with repeated edges; `corner` and `size` (B, 2) are (row, column) in pixels."""
    rows, columns = (_resizing(side, corner[:, i], size[:, i]) for i, side in enumerate(x.shape[2:]))
    return separable(x, rows.to(x, non_blocking=True), columns.to(x, non_blocking=True))


def _resizing(side: int, start: Tensor, length: Tensor) -> Tensor:
    """Return weights (B, side, side) that resize `length` pixels from `start` on to `side`; pixel centres are at + 1/2."""
    start, length = start.float()[:, None], length.float()[:, None]
    centres = ((torch.arange(side) + 0.5) * length / side - 0.5).clamp_(min=0)
    centres = start + torch.minimum(centres, length - 1)
    return (1 - (centres[:, :, None] - torch.arange(side)).abs_()).clamp_(min=0)


def separable(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Mix rows with weights `rows` (B, H, H) and columns with `columns` (B, W, W); each matrix row is one output pixel."""
    mixed = x.flatten(1, 2) @ columns.transpose(1, 2)
    return rows[:, None] @ mixed.view_as(x)
