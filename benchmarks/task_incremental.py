"""New classes in each experience, which is known in training and testing (multi-head), on any data set."""

from dataclasses import dataclass

from ..platform.data import class_streams, dataset_key
from ..platform.data.cache import DataFolders
from ..platform.data.streams import Stream


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(class_streams.TaskSplit):
    """New classes in each experience, which is known in training and testing (multi-head), on any data set.

    Loss and prediction use only the classes of the sample's experience, as with one head per experience.

    data: the data set, as a name or as one name with its settings.
    """

    data: dataset_key.DataKey

    def __post_init__(self) -> None:
        class_streams.TaskSplit.__post_init__(self)
        object.__setattr__(self, "data", dataset_key.with_defaults(self.data))
        self.check_classes(dataset_key.num_classes(self.data))


def build(config: Config, seed: int, folders: DataFolders, name: str = "task_incremental") -> Stream:
    """Build the stream; `seed` determines the class order, the validation pictures and the subsets."""
    return class_streams.class_stream(name, dataset_key.load_data_set(config.data, folders), config, seed, "task")
