"""All classes in each experience, in one of the data set's own domains (styles, sources, sessions)."""

from dataclasses import dataclass

from ..platform.data import dataset_key, domain_streams
from ..platform.data.cache import DataFolders
from ..platform.data.streams import Stream


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(domain_streams.DomainSplit):
    """All classes in each experience, in one of the data set's own domains (styles, sources, sessions).

    Where no domain has both training and test pictures (CORe50), each is tested on all of the latter.

    data: the data set: a name, or one name with its settings.
    """

    data: dataset_key.DataKey

    def __post_init__(self) -> None:
        domain_streams.DomainSplit.__post_init__(self)
        object.__setattr__(self, "data", dataset_key.with_defaults(self.data))


def build(config: Config, seed: int, folders: DataFolders) -> Stream:
    """Build the stream; `seed` draws the validation pictures and what the variants draw."""
    return domain_streams.by_domain("domain_incremental", dataset_key.load_data_set(config.data, folders), config, seed)
