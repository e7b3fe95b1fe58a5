"""Read CIFAR's files (Krizhevsky 2009): the binary version, or the pickled one, which torchvision verifies and reads.

A record of the binary version is one or two label bytes and the picture's 3,072 bytes: red, green, blue, each row by row.
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
from ._locate import candidate_folders, content_identity

_Array = np.ndarray[Any, np.dtype[Any]]
_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32
_PARTS = ({"train": True}, {"train": False})  # torchvision's keywords


@dataclass(frozen=True, slots=True)
class CifarSet:
    """The file names and classes of CIFAR-10 or CIFAR-100.

    `name` is the usual folder name and the prefix of cache keys. `binary` and `pickled` are the folders of the two versions;
    in each, the test file is listed last, after the training files. `coarse[label]` is CIFAR-100's second label.
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


def open_cifar(cifar: CifarSet, folders: DataFolders) -> tuple[str, dict[str, torch.Tensor]]:
    """Return the key and the arrays of the cache entry.

    The files come from the data folder, from an earlier download, or are downloaded now.

    Raises:
        UserError: the files are not found, or one is damaged.
    """
    tried = candidate_folders(folders, (cifar.binary, f"{cifar.name}/{cifar.binary}", ".", cifar.name))
    for folder in tried:
        files = [folder / name for name in cifar.binary_files]
        if any(path.is_file() for path in files):
            return _open(cifar, files, None, folders)
    downloads = folders.cache / "downloads"
    for root in [*candidate_folders(folders, (".", cifar.name)), downloads]:
        files = [root / cifar.pickled / name for name in cifar.pickled_files]
        present = [path.is_file() for path in files]
        if all(present) or (any(present) and root != downloads):
            break
    else:  # `downloads` may hold an incomplete download
        fetch(cifar.title, cifar.torchvision, downloads, tried, _advice(cifar), _PARTS)
    return _open(cifar, files, root, folders)


def _open(
    cifar: CifarSet, files: list[Path], root: Path | None, folders: DataFolders
) -> tuple[str, dict[str, torch.Tensor]]:
    """Open the entry of the binary files or, if `root` is given, of the pickled files below it."""
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise UserError(f"{missing[0]}: is missing; {cifar.title} has {len(files)} such files in one folder.")

    def read() -> dict[str, _Array]:
        arrays = _read_binary(cifar, files) if root is None else _read_pickled(cifar, root, folders)
        _check_classes(cifar, arrays, files[0].parent)
        return arrays

    key = f"{cifar.name}-{content_identity(files)}"
    return key, load_or_make(key, read, folders.cache)


def _read_binary(cifar: CifarSet, files: list[Path]) -> dict[str, _Array]:
    """Read the binary version; the last file is the test part, in both sets a fifth of the training part's size."""
    records = [_read_records(cifar, path) for path in files]
    train_x, train_y = (np.concatenate(arrays) for arrays in zip(*records[:-1], strict=True))
    test_x, test_y = records[-1]
    if len({len(y) for _, y in records[:-1]}) > 1 or len(train_y) != 5 * len(test_y):
        sizes = ", ".join(f"{path.name} {len(y):,}" for path, (_, y) in zip(files, records, strict=True))
        raise UserError(
            f"{files[0].parent}: truncated or damaged: training files must be of one size and together have five times "
            f"the test file's pictures; they have: {sizes}. Get them again."
        )
    return {"train_x": train_x, "train_y": train_y, "test_x": test_x, "test_y": test_y}


def _read_records(cifar: CifarSet, path: Path) -> tuple[_Array, _Array]:
    """Read one binary file: pictures (N, 3, 32, 32) uint8 and their (fine) labels (N,) int64."""
    num_labels = 2 if cifar.coarse else 1
    raw = np.fromfile(path, np.uint8)
    size = num_labels + _PIXELS
    if not len(raw) or len(raw) % size:
        raise UserError(
            f"{path}: is truncated or damaged: a picture of {cifar.title} takes {size:,} bytes and the file has "
            f"{len(raw):,}, which is no multiple of that."
        )
    records = raw.reshape(-1, size)
    y = records[:, num_labels - 1].astype(np.int64)
    if y.max() >= cifar.num_classes:
        raise UserError(f"{path}: is damaged: label {y.max()}, of {cifar.num_classes} classes from 0.")
    if cifar.coarse and not np.array_equal(np.array(cifar.coarse)[y], records[:, 0]):
        raise UserError(f"{path}: is damaged: a picture's coarse label does not fit its fine label.")
    return records[:, num_labels:].reshape(-1, *_SHAPE), y


def _read_pickled(cifar: CifarSet, root: Path, folders: DataFolders) -> dict[str, _Array]:
    """Let torchvision read the pickled version."""
    arrays: dict[str, _Array] = {}
    again = root == folders.cache / "downloads"
    for part, source in zip(("train", "test"), verified(cifar.torchvision, root, _PARTS, again), strict=True):
        arrays[f"{part}_x"] = source.data.transpose(0, 3, 1, 2)
        arrays[f"{part}_y"] = np.array(source.targets, dtype=np.int64)
    return arrays


def _check_classes(cifar: CifarSet, arrays: dict[str, _Array], folder: Path) -> None:
    """Refuse a set that lacks a class."""
    for part in ("train", "test"):
        num_found = len(np.unique(arrays[f"{part}_y"]))
        if num_found != cifar.num_classes:
            raise UserError(f"{folder}: its {part} part has {num_found} of the {cifar.num_classes} classes; damaged?")


def _advice(cifar: CifarSet) -> str:
    """How else to get the files."""
    return (
        f"put the folder {cifar.binary} (the binary version: {', '.join(cifar.binary_files)}) or {cifar.pickled} (the "
        f"Python version) of https://www.cs.toronto.edu/~kriz/cifar.html, unpacked, into a folder and set data.root or "
        f"RETAIN_DATA to it."
    )
