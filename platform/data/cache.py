"""Cache prepared arrays: made once, checksummed, and memory-mapped by every process that needs them.

An entry is a folder of the cache: one ``.npy`` file per array and a ``manifest.json`` with their sizes and sha256 sums.
It is written under a lock into a temporary folder and then renamed, so it is either complete or absent. Every entry can be
made again, so the cache may be deleted at any time.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock

from ..errors import UserError
from ..files import digest
from .cache_entry import ENTRY_FORMAT, EntryWriter, new_entry, reraise_write_errors

HASHED_BELOW = 64 * 2**20  # bytes: smaller entries are hashed when a process first opens them, larger ones are not

_Array = np.ndarray[Any, np.dtype[Any]]
_Stamp = tuple[str, int, int, int]
_hashed: set[_Stamp] = set()  # files that this process has verified; a changed file has another stamp
_opened: dict[Path, bool] = {}  # entries opened by this process, in order; True if it made them
Progress = Callable[[str, int, int], None]  # (title, done, total)


@dataclass(frozen=True, slots=True)
class DataFolders:
    """The folders of data sets (`root`; None: only the usual locations) and of prepared arrays (`cache`).

    `progress` is called during long preparations.
    """

    root: Path | None
    cache: Path
    progress: Progress | None = field(default=None, compare=False)

    @classmethod
    def of(cls, root: str | None = None, cache: str | None = None) -> "DataFolders":
        """Resolve `data.root` and `data.cache` to absolute paths; they default to RETAIN_DATA and RETAIN_CACHE.

        Raises:
            UserError: the data folder does not exist.
        """
        name = "data.root" if root else "RETAIN_DATA"
        chosen = root or os.environ.get("RETAIN_DATA")
        folder = _absolute(chosen) if chosen else None
        if folder is not None and not folder.is_dir():
            raise UserError(f"{name}={chosen}: there is no such folder.")
        return cls(folder, _absolute(cache or os.environ.get("RETAIN_CACHE") or "~/.cache/retain"))


def load_or_make(key: str, make: Callable[[], Mapping[str, _Array]], cache: Path) -> dict[str, torch.Tensor]:
    """Map the arrays of an entry as tensors; call `make` only if the entry is absent or damaged.

    The maps are copy-on-write: processes share the pages, and a write stays in the process that made it. Sizes and headers are
    checked at every opening; sums once per process, for entries below `HASHED_BELOW` bytes.

    Args:
        key: name of the entry, a file name. It must change with everything that the arrays depend on.
        make: returns the arrays by name; runs in one process at a time.
        cache: the cache folder, created if absent.

    Raises:
        UserError: the cache folder cannot be written, or has no room.
    """
    return load_or_fill(key, lambda writer: writer.save(make()), cache)


def load_or_fill(key: str, fill: Callable[[EntryWriter], None], cache: Path) -> dict[str, torch.Tensor]:
    """Do as `load_or_make`, for arrays too large for memory: `fill` creates them on the disk and fills them."""
    folder = entry_folder(key, cache)
    arrays, made = _open(folder), False
    if arrays is None:
        with reraise_write_errors(cache):
            cache.mkdir(parents=True, exist_ok=True)
            lock = FileLock(cache / f"{folder.name}.lock")
            lock.acquire()
        try:
            arrays = _open(folder)  # another process may have made it meanwhile
            if arrays is None:
                with new_entry(folder, cache) as writer:
                    fill(writer)
                arrays, made = _open(folder), True
        finally:
            lock.release()
    if arrays is None:
        raise UserError(
            f"data.cache={cache}: {folder.name} was just written and does not read back; is the disk sound?"
        )
    _opened[folder] = made or _opened.get(folder, False)
    return arrays


def entry_folder(key: str, cache: Path) -> Path:
    """Return the folder of an entry."""
    return cache / f"{key}-v{ENTRY_FORMAT}"


def opened_entries() -> dict[Path, bool]:
    """Return the folders of the entries opened by this process, in order of first opening; True if it made them."""
    return dict(_opened)


def _absolute(path: str) -> Path:
    """Make a path absolute, because workers run in other folders."""
    return Path(path).expanduser().absolute()


def _open(folder: Path) -> dict[str, torch.Tensor] | None:
    """Map an entry; return None if it is absent, incomplete or damaged."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        entries: dict[str, dict[str, Any]] = manifest["arrays"]
        hashing = sum(entry["bytes"] for entry in entries.values()) < HASHED_BELOW
        return {name: _map(folder / f"{name}.npy", entry, hashing) for name, entry in entries.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError):
        return None


def _map(path: Path, entry: dict[str, Any], hashing: bool) -> torch.Tensor:
    """Map one file and compare it with its line of the manifest; raise ValueError if they differ."""
    status = path.stat()
    stamp = (str(path), status.st_ino, status.st_size, status.st_mtime_ns)
    if status.st_size != entry["bytes"]:
        raise ValueError(f"{path}: {status.st_size} bytes, not {entry['bytes']}")
    if hashing and stamp not in _hashed:
        if digest(path) != entry["sha256"]:
            raise ValueError(f"{path}: its sha256 differs from the manifest's")
        _hashed.add(stamp)
    array = np.load(path, mmap_mode="c", allow_pickle=False)
    if list(array.shape) != entry["shape"] or str(array.dtype) != entry["dtype"]:
        raise ValueError(f"{path}: {array.dtype} {array.shape}, not {entry['dtype']} {entry['shape']}")
    return torch.from_numpy(array)
