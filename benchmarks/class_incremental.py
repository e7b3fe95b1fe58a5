"""New classes in each experience, classified among all classes, on any data set."""

from dataclasses import dataclass

from ..platform.data import class_streams, dataset_key
from ..platform.data.cache import DataFolders
from ..platform.data.streams import Stream


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(class_streams.ClassSplit):
    """New classes in each experience, classified among all classes, on any data set.

    For online learning (each sample seen once) set ``training: {epochs: 1}``.

    data: the data set, as a name or as one name with its settings.
    """

    data: dataset_key.DataKey

    def __post_init__(self) -> None:
        class_streams.ClassSplit.__post_init__(self)
        object.__setattr__(self, "data", dataset_key.with_defaults(self.data))
        self.check_classes(dataset_key.num_classes(self.data))


def build(config: Config, seed: int, folders: DataFolders, name: str = "class_incremental") -> Stream:
    """Build the stream; `seed` determines the class order, the validation pictures and the subsets."""
    return class_streams.class_stream(name, dataset_key.load_data_set(config.data, folders), config, seed)
