"""Rotated 8x8 digits of scikit-learn: the same ten classes, rotated by a different angle in each domain."""

from dataclasses import dataclass

from ..platform.data import synthetic_domain_streams
from ..platform.data.cache import DataFolders
from ..platform.data.datasets import digits
from ..platform.data.streams import Stream


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(synthetic_domain_streams.Rotated):
    """Rotated 8x8 digits of scikit-learn: the same ten classes, rotated by a different angle in each domain.

    angles: counter-clockwise, in degrees, one domain each, in this order (default 0, 30, 60, 90, 120).
    """


def build(config: Config, seed: int, data: DataFolders) -> Stream:
    """Build the stream; `seed` determines random angles, the validation pictures and the subsets."""
    return synthetic_domain_streams.rotated("rotated_digits", digits.build(digits.Config(), data), config, seed, data)
