"""Rotated scikit-learn's 8x8 digits: the same ten classes, turned by another angle in each domain."""

from dataclasses import dataclass

from ..platform import transformed
from ..platform.cache import DataFolders
from ..platform.datasets import digits
from ..platform.streams import Stream


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(transformed.Rotated):
    """Rotated scikit-learn's 8x8 digits: the same ten classes, turned by another angle in each domain.

    angles: counter-clockwise, in degrees, one domain each, in this order (default 0, 30, 60, 90, 120).
    """


def build(config: Config, seed: int, data: DataFolders) -> Stream:
    """Build the stream; `seed` draws the validation pictures."""
    return transformed.rotated("rotated_digits", digits.build(digits.Config(), data), config, seed, data)
