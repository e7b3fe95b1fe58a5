"""Rotated Fashion-MNIST: the same ten classes, turned by another angle in each domain."""

from dataclasses import dataclass

from ..platform import splits
from ..platform.cache import DataFolders
from ..platform.datasets import fashion_mnist
from ..platform.streams import Stream


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(splits.Rotated):
    """Rotated Fashion-MNIST: the same ten classes, turned by another angle in each domain.

    angles: counter-clockwise, in degrees, one domain each, in this order (default 0, 30, 60, 90, 120).
    validation: fraction of each class's training pictures kept for validation (default 0.1; 0: none),
        the same pictures in each domain.
    """


def build(config: Config, seed: int, data: DataFolders) -> Stream:
    """Build the stream; `seed` draws the validation pictures."""
    return splits.rotated(
        "rotated_fashion_mnist", fashion_mnist.build(fashion_mnist.Config(), data), config, seed, data
    )
