"""Permuted 8x8 digits of scikit-learn: the same ten classes with a different pixel permutation in each domain."""

from dataclasses import dataclass

from ..platform.data import synthetic_domain_streams
from ..platform.data.cache import DataFolders
from ..platform.data.datasets import digits
from ..platform.data.streams import Stream


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(synthetic_domain_streams.Permuted):
    """Permuted 8x8 digits of scikit-learn: the same ten classes with a different pixel permutation in each domain.

    num_experiences: number of domains (default 5). The first is unpermuted; the seed samples the others.
    """


def build(config: Config, seed: int, data: DataFolders) -> Stream:
    """Build the stream; `seed` determines the permutations, the validation pictures and the subsets."""
    return synthetic_domain_streams.permuted("permuted_digits", digits.build(digits.Config(), data), config, seed)
