"""New instances and classes: each experience is a group of classes in one domain, over a data set with domains."""

from dataclasses import dataclass

from ..platform import domains, sources
from ..platform.cache import DataFolders
from ..platform.streams import Stream


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(domains.MixedSplit):
    """New instances and classes: each experience is a group of classes in one domain, over a data set with domains.

    A class comes again in each domain; the task-aware view picks among the classes of the experience.

    data: the data set: a name, or one name with its settings.
    """

    data: sources.Source

    def __post_init__(self) -> None:
        domains.MixedSplit.__post_init__(self)
        object.__setattr__(self, "data", sources.checked(self.data))


def build(config: Config, seed: int, folders: DataFolders) -> Stream:
    """Build the stream; `seed` draws the order of classes and pairs, the validation pictures and what the variants draw."""
    return domains.by_class_and_domain("classes_and_domains", sources.load(config.data, folders), config, seed)
