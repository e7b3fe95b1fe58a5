"""The same classes, under another permutation of the pixels in each domain, over any data set."""

from dataclasses import dataclass

from ..platform.data import dataset_key, synthetic_domain_streams
from ..platform.data.cache import DataFolders
from ..platform.data.streams import Stream


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(synthetic_domain_streams.Permuted):
    """The same classes, under another permutation of the pixels in each domain, over any data set.

    data: the data set: a name, or one name with its settings.
    """

    data: dataset_key.DataKey

    def __post_init__(self) -> None:
        synthetic_domain_streams.Permuted.__post_init__(self)
        object.__setattr__(self, "data", dataset_key.with_defaults(self.data))


def build(config: Config, seed: int, folders: DataFolders) -> Stream:
    """Build the stream; `seed` draws the permutations, the validation pictures and what the variants draw."""
    return synthetic_domain_streams.permuted("permuted", dataset_key.load_data_set(config.data, folders), config, seed)
