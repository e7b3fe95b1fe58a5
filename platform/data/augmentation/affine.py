"""Transformations that resample: rotation, scale, translation (together one resampling), elastic. Shapes: see base.py.

Positions are (column, row) in pixels from the picture's centre, rows going down; what comes from outside is black.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Transformation, check_within, uniform


class Affine(Transformation):
    """A transformation that is a matrix."""

    __slots__ = ()

    def matrix(self, u: Tensor, size: tuple[int, int]) -> Tensor:
        """Matrices (B, 3, 3) float64 that take a position (x, y, 1) to its new one; `size` is (H, W)."""
        raise NotImplementedError

    def apply(self, x: Tensor, u: Tensor) -> Tensor:
        """This one alone."""
        return warp(x, self.matrix(u, (x.shape[2], x.shape[3])))


@dataclass(frozen=True, kw_only=True, slots=True)
class Rotation(Affine):
    """Turn about the centre.

    degrees: at most so far, either way.
    """

    degrees: float = 15.0

    def __post_init__(self) -> None:
        check_within("degrees", self.degrees, 0, 180)

    def matrix(self, u: Tensor, size: tuple[int, int]) -> Tensor:
        """Of an angle."""
        return rotation(uniform(u[:, 0], -self.degrees, self.degrees))


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale(Affine):
    """Enlarge or shrink about the centre.

    low: the smallest factor.
    high: the largest.
    """

    low: float = 0.9
    high: float = 1.1

    def __post_init__(self) -> None:
        check_within("high", self.high, 0.1, 10)
        if not 0.1 <= self.low <= self.high:
            raise ValueError(f"low={self.low!r}: must be in [0.1, high={self.high!r}]")

    def matrix(self, u: Tensor, size: tuple[int, int]) -> Tensor:
        """Of a factor."""
        factor = uniform(u[:, 0], self.low, self.high)
        return matrices(factor, 0, 0, 0, factor, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Translation(Affine):
    """Move, by fractions of a pixel too.

    amount: at most so far, up or down and left or right, as a fraction of the side.
    """

    amount: float = 0.1

    def __post_init__(self) -> None:
        check_within("amount", self.amount, 0, 1)

    @property
    def num_draws(self) -> int:
        """Columns and rows."""
        return 2

    def matrix(self, u: Tensor, size: tuple[int, int]) -> Tensor:
        """Of two lengths."""
        height, width = size
        way = uniform(u, -self.amount, self.amount)
        return matrices(1, 0, way[:, 0] * width, 0, 1, way[:, 1] * height)


@dataclass(frozen=True, kw_only=True, slots=True)
class Elastic(Transformation):
    """Bend: points of a coarse grid move at random, what lies between them smoothly with them (Ronneberger et al. 2015, 3.1).

    amount: a point moves at most so far, as a fraction of the side.
    points: of the grid, along each side.
    """

    amount: float = 0.06
    points: int = 4

    def __post_init__(self) -> None:
        check_within("amount", self.amount, 0, 1)
        check_within("points", self.points, 2, 32)

    @property
    def num_draws(self) -> int:
        """Two for each point."""
        return 2 * self.points**2

    def apply(self, x: Tensor, u: Tensor) -> Tensor:
        """Bicubic between the points."""
        moved = (
            uniform(u, -2 * self.amount, 2 * self.amount).to(x, non_blocking=True).view(-1, 2, self.points, self.points)
        )
        rows, columns = (_bicubic(self.points, side).to(x, non_blocking=True) for side in x.shape[2:])
        return displace(x, torch.einsum("hi,bdij,wj->bhwd", rows, moved, columns))


def matrices(*rows: Tensor | float) -> Tensor:
    """Matrices (B, 3, 3) float64 of their first two rows' six values, each a number or one for each sample (B,)."""
    size = next(len(value) for value in rows if isinstance(value, Tensor))
    values = [torch.as_tensor(value, dtype=torch.float64).expand(size) for value in (*rows, 0.0, 0.0, 1.0)]
    return torch.stack(values, 1).view(-1, 3, 3)


def rotation(degrees: Tensor) -> Tensor:
    """Counter-clockwise turns (B,) as matrices (B, 3, 3)."""
    turn = degrees * (math.pi / 180)
    return matrices(turn.cos(), turn.sin(), 0, -turn.sin(), turn.cos(), 0)


def warp(x: Tensor, matrix: Tensor) -> Tensor:
    """Move the pixels by matrices (B, 3, 3) of pixels, bilinearly."""
    height, width = x.shape[2:]
    half = torch.tensor([width / 2, height / 2], dtype=torch.float64)  # torch's own positions are -1 .. 1
    source = torch.linalg.inv(matrix)[:, :2] * torch.cat([half, torch.ones(1, dtype=torch.float64)]) / half[:, None]
    by_column, by_row, constant = source.to(x, non_blocking=True)[:, None, None].unbind(
        4
    )  # (B, 1, 1, 2) each; faster than affine_grid
    columns, rows = _centres(width, x).view(1, 1, -1, 1), _centres(height, x).view(1, -1, 1, 1)
    return _sampled(x, by_column * columns + (by_row * rows + constant))


def displace(x: Tensor, displacement: Tensor) -> Tensor:
    """Fetch each pixel from where `displacement` (B, H, W, 2) says: columns and rows away, where the side is 2 long."""
    rows, columns = torch.meshgrid(_centres(x.shape[2], x), _centres(x.shape[3], x), indexing="ij")
    return _sampled(x, displacement + torch.stack([columns, rows], 2))


def _centres(side: int, x: Tensor) -> Tensor:
    """Where torch has the centres of pixels: -1 .. 1 is the whole side."""
    return (torch.arange(side, device=x.device) + 0.5) * (2 / side) - 1


def _sampled(x: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _bicubic(points: int, side: int) -> Tensor:
    """Weights (side, points) that put `side` values between the points, the first and last of each at one place."""
    return F.interpolate(torch.eye(points)[None, None], (side, points), mode="bicubic", align_corners=True)[0, 0]
