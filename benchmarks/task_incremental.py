"""New classes in each experience, which is known in training and testing (multi-head), on any data set."""

from ..platform.config.settings import settings
from ..platform.data.cache import DataFolders
from ..platform.data.class_streams import ClassSplit, class_stream
from ..platform.data.dataset_key import DataKey, load_data_set, num_classes, with_defaults
from ..platform.data.streams import Stream


@settings
class Config(ClassSplit):
    """New classes in each experience, which is known in training and testing (multi-head), on any data set.

    Loss and prediction use only the classes of the sample's experience, as with one head per experience.

    data: the data set, as a name or as one name with its settings.
    """

    data: DataKey

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", with_defaults(self.data))
        self.check_classes(num_classes(self.data))


def build(config: Config, seed: int, folders: DataFolders, name: str = "task_incremental") -> Stream:
    """Build the stream; `seed` determines the class order, the validation pictures and the subsets."""
    return class_stream(name, load_data_set(config.data, folders), config, seed, scenario="task")
