"""New instances and classes: each experience is a group of classes in one domain, on a data set with domains."""

from collections.abc import Sequence
from typing import Literal

from ..platform.config.settings import PositiveInt, settings
from ..platform.data.cache import DataFolders
from ..platform.data.class_streams import (
    check_shots,
    indices_of_classes,
    joined_class_names,
    make_stream,
    ordered_classes,
    relabel,
    setting_error,
    shuffled_order,
)
from ..platform.data.dataset import DataSet
from ..platform.data.dataset_key import DataKey, load_data_set, with_defaults
from ..platform.data.domain_streams import (
    DomainPool,
    DomainSplit,
    ExperienceIndices,
    chosen_domains,
    indices_of_domain,
)
from ..platform.data.streams import Experience, Part, Stream
from ..platform.data.subsampling import PAIRS, numpy_generator
from ..platform.errors import UserError


@settings
class Config(DomainSplit):
    """New instances and classes: each experience is a group of classes in one domain, on a data set with domains.

    Each class returns in each domain. The task-aware view chooses among the classes of the experience.

    num_groups: number of groups of classes; must divide the number of classes.
    class_order: the classes, by number or by name, group after group; null: shuffled by the seed.
    order: "domain_by_domain" (all groups in the first domain, then all groups in the second), "group_by_group" (the first
        group in all domains, then the second group), or "shuffled" by the seed.
    data: the data set, as a name or as one name with its settings.
    """

    num_groups: PositiveInt = 5
    class_order: tuple[int | str, ...] | None = None
    order: Literal["domain_by_domain", "group_by_group", "shuffled"] = "domain_by_domain"
    data: DataKey

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", with_defaults(self.data))


def build(config: Config, seed: int, folders: DataFolders, name: str = "classes_and_domains") -> Stream:
    """Build the stream; `seed` determines the order of classes and pairs, the validation pictures and the subsets.

    Pairs without training pictures are left out. CORe50's NIC protocol (Lomonaco & Maltoni 2017) is of this kind.

    Raises:
        UserError: the data set has no domains, or its classes cannot be divided or ordered as the settings require.
    """
    source = load_data_set(config.data, folders)
    domains = chosen_domains(name, source, config)
    groups = _groups(name, source, config, seed)
    pairs = [
        (group, domains[position])
        for group, position in _pairs(config, len(domains), seed)
        if len(
            indices_of_classes(
                source.train.y, indices_of_domain(source.train_domains, domains[position]), groups[group]
            )
        )
    ]
    appearing = dict.fromkeys([*(group for group, _ in pairs), *range(len(groups))])  # the order of labels
    relabelled = relabel(source, [label for group in appearing for label in groups[group]])
    check_shots(name, config, len(pairs))
    pool = DomainPool(name, source, config, seed)
    experiences = []
    for number, (group, domain) in enumerate(pairs):
        labels = [relabelled.class_names.index(source.class_names[label]) for label in groups[group]]
        indices = pool.indices(number, domain)
        experiences.append(_experience(name, relabelled, labels, source.domain_names[domain], indices))
    return make_stream(name, "mixed", relabelled, experiences)


def _groups(name: str, source: DataSet, config: Config, seed: int) -> list[list[int]]:
    """Return the classes of each group, in the data set's numbering."""
    total, count = len(source.class_names), config.num_groups
    if total % count:
        allowed = ", ".join(str(number) for number in range(1, total + 1) if total % number == 0)
        raise UserError(f"benchmark.{name}.num_groups={count}: must divide the number of classes, {total}: {allowed}.")
    try:
        order = ordered_classes(config.class_order, source.class_names) or shuffled_order(source, seed)
    except ValueError as error:
        raise setting_error(name, error) from None
    return [order[start : start + total // count] for start in range(0, total, total // count)]


def _pairs(config: Config, num_domains: int, seed: int) -> list[tuple[int, int]]:
    """Return (group, position of the domain) of each experience."""
    groups = range(config.num_groups)
    if config.order == "group_by_group":
        return [(group, position) for group in groups for position in range(num_domains)]
    pairs = [(group, position) for position in range(num_domains) for group in groups]
    if config.order == "shuffled":
        return [pairs[number] for number in numpy_generator(seed, PAIRS).permutation(len(pairs))]
    return pairs


def _experience(
    name: str, relabelled: DataSet, labels: Sequence[int], domain: str, indices: ExperienceIndices
) -> Experience:
    """Build the experience of a group's classes in a domain; classes that the domain lacks are left out."""
    train, validation = (
        Part(relabelled.train, indices_of_classes(relabelled.train.y, part, labels)) for part in indices[:2]
    )
    test = Part(relabelled.test, indices_of_classes(relabelled.test.y, indices[2], labels))
    classes = tuple(sorted({*train.y.tolist(), *test.y.tolist()}))
    title = f"{domain}: {joined_class_names(relabelled, classes)}"
    if not len(test):
        raise UserError(f"benchmark.{name}.data: has no test pictures of {title}.")
    return Experience(title, classes, train, validation, test)
