"""Transformations of brightness, contrast and colour, and blur. Shapes: see base.py."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Transformation, check_colours, check_within, per_sample, picked, positions, replaced, uniform
from .spatial import separable


@dataclass(frozen=True, kw_only=True, slots=True)
class _Factor(Transformation):
    """A factor around 1."""

    amount: float = 0.4

    def __post_init__(self) -> None:
        check_within("amount", self.amount, 0, 1)

    def factors(self, u: Tensor) -> Tensor:
        """Factors (B,) in [1 - amount, 1 + amount)."""
        return uniform(u[:, 0], 1 - self.amount, 1 + self.amount)


@dataclass(frozen=True, kw_only=True, slots=True)
class Brightness(_Factor):
    """Multiply by a factor.

    amount: the factor is in 1 - amount .. 1 + amount.
    """

    def apply(self, x: Tensor, u: Tensor) -> Tensor:
        """Brighter or darker."""
        return brightness(x, self.factors(u))


@dataclass(frozen=True, kw_only=True, slots=True)
class Contrast(_Factor):
    """Multiply the distance from the picture's mean grey by a factor.

    amount: the factor is in 1 - amount .. 1 + amount.
    """

    def apply(self, x: Tensor, u: Tensor) -> Tensor:
        """More or less."""
        return contrast(x, self.factors(u))


@dataclass(frozen=True, kw_only=True, slots=True)
class Colour(_Factor):
    """Multiply each pixel's distance from its own grey (its saturation) by a factor.

    amount: the factor is in 1 - amount .. 1 + amount.
    """

    def apply(self, x: Tensor, u: Tensor) -> Tensor:
        """More or less."""
        return colour(x, self.factors(u))

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Grey pictures have no colour."""
        check_colours(shape, "changing the colour")


@dataclass(frozen=True, kw_only=True, slots=True)
class Hue(Transformation):
    """Turn all colours around the circle of hues.

    amount: at most so far, either way, as a fraction of the circle.
    """

    amount: float = 0.1

    def __post_init__(self) -> None:
        check_within("amount", self.amount, 0, 0.5)

    def apply(self, x: Tensor, u: Tensor) -> Tensor:
        """Grey stays grey."""
        return hue(x, uniform(u[:, 0], -self.amount, self.amount))

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Grey pictures have no colour."""
        check_colours(shape, "changing the hue")


@dataclass(frozen=True, kw_only=True, slots=True)
class Greyscale(Transformation):
    """Take all colour away, of some pictures.

    p: the probability.
    """

    p: float = 0.2

    def __post_init__(self) -> None:
        check_within("p", self.p, 0, 1)

    def apply(self, x: Tensor, u: Tensor) -> Tensor:
        """Three equal channels."""
        chosen = positions(u[:, 0] < self.p)
        return replaced(x, chosen, luminance(picked(x, chosen)).expand(-1, 3, -1, -1))

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Grey pictures have no colour."""
        check_colours(shape, "greyscale")


@dataclass(frozen=True, kw_only=True, slots=True)
class Blur(Transformation):
    """Gaussian blur, of some pictures (Chen et al. 2020, SimCLR).

    p: the probability.
    low: the smallest standard deviation, in pixels.
    high: the largest.
    """

    p: float = 0.5
    low: float = 0.1
    high: float = 1.0

    def __post_init__(self) -> None:
        check_within("p", self.p, 0, 1)
        check_within("high", self.high, 0, 100)
        if not 0 < self.low <= self.high:
            raise ValueError(f"low={self.low!r}: must be above 0 and at most high={self.high!r}")

    @property
    def num_draws(self) -> int:
        """Whether, and how much."""
        return 2

    def apply(self, x: Tensor, u: Tensor) -> Tensor:
        """Beyond the edges pictures are mirrored."""
        chosen = positions(u[:, 0] < self.p)
        return replaced(x, chosen, blur(picked(x, chosen), uniform(u[chosen, 1], self.low, self.high)))


def blend(x: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """`factor` (B,) times the pictures, and 1 - factor times `other` (B, 1 or C, ...), within [0, 1]."""
    return torch.lerp(other, x, per_sample(factor, x)).clamp_(0, 1)


def brightness(x: Tensor, factor: Tensor) -> Tensor:
    """Multiply by `factor` (B,)."""
    return (x * per_sample(factor, x)).clamp_(0, 1)


def contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Blend with each picture's mean grey."""
    return blend(x, luminance(x).mean((1, 2, 3), keepdim=True), factor)


def colour(x: Tensor, factor: Tensor) -> Tensor:
    """Blend with the grey picture; one that is grey stays as it is."""
    return blend(x, luminance(x), factor)


def luminance(x: Tensor) -> Tensor:
    """Grey pictures (B, 1, H, W), colours weighted as ITU-R BT.601 does; others than three channels by their mean."""
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    red, green, blue = x.split(1, 1)
    grey: Tensor = 0.2989 * red + 0.587 * green + 0.114 * blue
    return grey


def hue(x: Tensor, turn: Tensor) -> Tensor:
    """Turn hues by `turn` (B,), in circles; value and saturation of HSV stay."""
    red, green, blue = (channel.contiguous() for channel in x.unbind(1))
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    led_by_green_or_blue = torch.where(value == green, blue - red + 2 * chroma, red - green + 4 * chroma)
    angle = torch.where(value == red, green - blue, led_by_green_or_blue)
    sixths = angle.div_(chroma.clamp(min=1e-12)).add_(per_sample(6 * turn, x)[:, 0])
    turned = []
    for offset in (5, 3, 1):
        place = (sixths + offset).div_(6)
        place.sub_(place.floor()).mul_(6)
        # a channel is at `value` within a sixth of its own hue, and below by all of `chroma` beyond two
        turned.append(value - chroma * torch.minimum(place, 4 - place).clamp_(0, 1))
    return torch.stack(turned, 1)


def blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Convolve with Gaussians of `sigma` (B,) pixels, cut off at four of them, mirrored beyond the edges."""
    if not len(x):
        return x
    radius = min(math.ceil(4 * float(sigma.max())), min(x.shape[2:]) - 1)
    steps = torch.arange(-radius, radius + 1)
    weights = torch.exp(-0.5 * (steps / sigma[:, None]) ** 2)
    weights = weights / weights.sum(1, keepdim=True)
    rows, columns = (_mirrored(weights, steps, side).to(x, non_blocking=True) for side in x.shape[2:])
    return separable(x, rows, columns)


def _mirrored(weights: Tensor, steps: Tensor, side: int) -> Tensor:
    """Weights (B, side, side) of a filter (B, n) over a line whose ends are mirrors."""
    source = (torch.arange(side)[:, None] + steps).abs()
    source = torch.where(source >= side, 2 * (side - 1) - source, source)
    taken = (source[:, :, None] == torch.arange(side)).to(weights)  # (side, n, side): which pixel a weight is for
    mixed: Tensor = torch.einsum("bn,ans->bas", weights, taken)
    return mixed
