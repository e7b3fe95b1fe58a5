"""All classes in each experience, each in another domain of the data set (styles, sources, sessions)."""

from dataclasses import dataclass

from ..platform.data import dataset_key, domain_streams
from ..platform.data.cache import DataFolders
from ..platform.data.streams import Stream


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(domain_streams.DomainSplit):
    """All classes in each experience, each in another domain of the data set (styles, sources, sessions).

    If no domain has both training and test pictures (CORe50), each experience is tested on all test pictures.

    data: the data set, as a name or as one name with its settings.
    """

    data: dataset_key.DataKey

    def __post_init__(self) -> None:
        domain_streams.DomainSplit.__post_init__(self)
        object.__setattr__(self, "data", dataset_key.with_defaults(self.data))


def build(config: Config, seed: int, folders: DataFolders, name: str = "domain_incremental") -> Stream:
    """Build the stream; `seed` determines the validation pictures and the subsets."""
    return domain_streams.by_domain(name, dataset_key.load_data_set(config.data, folders), config, seed)
