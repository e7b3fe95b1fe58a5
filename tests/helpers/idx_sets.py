"""Tiny MNIST-like sets in the real format; the real ones are in RETAIN_DATA, or shared/data in or next to the checkout."""

import gzip
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np

from retain.platform.data.datasets import _idx

REPOSITORY = Path(__file__).resolve().parents[2]
_REAL_NAMES = {"mnist": "mnist", "fashion_mnist": "fashion-mnist"}


def real_root() -> Path | None:
    """Return the folder with the real sets, if it exists."""
    places = (REPOSITORY / "shared" / "data", REPOSITORY.parent / "shared" / "data")
    root = os.environ.get("RETAIN_DATA") or next((str(place) for place in places if place.is_dir()), None)
    return Path(root) if root else None


REAL_ROOT = real_root()


def is_real(name: str) -> bool:
    """Return whether the real files of a benchmark's data set exist."""
    source = name.partition("_")[2]
    if source not in _REAL_NAMES:
        return True
    roots = [_idx.DEBIAN] + ([REAL_ROOT] if REAL_ROOT else [])
    return any(len(_idx.files_in(root / _REAL_NAMES[source])) == 4 for root in roots)


def write_idx(path: Path, array: np.ndarray[Any, Any]) -> None:
    """Write bytes as an idx file, gzipped if the name ends in .gz."""
    raw = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(raw, 1) if path.suffix == ".gz" else raw)


def write_set(folder: Path, dot: str = "-", end: str = ".gz", seed: int = 0) -> Path:
    """Write a data set of 200 + 50 noisy pictures, ten classes of unequal sizes."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    for part, count in (("train", 200), ("t10k", 50)):
        labels = np.concatenate([np.arange(10), generator.integers(0, 10, count - 10)])
        write_idx(folder / f"{part}-images{dot}idx3-ubyte{end}", generator.integers(0, 256, (count, 28, 28)))
        write_idx(folder / f"{part}-labels{dot}idx1-ubyte{end}", labels)
    return folder
