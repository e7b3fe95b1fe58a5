"""Transformations of brightness, contrast and colour, and blur. Shapes: see `augmentation.base`."""

import math
from typing import Annotated

import torch
from annotated_types import Interval
from torch import Tensor

from ...config.settings import UnitInterval, settings
from .base import Transformation, check_colours, per_sample, replace_at, select, true_indices, uniform
from .spatial import separable


@settings
class _Factor(Transformation):
    """A transformation by a factor around 1."""

    amount: UnitInterval = 0.4

    def factors(self, u: Tensor) -> Tensor:
        """Return factors (B,) in [1 - amount, 1 + amount)."""
        return uniform(u[:, 0], 1 - self.amount, 1 + self.amount)


@settings
class Brightness(_Factor):
    """Multiply by a factor.

    amount: the factor is in 1 - amount .. 1 + amount.
    """

    def apply(self, x: Tensor, u: Tensor) -> Tensor:
        """Change the brightness."""
        return brightness(x, self.factors(u))


@settings
class Contrast(_Factor):
    """Multiply the distance from the picture's mean grey by a factor.

    amount: the factor is in 1 - amount .. 1 + amount.
    """

    def apply(self, x: Tensor, u: Tensor) -> Tensor:
        """Change the contrast."""
        return contrast(x, self.factors(u))


@settings
class Colour(_Factor):
    """Multiply each pixel's distance from its grey value (its saturation) by a factor.

    amount: the factor is in 1 - amount .. 1 + amount.
    """

    def apply(self, x: Tensor, u: Tensor) -> Tensor:
        """Change the saturation."""
        return colour(x, self.factors(u))

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError for grey pictures, which have no colour."""
        check_colours(shape, "changing the colour")


@settings
class Hue(Transformation):
    """Shift all hues around the colour circle.

    amount: maximum shift in either direction, as a fraction of the circle.
    """

    amount: Annotated[float, Interval(ge=0, le=0.5)] = 0.1

    def apply(self, x: Tensor, u: Tensor) -> Tensor:
        """Shift the hues; grey stays grey."""
        return hue(x, uniform(u[:, 0], -self.amount, self.amount))

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError for grey pictures, which have no colour."""
        check_colours(shape, "changing the hue")


@settings
class Greyscale(Transformation):
    """Remove all colour from some pictures.

    p: probability.
    """

    p: UnitInterval = 0.2

    def apply(self, x: Tensor, u: Tensor) -> Tensor:
        """Replace some pictures by their grey version, in three equal channels."""
        chosen = true_indices(u[:, 0] < self.p)
        return replace_at(x, chosen, luminance(select(x, chosen)).expand(-1, 3, -1, -1))

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError for grey pictures, which have no colour."""
        check_colours(shape, "greyscale")


@settings
class Blur(Transformation):
    """Blur some pictures with a Gaussian (Chen et al. 2020, SimCLR).

    p: probability.
    low: smallest standard deviation, in pixels.
    high: largest standard deviation, in pixels.
    """

    p: UnitInterval = 0.5
    low: float = 0.1
    high: Annotated[float, Interval(ge=0, le=100)] = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high:
            raise ValueError(f"low={self.low!r}: must be above 0 and at most high={self.high!r}")

    @property
    def num_draws(self) -> int:
        """Return 2: whether and how much."""
        return 2

    def apply(self, x: Tensor, u: Tensor) -> Tensor:
        """Blur some pictures; they are mirrored beyond the edges."""
        chosen = true_indices(u[:, 0] < self.p)
        return replace_at(x, chosen, blur(select(x, chosen), uniform(u[chosen, 1], self.low, self.high)))


def blend(x: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """Return factor * x + (1 - factor) * other, clamped to [0, 1]; `factor` (B,), `other` (B, 1 or C, ...)."""
    return torch.lerp(other, x, per_sample(factor, x)).clamp_(0, 1)


def brightness(x: Tensor, factor: Tensor) -> Tensor:
    """Multiply by `factor` (B,)."""
    return (x * per_sample(factor, x)).clamp_(0, 1)


def contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Blend with each picture's mean grey."""
    return blend(x, luminance(x).mean((1, 2, 3), keepdim=True), factor)


def colour(x: Tensor, factor: Tensor) -> Tensor:
    """Blend with the grey version; grey pictures stay the same."""
    return blend(x, luminance(x), factor)


def luminance(x: Tensor) -> Tensor:
    """Return grey pictures (B, 1, H, W): colours weighted as in ITU-R BT.601, the mean unless there are three channels."""
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    red, green, blue = x.split(1, 1)
    grey: Tensor = 0.2989 * red + 0.587 * green + 0.114 * blue
    return grey


def hue(x: Tensor, turn: Tensor) -> Tensor:
    """Shift hues by `turn` (B,), in full circles; HSV's value and saturation stay the same."""
    red, green, blue = (channel.contiguous() for channel in x.unbind(1))
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    led_by_green_or_blue = torch.where(value == green, blue - red + 2 * chroma, red - green + 4 * chroma)
    angle = torch.where(value == red, green - blue, led_by_green_or_blue)
    sixths = angle.div_(chroma.clamp(min=1e-12)).add_(per_sample(6 * turn, x)[:, 0])
    turned = []
    for offset in (5, 3, 1):
        sector = (sixths + offset).div_(6)
        sector.sub_(sector.floor()).mul_(6)
        # a channel equals `value` within a sixth of its hue, and `value - chroma` beyond two sixths
        turned.append(value - chroma * torch.minimum(sector, 4 - sector).clamp_(0, 1))
    return torch.stack(turned, 1)


def blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Convolve with Gaussians of `sigma` (B,) pixels, cut off at four sigma; pictures are mirrored beyond the edges."""
    if not len(x):
        return x
    radius = min(math.ceil(4 * float(sigma.max())), min(x.shape[2:]) - 1)
    steps = torch.arange(-radius, radius + 1)
    weights = torch.exp(-0.5 * (steps / sigma[:, None]) ** 2)
    weights = weights / weights.sum(1, keepdim=True)
    rows, columns = (_mirrored(weights, steps, side).to(x, non_blocking=True) for side in x.shape[2:])
    return separable(x, rows, columns)


def _mirrored(weights: Tensor, steps: Tensor, side: int) -> Tensor:
    """Return the weights (B, side, side) of a filter (B, n) over a line that is mirrored at its ends."""
    source = (torch.arange(side)[:, None] + steps).abs()
    source = torch.where(source >= side, 2 * (side - 1) - source, source)
    taken = (source[:, :, None] == torch.arange(side)).to(weights)  # (side, n, side): which pixel a weight is for
    mixed: Tensor = torch.einsum("bn,ans->bas", weights, taken)
    return mixed
