"""The same classes, under another permutation of the pixels in each domain, over any data set."""

from dataclasses import dataclass

from ..platform import sources, transformed
from ..platform.cache import DataFolders
from ..platform.streams import Stream


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(transformed.Permuted):
    """The same classes, under another permutation of the pixels in each domain, over any data set.

    data: the data set: a name, or one name with its settings.
    """

    data: sources.Source

    def __post_init__(self) -> None:
        transformed.Permuted.__post_init__(self)
        object.__setattr__(self, "data", sources.checked(self.data))


def build(config: Config, seed: int, folders: DataFolders) -> Stream:
    """Build the stream; `seed` draws the permutations, the validation pictures and what the variants draw."""
    return transformed.permuted("permuted", sources.load(config.data, folders), config, seed)
