"""The same classes with different colours or another style in each domain, on any data set."""

from dataclasses import dataclass

from ..platform.data import dataset_key, synthetic_domain_streams
from ..platform.data.cache import DataFolders
from ..platform.data.streams import Stream


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(synthetic_domain_streams.Restyled):
    """The same classes with different colours or another style in each domain, on any data set.

    data: the data set, as a name or as one name with its settings.
    """

    data: dataset_key.DataKey

    def __post_init__(self) -> None:
        synthetic_domain_streams.Restyled.__post_init__(self)
        object.__setattr__(self, "data", dataset_key.with_defaults(self.data))


def build(config: Config, seed: int, folders: DataFolders, name: str = "restyled") -> Stream:
    """Build the stream; `seed` determines the validation pictures and the subsets."""
    return synthetic_domain_streams.restyled(
        name, dataset_key.load_data_set(config.data, folders), config, seed, folders
    )
