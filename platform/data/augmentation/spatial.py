"""Transformations that move pixels by whole steps, cut out, or enlarge. Shapes: see base.py."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Transformation, check_side, check_within, per_sample, picked, positions, replaced, uniform

_LOG_RATIO = math.log(4 / 3)  # of width to height, at most: Szegedy 2015


@dataclass(frozen=True, kw_only=True, slots=True)
class Crop(Transformation):
    """Pad with black on each side, then cut the picture's size out at a random place (He et al. 2016, for CIFAR).

    padding: in pixels, on each side.
    """

    padding: int = 4

    def __post_init__(self) -> None:
        if self.padding < 1:
            raise ValueError(f"padding={self.padding!r}: must be at least 1")

    @property
    def num_draws(self) -> int:
        """Row and column."""
        return 2

    def apply(self, x: Tensor, u: Tensor) -> Tensor:
        """Whole pixels, each place as likely."""
        corners = (u * (2 * self.padding + 1)).long()
        return crop(x, corners[:, 0], corners[:, 1], self.padding)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Something of the picture is always left."""
        check_side("padding", self.padding, shape)


@dataclass(frozen=True, kw_only=True, slots=True)
class Flip(Transformation):
    """Mirror left and right. Not for writing.

    p: the probability.
    """

    p: float = 0.5

    def __post_init__(self) -> None:
        check_within("p", self.p, 0, 1)

    def apply(self, x: Tensor, u: Tensor) -> Tensor:
        """Some pictures mirrored."""
        chosen = positions(u[:, 0] < self.p)
        return replaced(x, chosen, picked(x, chosen).flip(3))


@dataclass(frozen=True, kw_only=True, slots=True)
class Cutout(Transformation):
    """Cover a square, whose centre is anywhere in the picture, with one grey (DeVries & Taylor 2017).

    size: the square's side in pixels; the paper's is 16 for CIFAR-10, 8 for CIFAR-100.
    value: the grey in [0, 1]; 0.5 is CIFAR's mean, with which the paper covers.
    """

    size: int = 16
    value: float = 0.5

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size={self.size!r}: must be at least 1")
        check_within("value", self.value, 0, 1)

    @property
    def num_draws(self) -> int:
        """Row and column."""
        return 2

    def apply(self, x: Tensor, u: Tensor) -> Tensor:
        """At the pictures' edge a part of the square is outside."""
        centres = (u * torch.tensor(x.shape[2:])).long()
        return cutout(x, centres[:, 0], centres[:, 1], self.size, self.value)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Something of the picture is always left."""
        check_side("size", self.size, shape)


@dataclass(frozen=True, kw_only=True, slots=True)
class RandomResizedCrop(Transformation):
    """Cut out a part of random area and proportions, and enlarge it to the picture's size (Szegedy et al. 2015).

    Proportions are 3/4 to 4/3, evenly in their logarithm; a side that would be too long is as long as the picture.
    low: the part's smallest area, as a fraction of the picture's.
    high: its largest.
    """

    low: float = 0.08
    high: float = 1.0

    def __post_init__(self) -> None:
        check_within("high", self.high, 0, 1)
        if not 0 < self.low <= self.high:
            raise ValueError(f"low={self.low!r}: must be above 0 and at most high={self.high!r}")

    @property
    def num_draws(self) -> int:
        """Area, proportions, row and column."""
        return 4

    def apply(self, x: Tensor, u: Tensor) -> Tensor:
        """Whole pixels are cut out, then resized bilinearly."""
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
    """Cut (H, W) out of the pictures padded with black, the corner at (top, left), each (B,) in 0 .. 2 padding."""
    height, width = x.shape[2:]
    windows = F.pad(x, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)  # views
    samples, rows, columns = (where.to(x.device, non_blocking=True) for where in (torch.arange(len(x)), top, left))
    return windows[samples, :, rows, columns]


def cutout(x: Tensor, row: Tensor, column: Tensor, size: int, value: float) -> Tensor:
    """Set a square of `size` from (row - size // 2, column - size // 2) on, each (B,), to `value`."""
    rows, columns = (
        torch.arange(length, device=x.device) - per_sample(at - size // 2, x).view(-1, 1)
        for length, at in zip(x.shape[2:], (row, column), strict=True)
    )
    inside = ((rows >= 0) & (rows < size))[:, None, :, None] & ((columns >= 0) & (columns < size))[:, None, None, :]
    return x.masked_fill(inside, value)


def resized_crop(x: Tensor, corner: Tensor, size: Tensor) -> Tensor:
    """Resize a rectangle, `corner` and `size` (B, 2) for rows and columns in pixels, to (H, W) bilinearly, edges repeated."""
    rows, columns = (_resizing(side, corner[:, i], size[:, i]) for i, side in enumerate(x.shape[2:]))
    return separable(x, rows.to(x, non_blocking=True), columns.to(x, non_blocking=True))


def _resizing(side: int, start: Tensor, length: Tensor) -> Tensor:
    """Weights (B, side, side) that make `side` pixels of `length` ones from `start` on: the centres of pixels are at + 1/2."""
    start, length = start.float()[:, None], length.float()[:, None]
    at = ((torch.arange(side) + 0.5) * length / side - 0.5).clamp_(min=0)
    at = start + torch.minimum(at, length - 1)
    return (1 - (at[:, :, None] - torch.arange(side)).abs_()).clamp_(min=0)


def separable(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Mix rows by the weights `rows` (B, H, H) and columns by `columns` (B, W, W), an output pixel's weights in a row."""
    mixed = x.flatten(1, 2) @ columns.transpose(1, 2)
    return rows[:, None] @ mixed.view_as(x)
