"""Policies that choose among many operations for each sample: RandAugment and AugMix. Shapes: see `augmentation.base`."""

from collections.abc import Callable, Mapping
from typing import Annotated

import torch
from annotated_types import Interval
from torch import Tensor

from ...config.settings import settings
from .affine import matrices, rotation, warp
from .base import Transformation, per_sample, replace_at, select, true_indices, uniform
from .colour import brightness, colour, contrast
from .tones import autocontrast, equalize, posterize, sharpness, solarize

Operation = Callable[[Tensor, Tensor], Tensor]  # pictures (n, C, H, W), strengths (n,) in [-1, 1]
_WIDTH, _DEPTH = 3, 3  # AugMix: number of chains, and maximum length of a chain


def _shear_x(x: Tensor, amount: Tensor) -> Tensor:
    return warp(x, matrices(1, amount, 0, 0, 1, 0))


def _shear_y(x: Tensor, amount: Tensor) -> Tensor:
    return warp(x, matrices(1, 0, 0, amount, 1, 0))


def _move_x(x: Tensor, amount: Tensor) -> Tensor:
    return warp(x, matrices(1, 0, amount * x.shape[3], 0, 1, 0))


def _move_y(x: Tensor, amount: Tensor) -> Tensor:
    return warp(x, matrices(1, 0, 0, 0, 1, amount * x.shape[2]))


RANDAUGMENT: Mapping[str, Operation] = {
    "identity": lambda x, s: x,
    "shear_x": lambda x, s: _shear_x(x, 0.3 * s),
    "shear_y": lambda x, s: _shear_y(x, 0.3 * s),
    "translate_x": lambda x, s: _move_x(x, 150 / 331 * s),
    "translate_y": lambda x, s: _move_y(x, 150 / 331 * s),
    "rotate": lambda x, s: warp(x, rotation(30 * s)),
    "brightness": lambda x, s: brightness(x, 1 + 0.9 * s),
    "colour": lambda x, s: colour(x, 1 + 0.9 * s),
    "contrast": lambda x, s: contrast(x, 1 + 0.9 * s),
    "sharpness": lambda x, s: sharpness(x, 1 + 0.9 * s),
    "posterize": lambda x, s: posterize(x, 8 - (4 * s.abs()).round()),
    "solarize": lambda x, s: solarize(x, 255 * (1 - s.abs())),
    "autocontrast": lambda x, s: autocontrast(x),
    "equalize": lambda x, s: equalize(x),
}
AUGMIX: Mapping[str, Operation] = {
    "autocontrast": lambda x, s: autocontrast(x),
    "equalize": lambda x, s: equalize(x),
    "posterize": lambda x, s: posterize(x, 4 - (4 * s.abs()).floor()),
    "rotate": lambda x, s: warp(x, rotation(30 * s)),
    "solarize": lambda x, s: solarize(x, 256 - (256 * s.abs()).floor()),
    "shear_x": lambda x, s: _shear_x(x, 0.3 * s),
    "shear_y": lambda x, s: _shear_y(x, 0.3 * s),
    "translate_x": lambda x, s: _move_x(x, s / 3),
    "translate_y": lambda x, s: _move_y(x, s / 3),
}


@settings
class RandAugment(Transformation):
    """Random operations out of fourteen, all of one strength (Cubuk et al. 2020), with torchvision's ranges.

    Shears are about the picture's centre and resampling is bilinear. `colour` has no effect on grey pictures.
    num_ops: number of operations, applied in sequence.
    magnitude: strength, 0..30.
    """

    num_ops: Annotated[int, Interval(ge=1, le=14)] = 2
    magnitude: Annotated[int, Interval(ge=0, le=30)] = 9

    @property
    def num_draws(self) -> int:
        """Return two per operation: which one, and its sign."""
        return 2 * self.num_ops

    def apply(self, x: Tensor, u: Tensor) -> Tensor:
        """Apply the operations in sequence."""
        for draw in u.view(len(u), -1, 2).unbind(1):
            strength = _either_way(draw[:, 1], torch.full((len(u),), self.magnitude / 30))
            x = by_choice(x, RANDAUGMENT, draw[:, 0], strength)
        return x


@settings
class AugMix(Transformation):
    """Three chains of one to three operations, mixed with each other and with the picture (Hendrycks et al. 2020).

    Without the paper's consistency loss. The mixing weights are uniform (the paper's alpha = 1).
    severity: an operation's strength is sampled from 0.1..severity, out of 10.
    """

    severity: Annotated[float, Interval(ge=0.1, le=10)] = 3.0

    @property
    def num_draws(self) -> int:
        """Return k: per operation its choice, strength and sign; per chain its length and weight; the picture's weight."""
        return _WIDTH * (3 * _DEPTH + 2) + 1

    def apply(self, x: Tensor, u: Tensor) -> Tensor:
        """Mix the chains, then mix the result with the picture."""
        chains = u[:, 1:].view(len(u), _WIDTH, -1)
        weights = -torch.log1p(-chains[:, :, 0])  # exponential; divided by their sum: uniform Dirichlet
        weights = weights / weights.sum(1, keepdim=True)
        mixed = torch.zeros_like(x)
        for weight, chain in zip(weights.unbind(1), chains.unbind(1), strict=True):
            mixed += per_sample(weight, x) * self._chain(x, chain[:, 1], chain[:, 2:].view(len(u), _DEPTH, 3))
        return torch.lerp(x, mixed, per_sample(u[:, 0], x))

    def _chain(self, x: Tensor, length: Tensor, draws: Tensor) -> Tensor:
        """Apply one to three operations in sequence, as each sample's `length` (B,) in [0, 1) determines."""
        for number, draw in enumerate(draws.unbind(1)):
            chosen = true_indices((length * _DEPTH).long() >= number)
            which, level, sign = draw[chosen].unbind(1)
            strength = _either_way(sign, uniform(level, 0.1, self.severity) / 10)
            x = replace_at(x, chosen, by_choice(select(x, chosen), AUGMIX, which, strength))
        return x


def by_choice(x: Tensor, operations: Mapping[str, Operation], which: Tensor, strength: Tensor) -> Tensor:
    """Apply one operation to each sample: `which` (B,) in [0, 1) selects it, `strength` (B,) is its strength."""
    numbers = (which * len(operations)).long()
    out = x.clone()
    for number, operation in enumerate(operations.values()):
        chosen = true_indices(numbers == number)
        if len(chosen):
            out.index_copy_(0, chosen.to(x.device, non_blocking=True), operation(select(x, chosen), strength[chosen]))
    return out


def _either_way(sign: Tensor, strength: Tensor) -> Tensor:
    return torch.where(sign < 0.5, -strength, strength)
