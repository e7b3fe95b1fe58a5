"""Groups of classes that share labels, one group per experience (domain-incremental), on any data set."""

from dataclasses import dataclass

from ..platform.data import class_streams, dataset_key
from ..platform.data.cache import DataFolders
from ..platform.data.streams import Stream


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(class_streams.TaskSplit):
    """Groups of classes that share labels: the label is a class's position in its group (domain-incremental).

    MNIST with five experiences is the domain-incremental Split MNIST of van de Ven et al. (2022), with two outputs; with
    `class_order` 0 to 9 they mean even and odd.

    data: the data set, as a name or as one name with its settings.
    """

    data: dataset_key.DataKey

    def __post_init__(self) -> None:
        class_streams.TaskSplit.__post_init__(self)
        object.__setattr__(self, "data", dataset_key.with_defaults(self.data))
        if self.first is not None:
            raise ValueError(f"first={self.first}: all groups must be of one size: leave it out")
        self.check_classes(dataset_key.num_classes(self.data))


def build(config: Config, seed: int, folders: DataFolders, name: str = "shared_labels") -> Stream:
    """Build the stream; `seed` determines the class order, the validation pictures and the subsets."""
    return class_streams.shared_labels_stream(name, dataset_key.load_data_set(config.data, folders), config, seed)
