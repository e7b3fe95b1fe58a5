"""Read data sets in idx files, MNIST's format (http://yann.lecun.com/exdb/mnist): a big-endian header, then bytes."""

import gzip
import hashlib
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UserError
from ..cache import DataFolders, load_or_make
from ..dataset import DataSet, make_data_set
from ._download import fetch
from ._locate import candidate_folders, content_identity

_Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class IdxSet:
    """A data set of four idx files: torchvision's class name, the usual folders, other ways to get it."""

    title: str
    torchvision: str
    folders: tuple[str, ...]
    install: str


DEBIAN = Path("/usr/share/datasets")
_LABELS_MD5 = {  # of the raw training labels: both sets use the same file names
    "MNIST": "a25bea736e30d166cdddb491f175f624",
    "FashionMNIST": "9018921c3c673c538a1fc5bad174d6f9",
}
_FILES = {
    "train_x": ("train-images", "idx3-ubyte"),
    "train_y": ("train-labels", "idx1-ubyte"),
    "test_x": ("t10k-images", "idx3-ubyte"),
    "test_y": ("t10k-labels", "idx1-ubyte"),
}


def idx_set(
    name: str,
    files: IdxSet,
    class_names: tuple[str, ...],
    mean: float,
    std: float,
    folders: DataFolders,
    normalise: bool,
) -> DataSet:
    """Open the prepared data set of four idx files.

    Raises:
        UserError: the files are not found, or one is damaged.
    """
    paths = find(files, folders)
    key = f"{name}-{content_identity(paths.values())}"
    arrays = load_or_make(key, lambda: read_set(paths), folders.cache)
    return make_data_set(key, arrays, class_names, (mean,), (std,), normalise=normalise)


def read_idx(path: Path, dimensions: int) -> _Array:
    """Read an idx file of bytes, gzipped or plain, as uint8 with `dimensions` dimensions.

    Raises:
        UserError: the file is truncated, damaged or of another kind.
    """
    raw = _raw(path)
    head = 4 + 4 * dimensions
    magic = bytes((0, 0, 8, dimensions))
    if raw[:4] != magic:
        kind = f"an idx file of bytes in {dimensions} dimensions"
        raise UserError(f"{path}: is not {kind}: it starts with {raw[:4].hex()}, not {magic.hex()}.")
    if len(raw) < head:
        raise UserError(f"{path}: is truncated: its header alone has {head} bytes, the file {len(raw)}.")
    shape = tuple(int(length) for length in np.frombuffer(raw, ">u4", dimensions, 4))
    size = head + math.prod(shape)
    if len(raw) != size:
        raise UserError(f"{path}: is truncated or damaged: its shape {shape} needs {size} bytes, it has {len(raw)}.")
    return np.frombuffer(raw, np.uint8, offset=head).reshape(shape)


def _raw(path: Path) -> bytes:
    """Return a file's content, unpacked if its name ends in .gz."""
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}); truncated or damaged? Get it again.") from error


def read_set(files: dict[str, Path]) -> dict[str, _Array]:
    """Read the four files of a data set and check that they match."""
    arrays: dict[str, _Array] = {}
    for part in ("train", "test"):
        pictures, labels = files[f"{part}_x"], files[f"{part}_y"]
        x, y = read_idx(pictures, 3), read_idx(labels, 1)
        if x.shape[1:] != (28, 28):
            raise UserError(f"{pictures}: pictures must be 28x28, not {x.shape[1]}x{x.shape[2]}.")
        if len(x) != len(y):
            raise UserError(f"{labels}: {len(y)} labels for the {len(x)} pictures of {pictures.name}.")
        if set(np.unique(y).tolist()) != set(range(10)):
            raise UserError(f"{labels}: its labels must be the ten from 0 to 9, each at least once.")
        arrays |= {f"{part}_x": x[:, None], f"{part}_y": y.astype(np.int64)}
    return arrays


def find(idx: IdxSet, folders: DataFolders) -> dict[str, Path]:
    """Return the four files: from the data folder, a Debian package, an earlier download, or a download now.

    A folder with only some of the four is refused, not skipped, because the user meant it.

    Raises:
        UserError: files are missing, or they cannot be downloaded.
    """
    tried = [*candidate_folders(folders, idx.folders), DEBIAN / idx.folders[0]]
    for folder in tried:
        files = files_in(folder)
        if len(files) == len(_FILES) and not _is_another(idx, files["train_y"]):
            return files
        if 0 < len(files) < len(_FILES):
            missing = next(f"{a}-{b}.gz" for part, (a, b) in _FILES.items() if part not in files)
            raise UserError(f"{folder}: has {len(files)} of the four files of {idx.title}; {missing} is missing.")
    downloads = folders.cache / "downloads"
    downloaded = downloads / idx.torchvision / "raw"
    if len(files_in(downloaded)) < len(_FILES):
        fetch(idx.title, idx.torchvision, downloads, tried, _advice(idx))
    return files_in(downloaded)


def files_in(folder: Path) -> dict[str, Path]:
    """Return those of the four files that a folder has, under any of their usual names."""
    names = {part: [f"{a}{dot}{b}{end}" for end in (".gz", "") for dot in "-."] for part, (a, b) in _FILES.items()}
    present = {part: next((folder / n for n in known if (folder / n).is_file()), None) for part, known in names.items()}
    return {part: path for part, path in present.items() if path is not None}


def _is_another(idx: IdxSet, labels: Path) -> bool:
    """Return whether these are the labels of the other set; both use the same file names."""
    md5 = hashlib.md5(_raw(labels), usedforsecurity=False).hexdigest()
    return md5 in _LABELS_MD5.values() and md5 != _LABELS_MD5[idx.torchvision]


def _advice(idx: IdxSet) -> str:
    """How else to get the files."""
    names = ", ".join(f"{a}-{b}.gz" for a, b in _FILES.values())
    return (
        f"{idx.install}put {names} into a folder {idx.folders[0]} and set data.root or RETAIN_DATA to the folder "
        f"that holds it."
    )
