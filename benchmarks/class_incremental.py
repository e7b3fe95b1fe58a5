"""New classes in each experience, told apart among all, over any data set."""

from dataclasses import dataclass

from ..platform import sources, splits
from ..platform.cache import DataFolders
from ..platform.streams import Stream


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(splits.ClassSplit):
    """New classes in each experience, told apart among all, over any data set.

    Online (each sample once) is ``training: {epochs: 1}``.

    data: the data set: a name, or one name with its settings.
    """

    data: sources.Source

    def __post_init__(self) -> None:
        splits.ClassSplit.__post_init__(self)
        object.__setattr__(self, "data", sources.checked(self.data))


def build(config: Config, seed: int, folders: DataFolders) -> Stream:
    """Build the stream; `seed` draws the order of classes, the validation pictures and what the variants draw."""
    return splits.by_class("class_incremental", sources.load(config.data, folders), config, seed)
