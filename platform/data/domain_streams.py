"""What benchmarks over the domains of a data set share: settings, the choice of domains, the pictures of an experience.

Shapes: N samples of a part of the data set, n of them chosen.
"""

import unicodedata
from collections.abc import Sequence

import torch

from ..config.settings import settings
from ..errors import UserError, nearest
from . import dataset_key
from .class_streams import training_indices
from .dataset import DataSet, warn_once
from .subsampling import SubsetOptions, train_validation_split

ExperienceIndices = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # to train, validate and test on


@settings
class DomainSplit(SubsetOptions):
    """Settings of a stream over the data set's domains.

    domains: names of the domains, in order of appearance; null: all, in the data set's order.
    """

    domains: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.domains is not None and (
            not self.domains or len({unicodedata.normalize("NFC", name) for name in self.domains}) < len(self.domains)
        ):
            raise ValueError(f"domains={list(self.domains)}: must be one or more names, each once, or null for all")


class DomainPool:
    """A data set, and the division of its training pictures into training and validation.

    If no domain has both training and test pictures, each experience is tested on all test pictures. This is the fixed test set
    of CORe50's protocols (Lomonaco & Maltoni 2017): sessions 3, 7 and 10, which are not trained on.
    """

    def __init__(self, name: str, source: DataSet, config: DomainSplit, seed: int) -> None:
        self.name, self.source, self.config, self.seed = name, source, config, seed
        self.train_indices, self.validation_indices = train_validation_split(source, config, seed)

    def indices(self, number: int, domain: int) -> ExperienceIndices:
        """Return the indices that experience `number` (0-based) gets from a domain.

        Raises:
            UserError: the domain has no test pictures, although others have some.
        """
        train_domains, test_domains = self.source.train_domains, self.source.test_domains
        assert train_domains is not None and test_domains is not None
        test = indices_of_domain(test_domains, domain)
        if not torch.isin(test_domains, train_domains.unique()).any():  # the test domains are never trained on
            test = torch.arange(len(test_domains))
        if not len(test):
            title = f"the domain '{self.source.domain_names[domain]}'"
            raise UserError(f"benchmark.{self.name}.data: {title} has training pictures and no test pictures.")
        train = self.train_indices[train_domains[self.train_indices] == domain]
        validation = self.validation_indices[train_domains[self.validation_indices] == domain]
        return training_indices(self.source, self.config, train, number, self.seed), validation, test


def chosen_domains(name: str, source: DataSet, config: DomainSplit) -> list[int]:
    """Return the numbers of the domains in order: those of the config, or all that have training pictures.

    Raises:
        UserError: the data set has no domains, or lacks a domain of `config.domains`.
    """
    key = f"benchmark.{name}"
    if source.train_domains is None:
        known = ", ".join(dataset_key.data_sets_with_domains()) or "none of those shipped"
        raise UserError(f"{key}.data: this data set has no domains; these have: {known}.")
    present = [source.domain_names[number] for number in source.train_domains.unique().tolist()]
    by_normal_name = {unicodedata.normalize("NFC", name): name for name in source.domain_names}
    chosen = [by_normal_name.get(unicodedata.normalize("NFC", name), name) for name in config.domains or present]
    for domain in chosen:
        if domain not in present:
            reason = "has no training pictures" if domain in source.domain_names else "is no domain of the data set"
            known = ", ".join(present)
            raise UserError(f"{key}.domains: '{domain}' {reason}.{nearest(domain, present)} Known: {known}.")
    return [source.domain_names.index(domain) for domain in chosen]


def indices_of_domain(domains: torch.Tensor | None, domain: int) -> torch.Tensor:
    """Return the indices of a domain's pictures."""
    assert domains is not None
    return torch.nonzero(domains == domain).flatten()


def warn_about_missing_classes(name: str, source: DataSet, domains: Sequence[int]) -> tuple[str, ...]:
    """Return, and log once, a note if one of these domains has no training picture of a class; else ()."""
    names = source.class_names
    missing: dict[int, int] = {}  # class -> the first domain without it
    for domain in domains:
        present = set(source.train.y[indices_of_domain(source.train_domains, domain)].unique().tolist())
        for label in set(range(len(names))) - present:
            missing.setdefault(label, domain)
    if not missing:
        return ()
    label = min(missing)
    example = f"'{names[label]}' is not in '{source.domain_names[missing[label]]}', for example"
    note = (
        f"benchmark.{name}: {len(missing)} of {len(names)} classes lack training pictures in a domain: {example}. "
        "The benchmark classes_and_domains is made for such data."
    )
    warn_once(note)
    return (note,)
