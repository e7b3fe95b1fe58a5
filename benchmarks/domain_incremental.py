"""All classes in each experience, each in another domain of the data set (styles, sources, sessions)."""

from dataclasses import replace

from ..platform.config.settings import settings
from ..platform.data.cache import DataFolders
from ..platform.data.class_streams import check_shots, make_stream
from ..platform.data.dataset import DataSet
from ..platform.data.dataset_key import DataKey, load_data_set, with_defaults
from ..platform.data.domain_streams import DomainPool, DomainSplit, chosen_domains, warn_about_missing_classes
from ..platform.data.streams import Experience, Part, Stream


@settings
class Config(DomainSplit):
    """All classes in each experience, each in another domain of the data set (styles, sources, sessions).

    If no domain has both training and test pictures (CORe50), each experience is tested on all test pictures.

    data: the data set, as a name or as one name with its settings.
    """

    data: DataKey

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", with_defaults(self.data))


def build(config: Config, seed: int, folders: DataFolders, name: str = "domain_incremental") -> Stream:
    """Build the stream; `seed` determines the validation pictures and the subsets."""
    return by_domain(name, load_data_set(config.data, folders), config, seed)


def by_domain(name: str, source: DataSet, config: DomainSplit, seed: int) -> Stream:
    """Build a stream over the data set's domains, with all classes in each.

    Raises:
        UserError: the data set has no domains, or lacks a domain of `config.domains`.
    """
    domains = chosen_domains(name, source, config)
    check_shots(name, config, len(domains))
    pool = DomainPool(name, source, config, seed)
    classes = tuple(range(len(source.class_names)))
    experiences = []
    for number, domain in enumerate(domains):
        train, validation, test = pool.indices(number, domain)
        parts = Part(source.train, train), Part(source.train, validation), Part(source.test, test)
        experiences.append(Experience(source.domain_names[domain], classes, *parts))
    notes = warn_about_missing_classes(name, source, domains)
    return make_stream(name, "domain", replace(source, notes=(*source.notes, *notes)), experiences)
