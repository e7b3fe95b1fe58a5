"""Permuted MNIST: the same ten classes, under another permutation of the pixels in each domain."""

from dataclasses import dataclass

from ..platform.data import synthetic_domain_streams
from ..platform.data.cache import DataFolders
from ..platform.data.datasets import mnist
from ..platform.data.streams import Stream


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(synthetic_domain_streams.Permuted):
    """Permuted MNIST: the same ten classes, under another permutation of the pixels in each domain.

    num_experiences: how many domains (default 5); the first is unpermuted, the others are drawn by the seed.
    """


def build(config: Config, seed: int, data: DataFolders) -> Stream:
    """Build the stream; `seed` draws the permutations and the validation pictures."""
    return synthetic_domain_streams.permuted("permuted_mnist", mnist.build(mnist.Config(), data), config, seed)
