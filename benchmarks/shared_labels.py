"""Groups of classes that share labels, one group per experience (domain-incremental), on any data set."""

from dataclasses import replace

from ..platform.config.settings import settings
from ..platform.data import dataset_key
from ..platform.data.cache import DataFolders
from ..platform.data.class_streams import ClassSplit, class_stream, joined_class_names, make_stream
from ..platform.data.streams import Arrays, Experience, Part, Stream


@settings
class Config(ClassSplit):
    """Groups of classes that share labels: the label is a class's position in its group (domain-incremental).

    MNIST with five experiences is the domain-incremental Split MNIST of van de Ven et al. (2022), with two outputs; with
    `class_order` 0 to 9 they mean even and odd.

    data: the data set, as a name or as one name with its settings.
    """

    data: dataset_key.DataKey

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", dataset_key.with_defaults(self.data))
        if self.first is not None:
            raise ValueError(f"first={self.first}: all groups must be of one size: leave it out")
        self.check_classes(dataset_key.num_classes(self.data))


def build(config: Config, seed: int, folders: DataFolders, name: str = "shared_labels") -> Stream:
    """Build the stream; `seed` determines the class order, the validation pictures and the subsets.

    The first class of each group is 0, the second is 1, ...

    Raises:
        UserError: the data set's classes cannot be divided or ordered as the settings require.
    """
    source = dataset_key.load_data_set(config.data, folders)
    stream = class_stream(name, source, config, seed)
    size = len(stream.experiences[0].classes)
    labels = tuple(range(size))
    first = stream.experiences[0]
    train, test = (Arrays(part.arrays.x, part.arrays.y % size) for part in (first.train, first.test))
    experiences = []
    for old in stream.experiences:
        parts = Part(train, old.train.indices), Part(train, old.validation.indices), Part(test, old.test.indices)
        experiences.append(Experience(old.name, labels, *parts))
    grouped = replace(source, class_names=stream.class_names)
    names = tuple(joined_class_names(grouped, range(label, len(grouped.class_names), size)) for label in labels)
    return make_stream(name, "domain", replace(source, class_names=names), experiences)
