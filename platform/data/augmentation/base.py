"""What a transformation is. Shapes: B samples of a mini-batch, k random numbers of a sample, C channels, H height, W width."""

import torch
from torch import Tensor


class Transformation:
    """One kind of change to pictures. A subclass is a frozen dataclass of its settings, checked in `__post_init__`.

    What becomes of a sample depends on its own row of random numbers alone, drawn by whoever calls `apply`: so it does not
    matter what was drawn before, nor on which device the pictures are.
    """

    __slots__ = ()

    @property
    def num_draws(self) -> int:
        """k, how many random numbers a sample needs."""
        return 1

    def apply(self, x: Tensor, u: Tensor) -> Tensor:
        """Pictures (B, C, H, W) float32 in [0, 1], not changed in place -> such pictures.

        `u` (B, k) float64 is uniform in [0, 1), on the CPU.
        """
        raise NotImplementedError

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError, with the setting or the reason, where pictures of this shape (C, H, W) cannot be had."""


def per_sample(values: Tensor, x: Tensor) -> Tensor:
    """One number for each sample (B,) -> (B, 1, 1, 1), of the pictures' type and on their device."""
    return values.to(x, non_blocking=True).view(-1, 1, 1, 1)


def uniform(u: Tensor, low: float, high: float) -> Tensor:
    """Uniform numbers in [0, 1) -> in [low, high)."""
    return low + (high - low) * u


def replaced(x: Tensor, chosen: Tensor, new: Tensor) -> Tensor:
    """The pictures with those at the positions `chosen` (n,) replaced by `new` (n, C, H, W)."""
    return x.index_copy(0, chosen.to(x.device, non_blocking=True), new)


def picked(x: Tensor, chosen: Tensor) -> Tensor:
    """The pictures at the positions `chosen` (n,)."""
    return x.index_select(0, chosen.to(x.device, non_blocking=True))


def positions(chosen: Tensor) -> Tensor:
    """Where a mask (B,) is true; on the CPU, so that nothing waits for a GPU."""
    return torch.nonzero(chosen).flatten()


def check_within(name: str, value: float, low: float, high: float) -> None:
    """Refuse a setting outside of [low, high], NaN too."""
    if not low <= value <= high:
        raise ValueError(f"{name}={value!r}: must be in [{low:g}, {high:g}]")


def check_side(name: str, value: int, shape: tuple[int, ...]) -> None:
    """Refuse a length that is not below the pictures' shorter side."""
    if value >= min(shape[1:]):
        raise ValueError(f"{name}={value!r}: must be below the pictures' side, {min(shape[1:])}")


def check_colours(shape: tuple[int, ...], what: str) -> None:
    """Refuse pictures without three colour channels."""
    if shape[0] != 3:
        raise ValueError(f"{what} needs pictures with three colour channels; these have {shape[0]}")
