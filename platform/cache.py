"""Arrays prepared once, checksummed, and mapped by every process that needs them.

An entry is a folder of the cache: one ``.npy`` file per array and a ``manifest.json`` with their sizes and sha256 sums.
It is made under a lock in a temporary folder and renamed: it is complete or absent. Entries hold nothing that cannot be
made again, so the cache may be deleted at any time.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock

from .errors import UserError
from .files import digest, sync

FORMAT = 1
HASHED_BELOW = 64 * 2**20  # bytes: entries up to this size are hashed at a process's first opening, larger ones are not

_Array = np.ndarray[Any, np.dtype[Any]]
_Stamp = tuple[str, int, int, int]
_hashed: set[_Stamp] = set()  # files whose sum this process has verified; a file changed since has another stamp


@dataclass(frozen=True, slots=True)
class DataFolders:
    """Where data sets are read (`root`, None: only the usual places) and where prepared arrays are kept (`cache`)."""

    root: Path | None
    cache: Path

    @classmethod
    def of(cls, root: str | None = None, cache: str | None = None) -> "DataFolders":
        """Resolve the settings `data.root` and `data.cache`, else RETAIN_DATA and RETAIN_CACHE, to absolute paths.

        Raises:
            UserError: the data folder does not exist.
        """
        name = "data.root" if root else "RETAIN_DATA"
        chosen = root or os.environ.get("RETAIN_DATA")
        folder = _absolute(chosen) if chosen else None
        if folder is not None and not folder.is_dir():
            raise UserError(f"{name}={chosen}: there is no such folder.")
        return cls(folder, _absolute(cache or os.environ.get("RETAIN_CACHE") or "~/.cache/retain"))


def prepared(key: str, make: Callable[[], Mapping[str, _Array]], cache: Path) -> dict[str, torch.Tensor]:
    """Map the arrays of an entry as tensors; `make` is called only when the entry is absent or damaged.

    The maps are copy-on-write: processes share the pages, and a write stays in the process that wrote. Sizes and
    headers are checked at every opening, sums once per process for entries below `HASHED_BELOW` bytes.

    Args:
        key: the entry's name, a file name; it must change with whatever the arrays depend on.
        make: returns the arrays by name; runs in one process at a time.
        cache: the cache folder, made if absent.

    Raises:
        UserError: the cache folder cannot be written.
    """
    folder = cache / f"{key}-v{FORMAT}"
    found = _open(folder)
    if found is not None:
        return found
    with _writing(cache):
        cache.mkdir(parents=True, exist_ok=True)
        lock = FileLock(cache / f"{folder.name}.lock")
        lock.acquire()
    try:
        found = _open(folder)  # another process may have made it while this one waited
        if found is None:
            arrays = make()
            with _writing(cache):
                _write(folder, arrays)
            found = _open(folder)
    finally:
        lock.release()
    if found is None:
        raise UserError(
            f"data.cache={cache}: {folder.name} was just written and does not read back; is the disk sound?"
        )
    return found


@contextmanager
def _writing(cache: Path) -> Iterator[None]:
    """Turn a refusal by the file system into one by us, with the setting's name."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"data.cache={cache}: cannot be written ({reason}); set data.cache or RETAIN_CACHE to a folder that can."
        ) from error


def _absolute(path: str) -> Path:
    """Workers run in other folders: relative paths hold for the process that read them."""
    return Path(path).expanduser().absolute()


def _open(folder: Path) -> dict[str, torch.Tensor] | None:
    """Map an entry; None where it is absent, incomplete or damaged."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        entries: dict[str, dict[str, Any]] = manifest["arrays"]
        hashing = sum(entry["bytes"] for entry in entries.values()) < HASHED_BELOW
        return {name: _map(folder / f"{name}.npy", entry, hashing) for name, entry in entries.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError):
        return None


def _map(path: Path, entry: dict[str, Any], hashing: bool) -> torch.Tensor:
    """Map one file and compare it with its line of the manifest; ValueError where they differ."""
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


def _write(folder: Path, arrays: Mapping[str, _Array]) -> None:
    """Write an entry beside its place and rename it there; called under the entry's lock."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    for stale in (temporary, folder):  # left by a killed process; damaged
        if stale.exists():
            shutil.rmtree(stale)
    temporary.mkdir()
    entries = {name: _save(temporary / f"{name}.npy", array) for name, array in arrays.items()}
    with (temporary / "manifest.json").open("w") as file:
        json.dump({"format": FORMAT, "arrays": entries}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    sync(temporary)
    os.rename(temporary, folder)
    sync(folder.parent)


def _save(path: Path, array: _Array) -> dict[str, Any]:
    """Write one array to the disk itself and return its line of the manifest."""
    with path.open("wb") as file:
        np.save(file, np.ascontiguousarray(array), allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    size = path.stat().st_size
    return {"bytes": size, "sha256": digest(path), "shape": list(array.shape), "dtype": str(array.dtype)}
