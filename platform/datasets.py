"""The data sets under the benchmarks: where they are found, read and kept. N samples, C channels, H height, W width.

Each function returns its data set from the cache (see `cache.prepared`); what reads the source is imported and run only
when the cache has no entry.
"""

import gzip
import hashlib
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from .cache import DataFolders, prepared
from .errors import UserError
from .streams import Arrays

_Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class DataSet:
    """A data set with its fixed test part: `train.x`, `test.x` (N, C, H, W) uint8, `y` (N,) int64 in its own numbering.

    `key` names these very arrays, for what is prepared from them. `mean` and `std` are per channel, of the training
    pictures scaled to [0, 1].
    """

    key: str
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: Arrays
    test: Arrays

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return tuple(self.train.x.shape[1:])


def digits(folders: DataFolders) -> DataSet:
    """Handwritten digits, 8x8 grey, 1,442 for training and 355 for testing; bundled with scikit-learn.

    Grey values 0..16 are stored as 0..255. Every fifth picture of a class, in the file's order, is for testing: the
    split is always the same. Source: Alpaydin & Kaynak 1998 (UCI optdigits, its test file).
    """
    return _dataset("digits", folders, _read_digits, tuple("0123456789"), mean=0.3052, std=0.3760)


def mnist(folders: DataFolders) -> DataSet:
    """MNIST: handwritten digits, 28x28 grey, 60,000 for training and 10,000 for testing (LeCun, Cortes, Burges).

    Raises:
        UserError: the files are nowhere to be found, or one is damaged.
    """
    files = _find(_MNIST, folders)
    key = f"mnist-{_identity(files)}"
    return _dataset(key, folders, lambda: _read_idx_set(files), tuple("0123456789"), mean=0.1307, std=0.3081)


def fashion_mnist(folders: DataFolders) -> DataSet:
    """Fashion-MNIST: clothes, 28x28 grey, 60,000 for training and 10,000 for testing (Xiao, Rasul, Vollgraf 2017).

    Raises:
        UserError: the files are nowhere to be found, or one is damaged.
    """
    files = _find(_FASHION, folders)
    key = f"fashion_mnist-{_identity(files)}"
    return _dataset(key, folders, lambda: _read_idx_set(files), _CLOTHES, mean=0.2860, std=0.3530)


_CLOTHES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def _dataset(
    key: str,
    folders: DataFolders,
    read: Callable[[], dict[str, _Array]],
    class_names: tuple[str, ...],
    mean: float,
    std: float,
) -> DataSet:
    """Open the prepared arrays of a grey data set, or prepare them by `read`."""
    arrays = prepared(key, read, folders.cache)
    train = Arrays(arrays["train_x"], arrays["train_y"])
    test = Arrays(arrays["test_x"], arrays["test_y"])
    return DataSet(key, class_names, (mean,), (std,), train, test)


def _read_digits() -> dict[str, _Array]:
    """Read scikit-learn's digits and split them."""
    from sklearn.datasets import load_digits

    source = load_digits()
    x = np.round(source.images * (255 / 16)).astype(np.uint8)[:, None]
    y = source.target.astype(np.int64)
    test = np.zeros(len(y), dtype=bool)
    for label in range(10):
        test[np.flatnonzero(y == label)[4::5]] = True
    return {"train_x": x[~test], "train_y": y[~test], "test_x": x[test], "test_y": y[test]}


# --- idx files: MNIST's format, http://yann.lecun.com/exdb/mnist (big-endian header, then bytes) ---


@dataclass(frozen=True, slots=True)
class _IdxSet:
    """Where a data set of four idx files lies, how torchvision calls it, and the md5 of its raw training labels."""

    title: str
    torchvision: str
    folders: tuple[str, ...]
    labels_md5: str
    install: str


_MNIST = _IdxSet("MNIST", "MNIST", ("mnist", "MNIST/raw", "MNIST", "."), "a25bea736e30d166cdddb491f175f624", "")
_FASHION = _IdxSet(
    "Fashion-MNIST",
    "FashionMNIST",
    ("fashion-mnist", "FashionMNIST/raw", "fashion_mnist", "FashionMNIST", "."),
    "9018921c3c673c538a1fc5bad174d6f9",
    "`apt-get install dataset-fashion-mnist` (Debian, Ubuntu), or ",
)
_DEBIAN = Path("/usr/share/datasets")
_FILES = {
    "train_x": ("train-images", "idx3-ubyte"),
    "train_y": ("train-labels", "idx1-ubyte"),
    "test_x": ("t10k-images", "idx3-ubyte"),
    "test_y": ("t10k-labels", "idx1-ubyte"),
}
_SAMPLE = 65536  # bytes at either end of a file that go into its identity; a .gz file's end holds its content's CRC


def read_idx(path: Path, dimensions: int) -> _Array:
    """Read an idx file of bytes, gzipped or plain, as uint8 with that many dimensions.

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
    shape = tuple(int(size) for size in np.frombuffer(raw, ">u4", dimensions, 4))
    wanted = head + math.prod(shape)
    if len(raw) != wanted:
        raise UserError(f"{path}: is truncated or damaged: its shape {shape} needs {wanted} bytes, it has {len(raw)}.")
    return np.frombuffer(raw, np.uint8, offset=head).reshape(shape)


def _raw(path: Path) -> bytes:
    """Return a file's content, unpacked where its name says so."""
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}); truncated or damaged? Get it again.") from error


def _read_idx_set(files: dict[str, Path]) -> dict[str, _Array]:
    """Read the four files of a data set and check that they belong together."""
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


def _identity(files: dict[str, Path]) -> str:
    """Name the content of the files cheaply: sizes, times and both ends of each."""
    digest = hashlib.sha256()
    for path in files.values():
        status = path.stat()
        with path.open("rb") as file:
            start = file.read(_SAMPLE)
            file.seek(max(0, status.st_size - _SAMPLE))
            digest.update(f"{status.st_size} {status.st_mtime_ns} ".encode() + start + file.read())
    return digest.hexdigest()[:16]


def _find(wanted: _IdxSet, folders: DataFolders) -> dict[str, Path]:
    """Return the four files: from the data folder, a package, an earlier download, or a download now.

    A folder with some of the four is refused, not passed over: the user meant it.
    """
    places = [] if folders.root is None else [folders.root / name for name in wanted.folders]
    places.append(_DEBIAN / wanted.folders[0])
    for folder in places:
        files = _files(folder)
        if len(files) == len(_FILES) and not _is_another(wanted, files["train_y"]):
            return files
        if 0 < len(files) < len(_FILES):
            lacking = next(f"{a}-{b}.gz" for part, (a, b) in _FILES.items() if part not in files)
            raise UserError(f"{folder}: has {len(files)} of the four files of {wanted.title}; {lacking} is missing.")
    downloaded = folders.cache / "downloads" / wanted.torchvision / "raw"
    if len(_files(downloaded)) < len(_FILES):
        _download(wanted, folders.cache / "downloads", places)
    return _files(downloaded)


def _files(folder: Path) -> dict[str, Path]:
    """Those of the four files that a folder has, under any of their usual names."""
    names = {part: [f"{a}{dot}{b}{end}" for end in (".gz", "") for dot in "-."] for part, (a, b) in _FILES.items()}
    found = {part: next((folder / n for n in known if (folder / n).is_file()), None) for part, known in names.items()}
    return {part: path for part, path in found.items() if path is not None}


def _is_another(wanted: _IdxSet, labels: Path) -> bool:
    """Whether these are the labels of the other set: both use the same file names."""
    other = _FASHION if wanted is _MNIST else _MNIST
    return hashlib.md5(_raw(labels), usedforsecurity=False).hexdigest() == other.labels_md5


def _download(wanted: _IdxSet, downloads: Path, places: list[Path]) -> None:
    """Let torchvision fetch the files, which checks their md5 sums."""
    from torchvision import datasets

    try:
        downloads.mkdir(parents=True, exist_ok=True)
        with FileLock(downloads / f"{wanted.torchvision}.lock"):
            getattr(datasets, wanted.torchvision)(downloads, download=True)
    except (OSError, RuntimeError) as error:  # no network; a mirror's wrong file
        reason = " ".join(str(error).split())
        names = ", ".join(f"{a}-{b}.gz" for a, b in _FILES.values())
        raise UserError(
            f"{wanted.title} was not found in {', '.join(map(str, places))}, nor could it be downloaded ({reason}). "
            f"Do one of these: {wanted.install}put {names} into a folder {wanted.folders[0]} and set data.root or "
            f"RETAIN_DATA to the folder that holds it."
        ) from error
