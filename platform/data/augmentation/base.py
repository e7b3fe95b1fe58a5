"""The base class of transformations, and helpers for them.

Shapes: B samples of a mini-batch, k random numbers per sample, C channels, H height, W width.
"""

import torch
from torch import Tensor


class Transformation:
    """A random change of pictures. A subclass is a dataclass of its settings, made with ``@settings``.

    The result for a sample depends only on its row of random numbers, which the caller of `apply` samples. So it depends neither
    on earlier random numbers nor on the device of the pictures.
    """

    __slots__ = ()

    @property
    def num_draws(self) -> int:
        """Return k, the number of random numbers per sample."""
        return 1

    def apply(self, x: Tensor, u: Tensor) -> Tensor:
        """Return the transformed pictures.

        Args:
            x: pictures (B, C, H, W) float32 in [0, 1]; not changed in place.
            u: random numbers (B, k) float64, uniform in [0, 1), on the CPU.
        """
        raise NotImplementedError

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError, with the setting or the reason, if pictures of this shape (C, H, W) are not supported."""


def per_sample(values: Tensor, x: Tensor) -> Tensor:
    """Reshape one number per sample (B,) to (B, 1, 1, 1), with the pictures' type and device."""
    return values.to(x, non_blocking=True).view(-1, 1, 1, 1)


def uniform(u: Tensor, low: float, high: float) -> Tensor:
    """Map uniform numbers in [0, 1) to [low, high)."""
    return low + (high - low) * u


def replace_at(x: Tensor, chosen: Tensor, new: Tensor) -> Tensor:
    """Return a copy of the pictures with those at the indices `chosen` (n,) replaced by `new` (n, C, H, W)."""
    return x.index_copy(0, chosen.to(x.device, non_blocking=True), new)


def select(x: Tensor, chosen: Tensor) -> Tensor:
    """Return the pictures at the indices `chosen` (n,)."""
    return x.index_select(0, chosen.to(x.device, non_blocking=True))


def true_indices(chosen: Tensor) -> Tensor:
    """Return the indices at which a mask (B,) is true; on the CPU, so that nothing waits for a GPU."""
    return torch.nonzero(chosen).flatten()


def check_side(name: str, value: int, shape: tuple[int, ...]) -> None:
    """Raise ValueError for a length that is not below the pictures' shorter side."""
    if value >= min(shape[1:]):
        raise ValueError(f"{name}={value!r}: must be below the pictures' side, {min(shape[1:])}")


def check_colours(shape: tuple[int, ...], what: str) -> None:
    """Raise ValueError for pictures without three colour channels."""
    if shape[0] != 3:
        raise ValueError(f"{what} needs pictures with three colour channels; these have {shape[0]}")
