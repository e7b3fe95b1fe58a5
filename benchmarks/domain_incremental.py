"""All classes in each experience, in one of the data set's own domains (styles, sources, sessions)."""

from dataclasses import dataclass

from ..platform import domains, sources
from ..platform.cache import DataFolders
from ..platform.streams import Stream


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(domains.DomainSplit):
    """All classes in each experience, in one of the data set's own domains (styles, sources, sessions).

    Where no domain has both training and test pictures (CORe50), each is tested on all of the latter.

    data: the data set: a name, or one name with its settings.
    """

    data: sources.Source

    def __post_init__(self) -> None:
        domains.DomainSplit.__post_init__(self)
        object.__setattr__(self, "data", sources.checked(self.data))


def build(config: Config, seed: int, folders: DataFolders) -> Stream:
    """Build the stream; `seed` draws the validation pictures and what the variants draw."""
    return domains.by_domain("domain_incremental", sources.load(config.data, folders), config, seed)
