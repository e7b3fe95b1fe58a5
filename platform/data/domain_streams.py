"""How a data set's own domains become a stream: all classes in each, or new classes and new domains together.

Shapes: N samples of a part of the data set, n of them chosen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from ..errors import UserError, nearest
from . import dataset_key
from .class_streams import (
    check_shots,
    drawn_order,
    make_stream,
    names_of,
    of_classes,
    ordered_classes,
    refusal,
    renumbered,
    shots_of,
)
from .dataset import DataSet
from .streams import Experience, Part, Stream
from .subsampling import PAIRS, SubsetOptions, numpy_generator, train_validation_split


@dataclass(frozen=True, kw_only=True, slots=True)
class DomainSplit(SubsetOptions):
    """Settings of a stream over the data set's own domains: all classes in each.

    domains: the domains by name, in their order of appearance; null: all, as the data set lists them.
    """

    domains: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        SubsetOptions.__post_init__(self)
        if self.domains is not None and (not self.domains or len(set(self.domains)) < len(self.domains)):
            raise ValueError(f"domains={list(self.domains)}: must be one or more names, each once, or null for all")


Pairs = Literal["domain_by_domain", "group_by_group", "shuffled"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MixedSplit(DomainSplit):
    """Settings of a stream whose experiences are each a group of classes in one domain.

    num_groups: groups that the classes are divided into; must divide their number.
    class_order: the classes, by number or by name, group after group; null: shuffled by the seed.
    order: "domain_by_domain" (every group in the first domain, then every group in the second), "group_by_group" (the
        first group in every domain, then the second group), or "shuffled" by the seed.
    """

    num_groups: int = 5
    class_order: tuple[int | str, ...] | None = None
    order: Pairs = "domain_by_domain"

    def __post_init__(self) -> None:
        DomainSplit.__post_init__(self)
        if self.num_groups < 1:
            raise ValueError(f"num_groups={self.num_groups!r}: must be at least 1")


def by_domain(name: str, source: DataSet, config: DomainSplit, seed: int) -> Stream:
    """Build a stream over the data set's own domains, all classes in each.

    Where no domain has both training and test pictures, each is tested on all of the latter: the one fixed test set of CORe50's
    protocols (Lomonaco & Maltoni 2017), whose sessions 3, 7 and 10 are no training session's.

    Raises:
        UserError: the data set has no domains, or not those that are named.
    """
    domains = _chosen(name, source, config)
    check_shots(name, config, len(domains))
    pool = _Pool(name, source, config, seed, *train_validation_split(source, config, seed))
    classes = tuple(range(len(source.class_names)))
    experiences = []
    for number, domain in enumerate(domains):
        train, held, test = pool.parts(number, domain)
        parts = Part(source.train, train), Part(source.train, held), Part(source.test, test)
        experiences.append(Experience(source.domain_names[domain], classes, *parts))
    return make_stream(name, "domain", source, experiences)


def by_class_and_domain(name: str, source: DataSet, config: MixedSplit, seed: int) -> Stream:
    """Build a stream of (group of classes, domain) pairs: a class comes again in each domain. Tested as `by_domain` says.

    A pair that has no training pictures is left out. CORe50's NIC protocol (Lomonaco & Maltoni 2017) is of this kind.

    Raises:
        UserError: the data set has no domains, or its classes cannot be divided or ordered as the settings say.
    """
    domains = _chosen(name, source, config)
    groups = _groups(name, source, config, seed)
    pairs = [
        (group, domains[place])
        for group, place in _pairs(config, len(domains), seed)
        if len(of_classes(source.train.y, _members(source.train_domains, domains[place]), groups[group]))
    ]
    appearing = dict.fromkeys([*(group for group, _ in pairs), *range(len(groups))])  # labels follow from it
    found = renumbered(source, [label for group in appearing for label in groups[group]])
    check_shots(name, config, len(pairs))
    pool = _Pool(name, source, config, seed, *train_validation_split(source, config, seed))
    experiences = []
    for number, (group, domain) in enumerate(pairs):
        labels = [found.class_names.index(source.class_names[label]) for label in groups[group]]
        experiences.append(_of_group(name, found, labels, source.domain_names[domain], pool.parts(number, domain)))
    return make_stream(name, "mixed", found, experiences)


_Parts = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # positions to train, validate and test on


@dataclass(frozen=True, slots=True)
class _Pool:
    """A data set's pictures to choose from: positions to fit on and held out."""

    name: str
    source: DataSet
    config: DomainSplit
    seed: int
    fit: torch.Tensor
    held: torch.Tensor

    def parts(self, number: int, domain: int) -> _Parts:
        """What experience `number` (0-based) has of a domain."""
        trained, tested = self.source.train_domains, self.source.test_domains
        assert trained is not None and tested is not None
        test = _members(tested, domain)
        if not torch.isin(tested, trained.unique()).any():  # the test set is of domains of its own
            test = torch.arange(len(tested))
        if not len(test):
            what = f"the domain '{self.source.domain_names[domain]}'"
            raise UserError(f"benchmark.{self.name}.data: {what} has training pictures and no test pictures.")
        fit = self.fit[trained[self.fit] == domain]
        return shots_of(self.source, self.config, fit, number, self.seed), self.held[trained[self.held] == domain], test


def _of_group(name: str, found: DataSet, labels: Sequence[int], domain: str, parts: _Parts) -> Experience:
    """The experience of a group's classes in a domain: those that the domain has."""
    train, held = (Part(found.train, of_classes(found.train.y, part, labels)) for part in parts[:2])
    test = Part(found.test, of_classes(found.test.y, parts[2], labels))
    classes = tuple(sorted({*train.y.tolist(), *test.y.tolist()}))
    title = f"{domain}: {names_of(found, classes)}"
    if not len(test):
        raise UserError(f"benchmark.{name}.data: has no test pictures of {title}.")
    return Experience(title, classes, train, held, test)


def _chosen(name: str, source: DataSet, config: DomainSplit) -> list[int]:
    """Numbers of the domains in their order: those named, or all that have training pictures."""
    key = f"benchmark.{name}"
    if source.train_domains is None:
        known = ", ".join(dataset_key.data_sets_with_domains()) or "none of those shipped"
        raise UserError(f"{key}.data: this data set has no domains; these have: {known}.")
    present = [source.domain_names[number] for number in source.train_domains.unique().tolist()]
    wanted = list(config.domains or present)
    for domain in wanted:
        if domain not in present:
            reason = "has no training pictures" if domain in source.domain_names else "is no domain of the data set"
            known = ", ".join(present)
            raise UserError(f"{key}.domains: '{domain}' {reason}.{nearest(domain, present)} Known: {known}.")
    return [source.domain_names.index(domain) for domain in wanted]


def _members(domains: torch.Tensor | None, domain: int) -> torch.Tensor:
    """Positions of a domain's pictures."""
    assert domains is not None
    return torch.nonzero(domains == domain).flatten()


def _groups(name: str, source: DataSet, config: MixedSplit, seed: int) -> list[list[int]]:
    """The classes of each group, in the data set's numbering."""
    total, count = len(source.class_names), config.num_groups
    if total % count:
        allowed = ", ".join(str(number) for number in range(1, total + 1) if total % number == 0)
        raise UserError(f"benchmark.{name}.num_groups={count}: must divide the number of classes, {total}: {allowed}.")
    try:
        order = ordered_classes(config.class_order, source.class_names) or drawn_order(source, seed)
    except ValueError as error:
        raise refusal(name, error) from None
    return [order[start : start + total // count] for start in range(0, total, total // count)]


def _pairs(config: MixedSplit, num_domains: int, seed: int) -> list[tuple[int, int]]:
    """(group, place of the domain) of each experience."""
    groups = range(config.num_groups)
    if config.order == "group_by_group":
        return [(group, place) for group in groups for place in range(num_domains)]
    pairs = [(group, place) for place in range(num_domains) for group in groups]
    if config.order == "shuffled":
        return [pairs[number] for number in numpy_generator(seed, PAIRS).permutation(len(pairs))]
    return pairs
