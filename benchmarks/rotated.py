"""The same classes, turned by another angle in each domain, over any data set."""

from dataclasses import dataclass

from ..platform import sources, transformed
from ..platform.cache import DataFolders
from ..platform.streams import Stream


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(transformed.Rotated):
    """The same classes, turned by another angle in each domain, over any data set.

    data: the data set: a name, or one name with its settings.
    """

    data: sources.Source

    def __post_init__(self) -> None:
        transformed.Rotated.__post_init__(self)
        object.__setattr__(self, "data", sources.checked(self.data))


def build(config: Config, seed: int, folders: DataFolders) -> Stream:
    """Build the stream; `seed` draws the validation pictures and what the variants draw."""
    return transformed.rotated("rotated", sources.load(config.data, folders), config, seed, folders)
