"""Build streams over the domains of a data set: all classes in each domain, or new classes and new domains together.

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
    indices_of_classes,
    joined_class_names,
    make_stream,
    ordered_classes,
    relabel,
    setting_error,
    shuffled_order,
    training_indices,
)
from .dataset import DataSet
from .streams import Experience, Part, Stream
from .subsampling import PAIRS, SubsetOptions, numpy_generator, train_validation_split


@dataclass(frozen=True, kw_only=True, slots=True)
class DomainSplit(SubsetOptions):
    """Settings of a stream over the data set's domains, with all classes in each.

    domains: names of the domains, in order of appearance; null: all, in the data set's order.
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

    num_groups: number of groups of classes; must divide the number of classes.
    class_order: the classes, by number or by name, group after group; null: shuffled by the seed.
    order: "domain_by_domain" (all groups in the first domain, then all groups in the second), "group_by_group" (the first
        group in all domains, then the second group), or "shuffled" by the seed.
    """

    num_groups: int = 5
    class_order: tuple[int | str, ...] | None = None
    order: Pairs = "domain_by_domain"

    def __post_init__(self) -> None:
        DomainSplit.__post_init__(self)
        if self.num_groups < 1:
            raise ValueError(f"num_groups={self.num_groups!r}: must be at least 1")


def by_domain(name: str, source: DataSet, config: DomainSplit, seed: int) -> Stream:
    """Build a stream over the data set's domains, with all classes in each.

    If no domain has both training and test pictures, each experience is tested on all test pictures. This is the fixed test set
    of CORe50's protocols (Lomonaco & Maltoni 2017): sessions 3, 7 and 10, which are not trained on.

    Raises:
        UserError: the data set has no domains, or lacks a domain of `config.domains`.
    """
    domains = _chosen(name, source, config)
    check_shots(name, config, len(domains))
    pool = _Pool(name, source, config, seed, *train_validation_split(source, config, seed))
    classes = tuple(range(len(source.class_names)))
    experiences = []
    for number, domain in enumerate(domains):
        train, validation, test = pool.parts(number, domain)
        parts = Part(source.train, train), Part(source.train, validation), Part(source.test, test)
        experiences.append(Experience(source.domain_names[domain], classes, *parts))
    return make_stream(name, "domain", source, experiences)


def by_class_and_domain(name: str, source: DataSet, config: MixedSplit, seed: int) -> Stream:
    """Build a stream of (group of classes, domain) pairs, so each class returns in each domain.

    The test pictures are chosen as in `by_domain`. Pairs without training pictures are left out. CORe50's NIC protocol
    (Lomonaco & Maltoni 2017) is of this kind.

    Raises:
        UserError: the data set has no domains, or its classes cannot be divided or ordered as the settings require.
    """
    domains = _chosen(name, source, config)
    groups = _groups(name, source, config, seed)
    pairs = [
        (group, domains[position])
        for group, position in _pairs(config, len(domains), seed)
        if len(indices_of_classes(source.train.y, _members(source.train_domains, domains[position]), groups[group]))
    ]
    appearing = dict.fromkeys([*(group for group, _ in pairs), *range(len(groups))])  # the order of labels
    relabelled = relabel(source, [label for group in appearing for label in groups[group]])
    check_shots(name, config, len(pairs))
    pool = _Pool(name, source, config, seed, *train_validation_split(source, config, seed))
    experiences = []
    for number, (group, domain) in enumerate(pairs):
        labels = [relabelled.class_names.index(source.class_names[label]) for label in groups[group]]
        experiences.append(_of_group(name, relabelled, labels, source.domain_names[domain], pool.parts(number, domain)))
    return make_stream(name, "mixed", relabelled, experiences)


_Parts = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # indices to train, validate and test on


@dataclass(frozen=True, slots=True)
class _Pool:
    """A data set, with the indices of its training and validation pictures."""

    name: str
    source: DataSet
    config: DomainSplit
    seed: int
    train_indices: torch.Tensor
    validation_indices: torch.Tensor

    def parts(self, number: int, domain: int) -> _Parts:
        """Return the indices that experience `number` (0-based) gets from a domain."""
        train_domains, test_domains = self.source.train_domains, self.source.test_domains
        assert train_domains is not None and test_domains is not None
        test = _members(test_domains, domain)
        if not torch.isin(test_domains, train_domains.unique()).any():  # the test domains are never trained on
            test = torch.arange(len(test_domains))
        if not len(test):
            title = f"the domain '{self.source.domain_names[domain]}'"
            raise UserError(f"benchmark.{self.name}.data: {title} has training pictures and no test pictures.")
        train = self.train_indices[train_domains[self.train_indices] == domain]
        validation = self.validation_indices[train_domains[self.validation_indices] == domain]
        return training_indices(self.source, self.config, train, number, self.seed), validation, test


def _of_group(name: str, relabelled: DataSet, labels: Sequence[int], domain: str, parts: _Parts) -> Experience:
    """Build the experience of a group's classes in a domain; classes that the domain lacks are left out."""
    train, validation = (
        Part(relabelled.train, indices_of_classes(relabelled.train.y, part, labels)) for part in parts[:2]
    )
    test = Part(relabelled.test, indices_of_classes(relabelled.test.y, parts[2], labels))
    classes = tuple(sorted({*train.y.tolist(), *test.y.tolist()}))
    title = f"{domain}: {joined_class_names(relabelled, classes)}"
    if not len(test):
        raise UserError(f"benchmark.{name}.data: has no test pictures of {title}.")
    return Experience(title, classes, train, validation, test)


def _chosen(name: str, source: DataSet, config: DomainSplit) -> list[int]:
    """Return the numbers of the domains in order: those of the config, or all that have training pictures."""
    key = f"benchmark.{name}"
    if source.train_domains is None:
        known = ", ".join(dataset_key.data_sets_with_domains()) or "none of those shipped"
        raise UserError(f"{key}.data: this data set has no domains; these have: {known}.")
    present = [source.domain_names[number] for number in source.train_domains.unique().tolist()]
    chosen = list(config.domains or present)
    for domain in chosen:
        if domain not in present:
            reason = "has no training pictures" if domain in source.domain_names else "is no domain of the data set"
            known = ", ".join(present)
            raise UserError(f"{key}.domains: '{domain}' {reason}.{nearest(domain, present)} Known: {known}.")
    return [source.domain_names.index(domain) for domain in chosen]


def _members(domains: torch.Tensor | None, domain: int) -> torch.Tensor:
    """Return the indices of a domain's pictures."""
    assert domains is not None
    return torch.nonzero(domains == domain).flatten()


def _groups(name: str, source: DataSet, config: MixedSplit, seed: int) -> list[list[int]]:
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


def _pairs(config: MixedSplit, num_domains: int, seed: int) -> list[tuple[int, int]]:
    """Return (group, position of the domain) of each experience."""
    groups = range(config.num_groups)
    if config.order == "group_by_group":
        return [(group, position) for group in groups for position in range(num_domains)]
    pairs = [(group, position) for position in range(num_domains) for group in groups]
    if config.order == "shuffled":
        return [pairs[number] for number in numpy_generator(seed, PAIRS).permutation(len(pairs))]
    return pairs
