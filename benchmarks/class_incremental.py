"""New classes in each experience, classified among all classes, on any data set."""

from ..platform.config.settings import Fraction, settings
from ..platform.data.cache import DataFolders
from ..platform.data.class_streams import ClassSplit, class_stream
from ..platform.data.dataset_key import DataKey, load_data_set, num_classes, with_defaults
from ..platform.data.streams import Stream


@settings
class Config(ClassSplit):
    """New classes in each experience, classified among all classes, on any data set.

    For online learning (each sample seen once) set ``training: {epochs: 1}``.

    blurry: blurry boundaries: this fraction of each class's training samples moves to the other experiences, evenly. The
        validation and test samples stay in the experience of their class.
    data: the data set, as a name or as one name with its settings.
    """

    blurry: Fraction = 0.0
    data: DataKey

    def __post_init__(self) -> None:
        if self.blurry and self.shots is not None:
            raise ValueError(f"blurry={self.blurry!r}: cannot be combined with shots={self.shots!r}")
        if self.blurry and self.num_experiences == 1:
            raise ValueError(f"blurry={self.blurry!r}: needs at least two experiences")
        object.__setattr__(self, "data", with_defaults(self.data))
        self.check_classes(num_classes(self.data))


def build(config: Config, seed: int, folders: DataFolders, name: str = "class_incremental") -> Stream:
    """Build the stream; `seed` determines the class order, the validation pictures and the subsets."""
    return class_stream(name, load_data_set(config.data, folders), config, seed, blurry=config.blurry)
