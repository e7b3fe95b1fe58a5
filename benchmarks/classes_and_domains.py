"""New instances and classes: each experience is a group of classes in one domain, on a data set with domains."""

from dataclasses import dataclass

from ..platform.data import dataset_key, domain_streams
from ..platform.data.cache import DataFolders
from ..platform.data.streams import Stream


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(domain_streams.MixedSplit):
    """New instances and classes: each experience is a group of classes in one domain, on a data set with domains.

    Each class returns in each domain. The task-aware view chooses among the classes of the experience.

    data: the data set, as a name or as one name with its settings.
    """

    data: dataset_key.DataKey

    def __post_init__(self) -> None:
        domain_streams.MixedSplit.__post_init__(self)
        object.__setattr__(self, "data", dataset_key.with_defaults(self.data))


def build(config: Config, seed: int, folders: DataFolders, name: str = "classes_and_domains") -> Stream:
    """Build the stream; `seed` determines the order of classes and pairs, the validation pictures and the subsets."""
    return domain_streams.by_class_and_domain(name, dataset_key.load_data_set(config.data, folders), config, seed)
