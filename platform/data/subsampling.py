"""Which samples of a data set's training part a stream takes: the validation split, long tails, few shots, blurry boundaries.

Settings on top of any stream, each with a neutral default, and pure functions on index tensors. Whatever is drawn comes from
its own generator, seeded by (seed, purpose, number): the validation pictures of a class do not move when the order of the
classes does, and a smaller choice is a part of a larger one. A stream that is seen once only ("online") is no variant of
the data: it is ``training: {epochs: 1}``.

Shapes: N training samples, n of them chosen. A group is a class, or a class in one domain where the data set has domains.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .dataset import DataSet

ORDER, VALIDATION, PIXELS, RARE, SHOTS, BLURRY, PAIRS, ANGLES = range(8)  # the purposes of random numbers


@dataclass(frozen=True, kw_only=True, slots=True)
class SubsetOptions:
    """What can be set on top of every stream.

    validation: fraction of each class's training pictures kept for validation (0: none).
    imbalance: long-tailed: how many pictures the rarest class keeps for one of the largest, as 0.01; the seed draws which
        class is how rare; null: as the data are. Training and validation part, not the test part.
    shots: few-shot: training (not validation) pictures of each class in the experiences from `shots_from` on; null: all.
    shots_from: the first experience with few shots, counted from 0: the ones before it have all of theirs.
    """

    validation: float = 0.1
    imbalance: float | None = None
    shots: int | None = None
    shots_from: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.validation < 1:
            allowed = "at least 0 and less than 1, a fraction of the training pictures"
            raise ValueError(f"validation={self.validation!r}: must be {allowed}")
        if self.imbalance is not None and not 0 < self.imbalance <= 1:
            raise ValueError(f"imbalance={self.imbalance!r}: must be above 0 and at most 1 (balanced), or null")
        if self.shots is not None and self.shots < 1:
            raise ValueError(f"shots={self.shots!r}: must be at least 1, or null for all")
        if self.shots_from < 0:
            raise ValueError(f"shots_from={self.shots_from!r}: must be at least 0")
        if self.shots is None and self.shots_from != 1:
            raise ValueError(f"shots_from={self.shots_from!r}: is not used without `shots`: leave it out")


def numpy_generator(seed: int, *purpose: int) -> np.random.Generator:
    """The generator of one purpose."""
    return np.random.default_rng([seed, *purpose])


def train_validation_split(source: DataSet, config: SubsetOptions, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions in the training part to fit on and held out for validation, ascending, disjoint.

    The fraction held out is that of each group; a long tail leaves every picture on its side and takes from both.
    """
    num_classes = len(source.class_names)
    domains = source.train_domains
    labels = source.train.y if domains is None else source.train.y + num_classes * domains
    groups = members(labels, num_classes * max(1, len(source.domain_names)))
    kept = [len(group) for group in groups]
    if config.imbalance is not None:
        ranks = numpy_generator(seed, RARE).permutation(num_classes).tolist()
        starts = range(0, len(groups), num_classes)
        kept = [n for at in starts for n in long_tail(kept[at : at + num_classes], config.imbalance, ranks)]
    fit, held = [], []
    for number, (group, count) in enumerate(zip(groups, kept, strict=True)):
        order = torch.from_numpy(numpy_generator(seed, VALIDATION, number).permutation(len(group)))
        whole, part = (_num_held(total, config.validation) for total in (len(group), count))
        held.append(group[order[:part]])
        fit.append(group[order[whole : whole + count - part]])
    return torch.cat(fit).sort().values, torch.cat(held).sort().values


def members(labels: torch.Tensor, num_groups: int) -> list[torch.Tensor]:
    """Positions (n,) of each label 0..num_groups - 1, ascending."""
    sizes = torch.bincount(labels, minlength=num_groups).tolist()
    return list(torch.split(labels.argsort(stable=True), sizes))


def long_tail(counts: Sequence[int], imbalance: float, ranks: Sequence[int]) -> list[int]:
    """How many pictures of each class stay, of `counts` (C,): max(counts) * imbalance ** (rank / (C - 1)).

    At least one, and at most what the class has. Rank 0 is the most frequent class. Source: Cao et al. 2019 (1906.07413),
    whose imbalance ratio is the largest to the smallest: ours is its inverse, as the factor 0.01 of its code.
    """
    largest, last = max(counts), max(1, len(counts) - 1)
    wanted = [max(1, round(largest * imbalance ** (rank / last))) for rank in ranks]
    return [min(count, number) for count, number in zip(counts, wanted, strict=True)]


def few_shot(indices: torch.Tensor, labels: torch.Tensor, shots: int, seed: int) -> torch.Tensor:
    """At most `shots` of the positions `indices` (n,) of each class, ascending; `labels` (n,) in the data set's numbering.

    Source: Tao et al. 2020 (2004.10956, few-shot class-incremental learning: 60 classes whole, then 5 ways of 5 shots).
    """
    chosen = []
    for label in labels.unique().tolist():
        of_class = indices[labels == label]
        order = numpy_generator(seed, SHOTS, label).permutation(len(of_class))[:shots]
        chosen.append(of_class[torch.from_numpy(order)])
    return torch.cat([indices[:0], *chosen]).sort().values


def assign_blurry(
    home: torch.Tensor, labels: torch.Tensor, fraction: float, num_experiences: int, seed: int
) -> torch.Tensor:
    """In which experience (n,) each training sample is met: `fraction` of each class in others than its `home` (n,).

    They are dealt out evenly to all others, by turns. Source: Bang et al. 2021 (2103.17230), "blurry-M": M per cent of a
    task's samples are of other tasks' classes, which with tasks of equal size is the same.
    """
    place = home.clone()
    for label in labels.unique().tolist():
        where = torch.nonzero(labels == label).flatten()
        draw = numpy_generator(seed, BLURRY, label)
        order = torch.from_numpy(draw.permutation(len(where)))
        count, own = round(fraction * len(where)), int(home[where[0]])
        others = torch.tensor([number for number in range(num_experiences) if number != own])
        turn = (torch.arange(count) + int(draw.integers(len(others)))) % len(others)
        place[where[order[:count]]] = others[turn]
    return place


def _num_held(total: int, fraction: float) -> int:
    """A class is never held out whole."""
    return max(0, min(round(fraction * total), total - 1))
