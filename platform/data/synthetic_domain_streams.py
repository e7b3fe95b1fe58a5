"""Make domains from one data set by changing its pictures; classes, labels and the split are the same in each.

Expensive changes are prepared once, in the cache. N samples, C channels, H height, W width.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from .cache import DataFolders, load_or_fill
from .cache_entry import EntryWriter
from .class_streams import check_shots, training_indices
from .dataset import DataSet
from .streams import Arrays, Experience, Part, Stream
from .subsampling import SubsetOptions, train_validation_split

Pictures = np.ndarray[Any, np.dtype[Any]]
_Change = Callable[[Pictures, str, int], Pictures]  # (pictures, part, index of the first) -> pictures
_CHUNK = 1024  # pictures changed at a time
Domain = tuple[str, torch.Tensor, torch.Tensor]  # name, training pictures, test pictures


def check_different(key: str, chosen: Sequence[str], known: Sequence[str]) -> None:
    """Require one or more names, each once. Unknown names were refused before."""
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"{key}={list(chosen)}: must be one or more names, each once, of {', '.join(known)}")


def stream_of_domains(
    name: str, source: DataSet, domains: Sequence[Domain], config: SubsetOptions, seed: int
) -> Stream:
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
    return Stream(name, "domain", tuple(experiences), source.class_names, shape, mean, std, source.notes)


def changed_pictures(
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
