"""How a data set becomes a stream: by class, by permuted pixels, by rotation; and the settings of each way.

Whatever is drawn comes from its own generator, seeded by (seed, purpose, number): the validation pictures of a class do
not move when the order of the classes does. N samples, C channels, H height, W width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from .cache import DataFolders, prepared
from .data_set import DataSet
from .streams import Arrays, Experience, Part, Stream

_Array = np.ndarray[Any, np.dtype[Any]]
_ORDER, _VALIDATION, _PIXELS = range(3)  # the purposes of random numbers


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassSplit:
    """Settings of a stream of new classes over a data set of `NUM_CLASSES`.

    num_experiences: how many experiences; must divide the number of classes.
    class_order: the classes in their order of appearance; null: shuffled by the seed.
    validation: fraction of each class's training pictures kept for validation.
    """

    NUM_CLASSES: ClassVar[int] = 10
    num_experiences: int = 5
    class_order: tuple[int, ...] | None = None
    validation: float = 0.1

    def __post_init__(self) -> None:
        total = self.NUM_CLASSES
        count = self.num_experiences
        if not 1 <= count <= total:
            raise ValueError(f"num_experiences={count}: must be between 1 and {total}, the number of classes")
        if total % count:
            allowed = ", ".join(str(n) for n in range(1, total + 1) if total % n == 0)
            raise ValueError(f"num_experiences={count}: must divide the number of classes, {total}: {allowed}")
        if self.class_order is not None and sorted(self.class_order) != list(range(total)):
            raise ValueError(f"class_order={self.class_order}: must hold each class from 0 to {total - 1} once")
        _check_validation(self.validation)


@dataclass(frozen=True, kw_only=True, slots=True)
class Permuted:
    """Settings of a stream of domains that differ by a permutation of the pixels.

    num_experiences: how many domains; the first is unpermuted.
    validation: fraction of each class's training pictures kept for validation, the same pictures in each domain.
    """

    num_experiences: int = 5
    validation: float = 0.1

    def __post_init__(self) -> None:
        if self.num_experiences < 1:
            raise ValueError(f"num_experiences={self.num_experiences}: must be at least 1")
        _check_validation(self.validation)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rotated:
    """Settings of a stream of domains that differ by a rotation of the pictures.

    angles: counter-clockwise, in degrees, one domain each, in this order. The default stays clear of 180, where 6 is 9.
    validation: fraction of each class's training pictures kept for validation, the same pictures in each domain.
    """

    angles: tuple[float, ...] = (0.0, 30.0, 60.0, 90.0, 120.0)
    validation: float = 0.1

    def __post_init__(self) -> None:
        if not self.angles or not all(math.isfinite(angle) for angle in self.angles):
            raise ValueError(f"angles={self.angles}: must be one or more finite numbers, in degrees")
        if len({angle % 360 for angle in self.angles}) < len(self.angles):
            raise ValueError(f"angles={self.angles}: must differ from each other (360 degrees is 0)")
        _check_validation(self.validation)


def _check_validation(validation: float) -> None:
    """Refuse a fraction that leaves nothing to train on."""
    if not 0 <= validation < 1:
        raise ValueError(f"{validation=}: must be at least 0 and less than 1, a fraction of the training pictures")


def by_class(name: str, source: DataSet, config: ClassSplit, seed: int) -> Stream:
    """Build a stream of new classes: labels are numbered in order of appearance, each class is in one experience."""
    num_classes = len(source.class_names)
    order = config.class_order or tuple(_generator(seed, _ORDER).permutation(num_classes).tolist())
    label_of = torch.empty(num_classes, dtype=torch.int64)
    label_of[list(order)] = torch.arange(num_classes)
    train, test = (Arrays(part.x, label_of[part.y]) for part in (source.train, source.test))
    fit, held = _validation_split(source, config.validation, seed)
    class_names = tuple(source.class_names[c] for c in order)
    size = num_classes // config.num_experiences
    experiences = []
    for first in range(0, num_classes, size):
        classes = tuple(range(first, first + size))
        parts = _of_classes(train, fit, classes), _of_classes(train, held, classes), _of_classes(test, None, classes)
        experiences.append(Experience("classes " + ", ".join(class_names[c] for c in classes), classes, *parts))
    return _stream(name, "class", source, experiences, class_names)


def permuted(name: str, source: DataSet, config: Permuted, seed: int) -> Stream:
    """Build a stream of domains: the pictures as they are, then under seeded permutations of their pixels."""
    domains = [("permutation 0", source.train.x, source.test.x)]
    height, width = source.shape[1:]
    for number in range(1, config.num_experiences):
        pixels = _generator(seed, _PIXELS, number).permutation(height * width)
        domains.append((f"permutation {number}", _permute(source.train.x, pixels), _permute(source.test.x, pixels)))
    return _domains(name, source, domains, config.validation, seed)


def rotated(name: str, source: DataSet, config: Rotated, seed: int, data: DataFolders) -> Stream:
    """Build a stream of domains: the pictures under each rotation, prepared once in the cache."""
    domains = []
    for angle in config.angles:
        train, test = _rotated_pictures(source, float(angle), data)
        domains.append((f"rotation {angle:g}", train, test))
    return _domains(name, source, domains, config.validation, seed)


def rotate(pictures: _Array, angle: float) -> _Array:
    """Rotate pictures (N, C, H, W) uint8 counter-clockwise about their centre by `angle` degrees; the rim is black.

    Bilinear in integer arithmetic, so that the bytes are the same on every machine.
    """
    count, channels, height, width = pictures.shape
    neighbours, weights = _bilinear(height, width, math.radians(angle))
    flat = np.zeros((count * channels, height * width + 1), dtype=np.uint8)  # the last column is the black outside
    flat[:, :-1] = pictures.reshape(count * channels, -1)
    result = np.empty((count * channels, height * width), dtype=np.uint8)
    for start in range(0, len(flat), 1024):
        chunk = flat[start : start + 1024]
        total = sum(np.take(chunk, n, axis=1) * w for n, w in zip(neighbours, weights, strict=True))
        result[start : start + 1024] = (total + 2**19) >> 20
    return result.reshape(pictures.shape)


def _bilinear(height: int, width: int, turn: float) -> tuple[_Array, _Array]:
    """For each pixel of the result: its four source pixels (4, H * W) and their weights, which sum to 2**20."""
    rows, columns = np.indices((height, width)).reshape(2, -1) - np.array([[(height - 1) / 2], [(width - 1) / 2]])
    # rows go down: a counter-clockwise turn of the picture looks up its source by this clockwise one
    y = rows * math.cos(turn) + columns * math.sin(turn) + (height - 1) / 2
    x = columns * math.cos(turn) - rows * math.sin(turn) + (width - 1) / 2
    places, weights = [], []
    for step in ((0, 0), (0, 1), (1, 0), (1, 1)):
        (row, in_row), (column, in_column) = (_side(at, up) for at, up in zip((y, x), step, strict=True))
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        places.append(np.where(inside, row * width + column, height * width))
        weights.append(in_row * in_column)
    return np.stack(places), np.stack(weights).astype(np.int32)


def _side(at: _Array, up: int) -> tuple[_Array, _Array]:
    """The grid line below (`up` 0) or above (1) each coordinate, and its weight in 1024ths."""
    fine = np.round(at * 1024).astype(np.int64)
    line, rest = fine // 1024, fine % 1024
    return (line + 1, rest) if up else (line, 1024 - rest)


def _rotated_pictures(source: DataSet, angle: float, data: DataFolders) -> tuple[torch.Tensor, torch.Tensor]:
    """Training and test pictures at an angle."""
    if angle % 360 == 0:
        return source.train.x, source.test.x
    parts = {"train_x": source.train.x, "test_x": source.test.x}
    made = prepared(
        f"{source.key}-rotated{angle % 360!r}",
        lambda: {part: rotate(x.numpy(), angle) for part, x in parts.items()},
        data.cache,
    )
    return made["train_x"], made["test_x"]


def _permute(pictures: torch.Tensor, pixels: _Array) -> torch.Tensor:
    """Put the pixels of pictures (N, C, H, W) into another order, the same in each channel."""
    moved = np.take(pictures.flatten(2).numpy(), pixels, axis=2)  # 3 times as fast as indexing in torch
    return torch.from_numpy(moved).view(pictures.shape)


def _domains(
    name: str, source: DataSet, domains: Sequence[tuple[str, torch.Tensor, torch.Tensor]], validation: float, seed: int
) -> Stream:
    """Build a stream of domains (name, training pictures, test pictures): all classes, and the same split, in each."""
    fit, held = _validation_split(source, validation, seed)
    every = torch.arange(len(source.test.y))
    classes = tuple(range(len(source.class_names)))
    experiences = []
    for title, train_x, test_x in domains:
        train, test = Arrays(train_x, source.train.y), Arrays(test_x, source.test.y)
        experiences.append(Experience(title, classes, Part(train, fit), Part(train, held), Part(test, every)))
    return _stream(name, "domain", source, experiences, source.class_names)


def _stream(
    name: str,
    scenario: Literal["class", "domain"],
    source: DataSet,
    experiences: list[Experience],
    class_names: tuple[str, ...],
) -> Stream:
    """Put the experiences together with what the data set says of its pictures."""
    return Stream(name, scenario, tuple(experiences), class_names, source.shape, source.mean, source.std)


def _of_classes(arrays: Arrays, indices: torch.Tensor | None, classes: tuple[int, ...]) -> Part:
    """Those of the indices (None: all) whose label is among the classes."""
    chosen = torch.arange(len(arrays.y)) if indices is None else indices
    return Part(arrays, chosen[torch.isin(arrays.y[chosen], torch.tensor(classes))])


def _validation_split(source: DataSet, fraction: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Split the training part into indices to fit on and indices held out, `fraction` of each class, both ascending."""
    held = torch.zeros(len(source.train.y), dtype=torch.bool)
    for label in range(len(source.class_names)):
        members = torch.nonzero(source.train.y == label).flatten()
        count = min(round(fraction * len(members)), len(members) - 1)  # a class is never held out whole
        chosen = _generator(seed, _VALIDATION, label).permutation(len(members))[:count]
        held[members[torch.from_numpy(chosen)]] = True
    return torch.nonzero(~held).flatten(), torch.nonzero(held).flatten()


def _generator(seed: int, *purpose: int) -> np.random.Generator:
    """Make the generator of one purpose."""
    return np.random.default_rng([seed, *purpose])
