"""Choose a stream's training samples: validation split, long tail, few shots, blurry boundaries.

These are settings on top of any stream, each with a neutral default, and pure functions on index tensors. Each random choice
has a separate generator, seeded by (seed, purpose, number). So the validation pictures of a class do not depend on the order
of the classes, and a smaller choice is a subset of a larger one. Online learning (each sample seen once) is not an option
here: set ``training: {epochs: 1}``.

Shapes: N training samples, n of them chosen. A group is a class or, in a data set with domains, a class in one domain.
"""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
from annotated_types import Interval

from ..config.settings import Fraction, NonNegativeInt, OnlyWith, PositiveInt, settings
from .dataset import DataSet

ORDER, VALIDATION, PIXELS, RARE, SHOTS, BLURRY, PAIRS, ANGLES = range(8)  # purposes of random generators


@settings
class SubsetOptions:
    """Options that every stream has.

    validation: fraction of each class's training pictures held out for validation (0: none).
    imbalance: long tail: size of the rarest class divided by that of the largest, such as 0.01. The seed decides which class
        gets which rank. Applies to the training and validation parts, not to the test part. null: keep all pictures.
    shots: few-shot: training (not validation) pictures of each class, in all experiences from `shots_from` on; null: all.
    shots_from: first experience with few shots, counted from 0; earlier experiences keep all of their pictures.
    """

    validation: Fraction = 0.1
    imbalance: Annotated[float, Interval(gt=0, le=1)] | None = None
    shots: PositiveInt | None = None
    shots_from: Annotated[NonNegativeInt, OnlyWith("shots")] = 1


def numpy_generator(seed: int, *purpose: int) -> np.random.Generator:
    """Return NumPy's generator for one purpose, seeded by (seed, *purpose)."""
    return np.random.default_rng([seed, *purpose])


def train_validation_split(source: DataSet, config: SubsetOptions, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two disjoint, ascending index tensors into the training part: training and validation samples.

    The fraction is taken from each group. A long tail shrinks both sides and moves no picture from one to the other.
    """
    num_classes = len(source.class_names)
    domains = source.train_domains
    labels = source.train.y if domains is None else source.train.y + num_classes * domains
    groups = indices_by_label(labels, num_classes * max(1, len(source.domain_names)))
    sizes = [len(group) for group in groups]
    if config.imbalance is not None:
        ranks = numpy_generator(seed, RARE).permutation(num_classes).tolist()
        starts = range(0, len(groups), num_classes)
        sizes = [n for start in starts for n in long_tail(sizes[start : start + num_classes], config.imbalance, ranks)]
    train_indices, validation_indices = [], []
    for number, (group, count) in enumerate(zip(groups, sizes, strict=True)):
        order = torch.from_numpy(numpy_generator(seed, VALIDATION, number).permutation(len(group)))
        num_validation, num_kept_validation = (_num_held(total, config.validation) for total in (len(group), count))
        validation_indices.append(group[order[:num_kept_validation]])
        train_indices.append(group[order[num_validation : num_validation + count - num_kept_validation]])
    return torch.cat(train_indices).sort().values, torch.cat(validation_indices).sort().values


def indices_by_label(labels: torch.Tensor, num_groups: int) -> list[torch.Tensor]:
    """Return the ascending indices (n,) of each label 0..num_groups - 1."""
    sizes = torch.bincount(labels, minlength=num_groups).tolist()
    return list(torch.split(labels.argsort(stable=True), sizes))


def long_tail(counts: Sequence[int], imbalance: float, ranks: Sequence[int]) -> list[int]:
    """Return how many pictures of each class to keep, of `counts` (C,): max(counts) * imbalance ** (rank / (C - 1)).

    At least one, and at most the class's count. Rank 0 is the most frequent class. Source: Cao et al. 2019 (1906.07413).
    Their imbalance ratio is largest / smallest; ours is the inverse, like the factor 0.01 in their code.
    """
    largest, last = max(counts), max(1, len(counts) - 1)
    sizes = [max(1, round(largest * imbalance ** (rank / last))) for rank in ranks]
    return [min(count, size) for count, size in zip(counts, sizes, strict=True)]


def few_shot(indices: torch.Tensor, labels: torch.Tensor, shots: int, seed: int) -> torch.Tensor:
    """Return at most `shots` of the `indices` (n,) of each class, ascending; `labels` (n,) are the data set's.

    Source: Tao et al. 2020 (2004.10956, few-shot class-incremental learning: 60 full classes, then 5-way 5-shot).
    """
    chosen = []
    for label in labels.unique().tolist():
        members_of_class = indices[labels == label]
        order = numpy_generator(seed, SHOTS, label).permutation(len(members_of_class))[:shots]
        chosen.append(members_of_class[torch.from_numpy(order)])
    return torch.cat([indices[:0], *chosen]).sort().values


def assign_blurry(
    class_experience: torch.Tensor, labels: torch.Tensor, fraction: float, num_experiences: int, seed: int
) -> torch.Tensor:
    """Return the experience (n,) of each training sample, with blurry boundaries.

    `fraction` of each class goes to experiences other than its `class_experience` (n,), dealt out evenly in turn. Source: Bang
    et al. 2021 (2103.17230), "blurry-M": M per cent of a task's samples belong to other tasks' classes, which is the same for
    tasks of equal size.
    """
    sample_experience = class_experience.clone()
    for label in labels.unique().tolist():
        members_of_class = torch.nonzero(labels == label).flatten()
        rng = numpy_generator(seed, BLURRY, label)
        order = torch.from_numpy(rng.permutation(len(members_of_class)))
        count, origin = round(fraction * len(members_of_class)), int(class_experience[members_of_class[0]])
        others = torch.tensor([number for number in range(num_experiences) if number != origin])
        turn = (torch.arange(count) + int(rng.integers(len(others)))) % len(others)
        sample_experience[members_of_class[order[:count]]] = others[turn]
    return sample_experience


def _num_held(total: int, fraction: float) -> int:
    """Return how many of `total` samples to hold out: never a whole class."""
    return max(0, min(round(fraction * total), total - 1))
