"""Transformations that resample: rotation, scale, translation (combined into one resampling) and elastic.

Shapes: see `augmentation.base`. Positions are (column, row) in pixels from the picture's centre, with rows going down. Pixels
from outside the picture are black.
"""

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Interval
from torch import Tensor

from ...config.settings import UnitInterval, settings
from .base import Transformation, uniform


class Affine(Transformation):
    """A transformation given by a matrix."""

    __slots__ = ()

    def matrix(self, u: Tensor, size: tuple[int, int]) -> Tensor:
        """Return matrices (B, 3, 3) float64 that map a position (x, y, 1) to its new one; `size` is (H, W)."""
        raise NotImplementedError

    def apply(self, x: Tensor, u: Tensor) -> Tensor:
        """Apply this transformation alone."""
        return warp(x, self.matrix(u, (x.shape[2], x.shape[3])))


@settings
class Rotation(Affine):
    """Rotate about the centre.

    degrees: maximum angle in either direction.
    """

    degrees: Annotated[float, Interval(ge=0, le=180)] = 15.0

    def matrix(self, u: Tensor, size: tuple[int, int]) -> Tensor:
        """Return rotations by random angles."""
        return rotation(uniform(u[:, 0], -self.degrees, self.degrees))


@settings
class Scale(Affine):
    """Enlarge or shrink about the centre.

    low: smallest factor.
    high: largest factor.
    """

    low: float = 0.9
    high: Annotated[float, Interval(ge=0.1, le=10)] = 1.1

    def __post_init__(self) -> None:
        if not 0.1 <= self.low <= self.high:
            raise ValueError(f"low={self.low!r}: must be in [0.1, high={self.high!r}]")

    def matrix(self, u: Tensor, size: tuple[int, int]) -> Tensor:
        """Return scalings by random factors."""
        factor = uniform(u[:, 0], self.low, self.high)
        return matrices(factor, 0, 0, 0, factor, 0)


@settings
class Translation(Affine):
    """Shift the picture, also by fractions of a pixel.

    amount: maximum shift up, down, left or right, as a fraction of the side.
    """

    amount: UnitInterval = 0.1

    @property
    def num_draws(self) -> int:
        """Return 2: columns and rows."""
        return 2

    def matrix(self, u: Tensor, size: tuple[int, int]) -> Tensor:
        """Return shifts by random lengths."""
        height, width = size
        shift = uniform(u, -self.amount, self.amount)
        return matrices(1, 0, shift[:, 0] * width, 0, 1, shift[:, 1] * height)


@settings
class Elastic(Transformation):
    """Deform smoothly: points of a coarse grid move at random, the rest is interpolated (Ronneberger et al. 2015, 3.1).

    amount: maximum shift of a point, as a fraction of the side.
    points: number of grid points along each side.
    """

    amount: UnitInterval = 0.06
    points: Annotated[int, Interval(ge=2, le=32)] = 4

    @property
    def num_draws(self) -> int:
        """Return two for each point."""
        return 2 * self.points**2

    def apply(self, x: Tensor, u: Tensor) -> Tensor:
        """Displace the pixels, with bicubic interpolation between the points."""
        moved = (
            uniform(u, -2 * self.amount, 2 * self.amount).to(x, non_blocking=True).view(-1, 2, self.points, self.points)
        )
        rows, columns = (_bicubic(self.points, side).to(x, non_blocking=True) for side in x.shape[2:])
        return displace(x, torch.einsum("hi,bdij,wj->bhwd", rows, moved, columns))


def matrices(*rows: Tensor | float) -> Tensor:
    """Return matrices (B, 3, 3) float64 from the six values of their first two rows, each a number or a tensor (B,)."""
    size = next(len(value) for value in rows if isinstance(value, Tensor))
    values = [torch.as_tensor(value, dtype=torch.float64).expand(size) for value in (*rows, 0.0, 0.0, 1.0)]
    return torch.stack(values, 1).view(-1, 3, 3)


def rotation(degrees: Tensor) -> Tensor:
    """Return matrices (B, 3, 3) of counter-clockwise rotations by `degrees` (B,)."""
    turn = degrees * (math.pi / 180)
    return matrices(turn.cos(), turn.sin(), 0, -turn.sin(), turn.cos(), 0)


def warp(x: Tensor, matrix: Tensor) -> Tensor:
    """Transform the pictures by matrices (B, 3, 3) in pixels, bilinearly."""
    height, width = x.shape[2:]
    half = torch.tensor([width / 2, height / 2], dtype=torch.float64)  # torch's positions are -1 .. 1
    source = torch.linalg.inv(matrix)[:, :2] * torch.cat([half, torch.ones(1, dtype=torch.float64)]) / half[:, None]
    # (B, 1, 1, 2) each; faster than affine_grid
    by_column, by_row, constant = source.to(x, non_blocking=True)[:, None, None].unbind(4)
    columns, rows = _centres(width, x).view(1, 1, -1, 1), _centres(height, x).view(1, -1, 1, 1)
    return _sampled(x, by_column * columns + (by_row * rows + constant))


def displace(x: Tensor, displacement: Tensor) -> Tensor:
    """Fetch each pixel from `displacement` (B, H, W, 2) away, in (columns, rows), in units of half a side."""
    rows, columns = torch.meshgrid(_centres(x.shape[2], x), _centres(x.shape[3], x), indexing="ij")
    return _sampled(x, displacement + torch.stack([columns, rows], 2))


def _centres(side: int, x: Tensor) -> Tensor:
    """Return torch's coordinates of pixel centres: -1 .. 1 is the whole side."""
    return (torch.arange(side, device=x.device) + 0.5) * (2 / side) - 1


def _sampled(x: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _bicubic(points: int, side: int) -> Tensor:
    """Return weights (side, points) that interpolate `side` values between the points; the ends coincide."""
    return F.interpolate(torch.eye(points)[None, None], (side, points), mode="bicubic", align_corners=True)[0, 0]
