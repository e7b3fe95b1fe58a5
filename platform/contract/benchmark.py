"""The contract of a benchmark and of the stream that it builds, a function for each of its parts."""

import hashlib
from collections.abc import Iterator
from typing import get_args

import torch

from ..data.streams import Experience, Part, Scenario, Stream
from .errors import ContractError, require

_MAX_LEAK = 0.01  # share of test samples whose picture is in the training data too: data sets have a few duplicates
_PARTS = ("train", "validation", "test")


def digest(stream: Stream) -> str:
    """Return a digest of a stream's content: names, classes, indices, labels, and some samples of each part."""
    hasher = hashlib.sha256(repr((stream.scenario, stream.class_names, stream.shape, stream.mean, stream.std)).encode())
    for experience in stream.experiences:
        hasher.update(repr((experience.name, experience.classes)).encode())
        for part in _parts(experience):
            some = part.indices[[0, 1, -1]] if len(part) > 1 else part.indices
            for tensor in (part.indices, part.y, part.arrays.x[some]):
                hasher.update(tensor.numpy().tobytes())
    return hasher.hexdigest()


def _parts(experience: Experience) -> tuple[Part, Part, Part]:
    return experience.train, experience.validation, experience.test


def _named_parts(stream: Stream) -> Iterator[tuple[str, Part]]:
    """Yield each part with its name."""
    for number, experience in enumerate(stream.experiences):
        for name, part in zip(_PARTS, _parts(experience), strict=True):
            yield f"experience {number + 1} ({experience.name}), {name}", part


def check_same_seed(first: Stream, again: Stream) -> None:
    """Require that the same seed gives the same stream: it is built again when a trial is resumed."""
    advice = "draw from a torch.Generator made of the seed"
    require(digest(first) == digest(again), f"two streams with one seed differ: {advice}")


def check_format(stream: Stream) -> None:
    """Require samples and labels in the format that the loader takes: x (N, ...) of numbers, y (N,) int64, indices in range."""
    require(isinstance(stream, Stream), f"build returned a {type(stream).__name__}, no retain.Stream")
    require(stream.scenario in get_args(Scenario), f"scenario={stream.scenario!r}: must be one of {get_args(Scenario)}")
    channels = stream.shape[0] if len(stream.shape) > 1 else len(stream.mean)
    statistics = len(stream.mean) == len(stream.std) == channels and all(value > 0 for value in stream.std)
    require(statistics, f"mean and std need {channels} numbers, one for each channel, and std numbers above 0")
    for name, part in _named_parts(stream):
        x, y, indices = part.arrays.x, part.arrays.y, part.indices
        require(y.dtype == indices.dtype == torch.int64, f"{name}: labels and indices must be int64")
        require(len(x) == len(y), f"{name}: {len(x)} samples and {len(y)} labels")
        require(x.dtype in (torch.uint8, torch.float32), f"{name}: samples must be uint8 or float32, not {x.dtype}")
        if len(part):
            in_range = 0 <= int(indices.min()) and int(indices.max()) < len(y)
            require(in_range, f"{name}: an index is not among the {len(y)} samples")
            size = stream.normalise(x[indices[:2]]).shape[1:]
            require(len(indices.unique()) == len(indices), f"{name}: an index occurs twice")
            finite = bool(stream.normalise(x[indices[:100]]).isfinite().all())
            require(
                tuple(size) == tuple(stream.shape) and finite, f"{name}: samples are not finite of shape {stream.shape}"
            )


def check_classes(stream: Stream) -> None:
    """Require that labels, classes, class names and the scenario agree, and that labels are numbered as they appear.

    The head grows to the largest label seen, and the accuracy matrix is masked by the classes of each experience.
    """
    seen: list[int] = []
    for number, experience in enumerate(stream.experiences):
        where, classes = f"experience {number + 1} ({experience.name})", experience.classes
        tested = set(experience.test.y.tolist())
        require(tested == set(classes), f"{where}: classes={list(classes)}, and its test samples have {sorted(tested)}")
        seen += [label for label in sorted(classes) if label not in seen]
        overlap = sum(1 for other in stream.experiences if set(other.classes) & set(classes)) > 1
        new_only = stream.scenario not in ("class", "task") or not overlap
        require(new_only, f"{where}: in a {stream.scenario}-incremental stream each class is in one experience only")
        same = stream.scenario != "domain" or set(classes) == set(stream.experiences[0].classes)
        require(same, f"{where}: in a domain-incremental stream each experience has all classes")
    require(seen == list(range(len(seen))), f"labels appear in the order {seen}: number them from 0 as they appear")
    names = len(stream.class_names)
    require(names == len(seen), f"{names} class names for {len(seen)} classes")


def check_not_empty(stream: Stream) -> None:
    """Require training and test samples in every experience: one without cannot be trained on, or has no accuracy."""
    require(len(stream.experiences) > 0, "the stream has no experience")
    for name, part in _named_parts(stream):
        require(len(part) > 0 or name.endswith("validation"), f"{name}: has no samples")


def check_no_leak(stream: Stream) -> None:
    """Require that no test or validation sample is trained on, by position in the arrays and by content.

    The whole stream is compared; in one of domains, which may show a picture again, each experience alone for the content.
    """
    names = list(_named_parts(stream))
    trained = [part for name, part in names if name.endswith("train")]
    for name, part in names:
        if not name.endswith("train"):
            same_arrays = [other.indices for other in trained if other.arrays.x is part.arrays.x]
            positions = set(torch.cat(same_arrays).tolist()) if same_arrays else set()
            shared = positions & set(part.indices.tolist())
            require(
                not shared, f"{name}: {len(shared)} of its samples are in a training part too: {sorted(shared)[:3]}"
            )
    alone = stream.scenario in ("domain", "mixed")
    groups = [[each] for each in stream.experiences] if alone else [list(stream.experiences)]
    for group in groups:
        seen = {key for experience in group for key in _contents(experience.train)}
        test = [key for experience in group for key in _contents(experience.test)]
        leaked = sum(key in seen for key in test)
        if leaked > _MAX_LEAK * len(test):
            raise ContractError(f"{leaked} of {len(test)} test samples are equal to a training sample: keep them apart")


def _contents(part: Part) -> Iterator[bytes]:
    """Yield a digest of each sample."""
    for index in part.indices.tolist():
        yield hashlib.blake2b(part.arrays.x[index].contiguous().numpy().tobytes(), digest_size=8).digest()
