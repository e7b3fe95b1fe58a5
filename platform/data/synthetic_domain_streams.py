"""Make domains from one data set by changing its pictures; classes, labels and the split are the same in each.

Expensive changes are prepared once, in the cache. N samples, C channels, H height, W width.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

import numpy as np
import torch

from ..errors import UserError
from . import corruptions, image_rotation, image_styles
from .cache import DataFolders, load_or_fill
from .cache_entry import EntryWriter
from .class_streams import check_shots, training_indices
from .corruptions import Corruption
from .dataset import DataSet
from .image_rotation import rotate
from .image_styles import Style
from .streams import Arrays, Experience, Part, Stream
from .subsampling import ANGLES, PIXELS, SubsetOptions, numpy_generator, train_validation_split

_Array = np.ndarray[Any, np.dtype[Any]]
_Change = Callable[[_Array, str, int], _Array]  # (pictures, part, index of the first) -> pictures
_CHUNK = 1024  # pictures changed at a time
_ANGLES = (0.0, 30.0, 60.0, 90.0, 120.0)
_Domain = tuple[str, torch.Tensor, torch.Tensor]  # name, training pictures, test pictures


@dataclass(frozen=True, kw_only=True, slots=True)
class Permuted(SubsetOptions):
    """Settings of a stream of domains that differ by a permutation of the pixels.

    num_experiences: number of domains. The first is unpermuted; the seed samples the permutations of the others.
    """

    num_experiences: int = 5

    def __post_init__(self) -> None:
        SubsetOptions.__post_init__(self)
        if self.num_experiences < 1:
            raise ValueError(f"num_experiences={self.num_experiences}: must be at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rotated(SubsetOptions):
    """Settings of a stream of domains that differ by a rotation of the pictures.

    angles: counter-clockwise, in degrees, one domain each, in this order. The default avoids 180, which turns a 6 into a 9.
    num_random_angles: number of angles sampled by the seed from [0, 180), instead of `angles`, as in the rotated MNIST of DER
        and GEM; null: use `angles`.
    """

    angles: tuple[float, ...] = _ANGLES
    num_random_angles: int | None = None

    def __post_init__(self) -> None:
        SubsetOptions.__post_init__(self)
        if not self.angles or not all(math.isfinite(angle) for angle in self.angles):
            raise ValueError(f"angles={self.angles}: must be one or more finite numbers, in degrees")
        if len({angle % 360 for angle in self.angles}) < len(self.angles):
            raise ValueError(f"angles={self.angles}: must differ from each other (360 degrees is 0)")
        if self.num_random_angles is not None and self.num_random_angles < 1:
            raise ValueError(
                f"num_random_angles={self.num_random_angles}: must be at least 1, or null for the angles given"
            )
        if self.num_random_angles is not None and self.angles != _ANGLES:
            raise ValueError(
                f"angles={self.angles}: are not used with num_random_angles={self.num_random_angles}: leave them out"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Corrupted(SubsetOptions):
    """Settings of a stream of domains that differ by a corruption of the pictures.

    corruptions: names, one domain each, in this order; "none" leaves the data unchanged. Default: one of each family.
    severity: 1 to 5, as in ImageNet-C, for all corruptions.
    """

    corruptions: tuple[Corruption, ...] = ("none", "gaussian_noise", "defocus_blur", "fog", "pixelate")
    severity: int = 3

    def __post_init__(self) -> None:
        SubsetOptions.__post_init__(self)
        _check_different("corruptions", self.corruptions, get_args(Corruption))
        if not 1 <= self.severity <= 5:
            raise ValueError(f"severity={self.severity}: must be from 1 to 5")


@dataclass(frozen=True, kw_only=True, slots=True)
class Restyled(SubsetOptions):
    """Settings of a stream of domains that differ by colour or style; grey pictures become RGB.

    styles: names, one domain each, in this order; "as_is" leaves the data unchanged.
    """

    styles: tuple[Style, ...] = ("as_is", "tinted", "inverted", "posterised", "sketch")

    def __post_init__(self) -> None:
        SubsetOptions.__post_init__(self)
        _check_different("styles", self.styles, get_args(Style))


def permuted(name: str, source: DataSet, config: Permuted, seed: int) -> Stream:
    """Build a stream of domains: the original pictures, then seeded permutations of their pixels."""
    domains = [("permutation 0", source.train.x, source.test.x)]
    height, width = source.shape[1:]
    for experience in range(1, config.num_experiences):
        pixels = numpy_generator(seed, PIXELS, experience).permutation(height * width)
        domains.append((f"permutation {experience}", _permute(source.train.x, pixels), _permute(source.test.x, pixels)))
    return _stream(name, source, domains, config, seed)


def rotated(name: str, source: DataSet, config: Rotated, seed: int, folders: DataFolders) -> Stream:
    """Build a stream of domains: the pictures rotated by each angle."""
    domains: list[_Domain] = []
    angles = config.angles
    if config.num_random_angles is not None:
        angles = tuple(numpy_generator(seed, ANGLES).uniform(0, 180, config.num_random_angles).round(3).tolist())
    for angle in map(float, angles):
        key = "" if angle % 360 == 0 else f"rotated{angle % 360!r}-{image_rotation.VERSION}"
        domains.append((f"rotation {angle:g}", *_changed(source, key, partial(_rotate, angle % 360), folders)))
    return _stream(name, source, domains, config, seed)


def corrupted(name: str, source: DataSet, config: Corrupted, seed: int, folders: DataFolders) -> Stream:
    """Build a stream of domains: the pictures with each corruption, which does not depend on the seed.

    Raises:
        UserError: the corruption "jpeg" with pictures that have neither one channel nor three.
    """
    if "jpeg" in config.corruptions and source.shape[0] not in (1, 3):
        raise UserError(f"benchmark.{name}.corruptions: 'jpeg' needs 1 channel or 3, not {source.shape[0]}.")
    domains: list[_Domain] = []
    for corruption in config.corruptions:
        key = "" if corruption == "none" else f"{corruption}{config.severity}-{corruptions.VERSION}"
        changed = _changed(source, key, partial(_corrupt, corruption, config.severity), folders)
        domains.append((corruption if not key else f"{corruption} {config.severity}", *changed))
    return _stream(name, source, domains, config, seed)


def restyled(name: str, source: DataSet, config: Restyled, seed: int, folders: DataFolders) -> Stream:
    """Build a stream of domains: the pictures in each style, as RGB.

    Raises:
        UserError: the pictures are neither grey nor RGB, or the style "hue_rotated" is used with grey pictures.
    """
    if source.shape[0] not in (1, 3):
        raise UserError(f"benchmark.{name}.data: the pictures have {source.shape[0]} channels, not 1 or 3.")
    grey = source.shape[0] == 1
    if grey and "hue_rotated" in config.styles:
        raise UserError(f"benchmark.{name}.styles: 'hue_rotated' changes nothing in grey pictures.")
    domains: list[_Domain] = []
    for style in config.styles:
        key = "" if style == "as_is" and not grey else f"{style}-{image_styles.VERSION}"
        domains.append((style, *_changed(source, key, partial(_restyle, style), folders, 3)))
    return _stream(name, source, domains, config, seed)


def _check_different(key: str, chosen: Sequence[str], known: Sequence[str]) -> None:
    """Require one or more names, each once. Unknown names were refused before."""
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"{key}={list(chosen)}: must be one or more names, each once, of {', '.join(known)}")


def _stream(name: str, source: DataSet, domains: Sequence[_Domain], config: SubsetOptions, seed: int) -> Stream:
    """Build a stream of domains, with all classes and the same split in each."""
    check_shots(name, config, len(domains))
    train_indices, validation_indices = train_validation_split(source, config, seed)
    test_indices, classes = torch.arange(len(source.test.y)), tuple(range(len(source.class_names)))
    experiences = []
    for number, (title, train_x, test_x) in enumerate(domains):
        train, test = Arrays(train_x, source.train.y), Arrays(test_x, source.test.y)
        shots = training_indices(source, config, train_indices, number, seed)
        experiences.append(
            Experience(title, classes, Part(train, shots), Part(train, validation_indices), Part(test, test_indices))
        )
    shape = tuple(domains[0][1].shape[1:])
    mean, std = (value * (shape[0] // len(value)) for value in (source.mean, source.std))  # grey may have become RGB
    return Stream(name, "domain", tuple(experiences), source.class_names, shape, mean, std)


def _changed(
    source: DataSet, key: str, change: _Change, folders: DataFolders, channels: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return training and test pictures after a change, prepared once under `key`.

    An empty `key` means no change. `channels` is the number of channels after the change, None if it stays the same.
    """
    if not key:
        return source.train.x, source.test.x
    parts = {"train": source.train.x, "test": source.test.x}
    shapes = {part: (len(x), channels or x.shape[1], *x.shape[2:]) for part, x in parts.items()}

    def fill(writer: EntryWriter) -> None:
        total, done = sum(map(len, parts.values())), 0
        writer.need(sum(map(math.prod, shapes.values())))
        for part, x in parts.items():
            array = writer.create(f"{part}_x", shapes[part], np.uint8)
            for start in range(0, len(x), _CHUNK):
                chunk = x[start : start + _CHUNK].numpy()
                array[start : start + len(chunk)] = change(chunk, part, start)
                done += len(chunk)
                if folders.progress is not None:
                    folders.progress(f"{source.key}-{key}", done, total)

    arrays = load_or_fill(f"{source.key}-{key}", fill, folders.cache)
    return arrays["train_x"], arrays["test_x"]


def _rotate(angle: float, pictures: _Array, part: str, start: int) -> _Array:
    return rotate(pictures, angle)


def _corrupt(name: Corruption, severity: int, pictures: _Array, part: str, start: int) -> _Array:
    return corruptions.corrupt(name, severity, pictures, part, start)


def _restyle(style: Style, pictures: _Array, part: str, start: int) -> _Array:
    return image_styles.restyle(style, pictures)


def _permute(pictures: torch.Tensor, pixels: _Array) -> torch.Tensor:
    """Permute the pixels of pictures (N, C, H, W), the same way in each channel."""
    moved = np.take(pictures.flatten(2).numpy(), pixels, axis=2)  # 3 times as fast as indexing in torch
    return torch.from_numpy(moved).view(pictures.shape)
