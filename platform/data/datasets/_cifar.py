"""CIFAR's files (Krizhevsky 2009): the binary version, or the pickled one, which torchvision verifies and reads.

A record of the binary version is one or two label bytes and a picture's 3,072 bytes: red, green, blue, each row by row.
N samples.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import UserError
from ..cache import DataFolders, load_or_make
from ._download import fetch, verified
from ._locate import identity, places

_Array = np.ndarray[Any, np.dtype[Any]]
_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32
_PARTS = ({"train": True}, {"train": False})  # torchvision's keywords


@dataclass(frozen=True, slots=True)
class CifarSet:
    """The names of a CIFAR's files, and its classes.

    `name` is that of the usual folder and of cache entries; in `binary` and `pickled`, the folders of the two versions,
    lie the training files and, last, the test file. `coarse[label]` is the second label that CIFAR-100's records have.
    """

    name: str
    title: str
    torchvision: str
    binary: str
    binary_files: tuple[str, ...]
    pickled: str
    pickled_files: tuple[str, ...]
    num_classes: int
    coarse: tuple[int, ...] = ()


def open_cifar(wanted: CifarSet, folders: DataFolders) -> tuple[str, dict[str, torch.Tensor]]:
    """Return the name and the arrays of the cache entry: the data folder's files, an earlier download, or a download now.

    Raises:
        UserError: the files are nowhere to be found, or one is damaged.
    """
    tried = places(folders, (wanted.binary, f"{wanted.name}/{wanted.binary}", ".", wanted.name))
    for folder in tried:
        files = [folder / name for name in wanted.binary_files]
        if any(path.is_file() for path in files):
            return _open(wanted, files, None, folders)
    downloads = folders.cache / "downloads"
    for root in [*places(folders, (".", wanted.name)), downloads]:
        files = [root / wanted.pickled / name for name in wanted.pickled_files]
        present = [path.is_file() for path in files]
        if all(present) or (any(present) and root != downloads):
            break
    else:  # what is in `downloads` by now may be half a download
        fetch(wanted.title, wanted.torchvision, downloads, tried, _advice(wanted), _PARTS)
    return _open(wanted, files, root, folders)


def _open(
    wanted: CifarSet, files: list[Path], root: Path | None, folders: DataFolders
) -> tuple[str, dict[str, torch.Tensor]]:
    """Open the entry of the binary files, or of the pickled ones below `root`."""
    lacking = [path for path in files if not path.is_file()]
    if lacking:
        raise UserError(f"{lacking[0]}: is missing; {wanted.title} has {len(files)} such files in one folder.")

    def read() -> dict[str, _Array]:
        arrays = _read_binary(wanted, files) if root is None else _read_pickled(wanted, root, folders)
        _check_classes(wanted, arrays, files[0].parent)
        return arrays

    key = f"{wanted.name}-{identity(files)}"
    return key, load_or_make(key, read, folders.cache)


def _read_binary(wanted: CifarSet, files: list[Path]) -> dict[str, _Array]:
    """Read the binary version; the last file is the test part, a fifth of the training part in both sets."""
    read = [_read_records(wanted, path) for path in files]
    train_x, train_y = (np.concatenate(arrays) for arrays in zip(*read[:-1], strict=True))
    test_x, test_y = read[-1]
    if len({len(y) for _, y in read[:-1]}) > 1 or len(train_y) != 5 * len(test_y):
        found = ", ".join(f"{path.name} {len(y):,}" for path, (_, y) in zip(files, read, strict=True))
        raise UserError(
            f"{files[0].parent}: truncated or damaged: training files must be of one size and together have five times "
            f"the test file's pictures; they have: {found}. Get them again."
        )
    return {"train_x": train_x, "train_y": train_y, "test_x": test_x, "test_y": test_y}


def _read_records(wanted: CifarSet, path: Path) -> tuple[_Array, _Array]:
    """Read one binary file: pictures (N, 3, 32, 32) uint8 and their (fine) labels (N,) int64."""
    num_labels = 2 if wanted.coarse else 1
    raw = np.fromfile(path, np.uint8)
    size = num_labels + _PIXELS
    if not len(raw) or len(raw) % size:
        raise UserError(
            f"{path}: is truncated or damaged: a picture of {wanted.title} takes {size:,} bytes and the file has "
            f"{len(raw):,}, which is no multiple of that."
        )
    records = raw.reshape(-1, size)
    y = records[:, num_labels - 1].astype(np.int64)
    if y.max() >= wanted.num_classes:
        raise UserError(f"{path}: is damaged: label {y.max()}, of {wanted.num_classes} classes from 0.")
    if wanted.coarse and not np.array_equal(np.array(wanted.coarse)[y], records[:, 0]):
        raise UserError(f"{path}: is damaged: a picture's coarse label does not fit its fine label.")
    return records[:, num_labels:].reshape(-1, *_SHAPE), y


def _read_pickled(wanted: CifarSet, root: Path, folders: DataFolders) -> dict[str, _Array]:
    """Let torchvision read the pickled version."""
    arrays: dict[str, _Array] = {}
    again = root == folders.cache / "downloads"
    for part, source in zip(("train", "test"), verified(wanted.torchvision, root, _PARTS, again), strict=True):
        arrays[f"{part}_x"] = source.data.transpose(0, 3, 1, 2)
        arrays[f"{part}_y"] = np.array(source.targets, dtype=np.int64)
    return arrays


def _check_classes(wanted: CifarSet, arrays: dict[str, _Array], folder: Path) -> None:
    """Refuse a set that lacks a class."""
    for part in ("train", "test"):
        found = len(np.unique(arrays[f"{part}_y"]))
        if found != wanted.num_classes:
            raise UserError(f"{folder}: its {part} part has {found} of the {wanted.num_classes} classes; damaged?")


def _advice(wanted: CifarSet) -> str:
    """How else to get the files."""
    return (
        f"put the folder {wanted.binary} (the binary version: {', '.join(wanted.binary_files)}) or {wanted.pickled} (the "
        f"Python version) of https://www.cs.toronto.edu/~kriz/cifar.html, unpacked, into a folder and set data.root or "
        f"RETAIN_DATA to it."
    )
