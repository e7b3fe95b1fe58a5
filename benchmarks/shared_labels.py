"""Groups of classes that share their labels, one group after another (domain-incremental), over any data set."""

from dataclasses import dataclass

from ..platform.data import class_streams, dataset_key
from ..platform.data.cache import DataFolders
from ..platform.data.streams import Stream


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(class_streams.TaskSplit):
    """Groups of classes that share their labels: is it the first or the second of its group? (domain-incremental).

    With five experiences of MNIST it is the domain-incremental Split MNIST of van de Ven et al. (2022): two outputs; with
    `class_order` 0 to 9, even or odd.
    data: the data set: a name, or one name with its settings.
    """

    data: dataset_key.DataKey

    def __post_init__(self) -> None:
        class_streams.TaskSplit.__post_init__(self)
        object.__setattr__(self, "data", dataset_key.with_defaults(self.data))
        if self.first is not None:
            raise ValueError(f"first={self.first}: all groups must be of one size: leave it out")


def build(config: Config, seed: int, folders: DataFolders) -> Stream:
    """Build the stream; `seed` draws the order of classes, the validation pictures and what the variants draw."""
    return class_streams.shared_labels_stream(
        "shared_labels", dataset_key.load_data_set(config.data, folders), config, seed
    )
