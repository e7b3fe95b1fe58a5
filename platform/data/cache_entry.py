"""Write an entry of the cache: whole arrays, or memory-mapped arrays that are filled piece by piece.

An entry is a folder: one ``.npy`` file per array and a ``manifest.json`` with their sizes and sha256 sums.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..files import digest, fsync

ENTRY_FORMAT = 1
_BLOCK = 2**24  # bytes copied at a time
_Array = np.ndarray[Any, np.dtype[Any]]


class EntryWriter:
    """Write the arrays of one entry into a new folder; disk errors become a UserError that names the setting."""

    def __init__(self, folder: Path, cache: Path) -> None:
        """Take a new, empty `folder` below `cache`."""
        self._folder, self._cache = folder, cache
        self._maps: dict[str, np.memmap[Any, Any]] = {}

    @property
    def free(self) -> int:
        """Return the free bytes on the disk of the entry."""
        return shutil.disk_usage(self._folder).free

    def need(self, size: int) -> None:
        """Check that `size` bytes are free, before anything is written.

        Raises:
            UserError: fewer bytes are free.
        """
        if size > self.free:
            name = self._folder.name.removeprefix(".").removesuffix(".tmp")
            raise UserError(
                f"data.cache={self._cache}: {name} needs {size:,} bytes and {self.free:,} are free; make room, or set "
                f"data.cache or RETAIN_CACHE to a folder that has it."
            )

    def create(self, name: str, shape: tuple[int, ...], dtype: type[np.generic]) -> "np.memmap[Any, Any]":
        """Create an array on the disk and return its memory map; threads may fill it in any order.

        Its blocks are allocated now. Otherwise writing to the map on a full disk would kill the process (SIGBUS).
        """
        path = self._folder / f"{name}.npy"
        with reraise_write_errors(self._cache):
            array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
            if hasattr(os, "posix_fallocate"):  # not on macOS
                with path.open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        self._maps[name] = array
        return array

    def array(self, name: str) -> "np.memmap[Any, Any]":
        """Return an array made by `create`."""
        return self._maps[name]

    def save(self, arrays: Mapping[str, _Array]) -> None:
        """Write whole arrays."""
        self.need(sum(array.nbytes for array in arrays.values()))
        for name, array in arrays.items():
            path = self._folder / f"{name}.npy"
            with reraise_write_errors(self._cache), path.open("wb") as file:
                np.save(file, np.ascontiguousarray(array), allow_pickle=False)

    def keep(self, name: str, rows: _Array) -> "np.memmap[Any, Any]":
        """Reduce an array made by `create` to the given rows (n,), in this order."""
        whole = self._maps.pop(name)
        path = self._folder / f"{name}.npy"
        renamed = path.with_suffix(".whole")
        with reraise_write_errors(self._cache):
            path.rename(renamed)
        reduced = self.create(name, (len(rows), *whole.shape[1:]), whole.dtype.type)
        step = max(1, _BLOCK // max(1, whole[:1].nbytes))
        for start in range(0, len(rows), step):
            reduced[start : start + step] = whole[rows[start : start + step]]
        renamed.unlink()
        return reduced

    def note(self, name: str, text: str) -> None:
        """Add a text file for readers to the entry."""
        with reraise_write_errors(self._cache):
            (self._folder / name).write_text(text, encoding="utf-8")

    def finish(self) -> None:
        """Flush all arrays to the disk, then write the manifest."""
        with reraise_write_errors(self._cache):
            for array in self._maps.values():
                array.flush()
            entries = {path.stem: _line(path) for path in sorted(self._folder.glob("*.npy"))}
            with (self._folder / "manifest.json").open("w", encoding="utf-8") as file:
                json.dump({"format": ENTRY_FORMAT, "arrays": entries}, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            fsync(self._folder)


@contextmanager
def new_entry(folder: Path, cache: Path) -> Iterator[EntryWriter]:
    """Write an entry into a temporary folder and rename it on success; the caller holds the entry's lock."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    with reraise_write_errors(cache):
        for stale in (temporary, folder):  # left by a killed process, or damaged
            if stale.exists():
                shutil.rmtree(stale)
        temporary.mkdir()
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, temporary, ignore_errors=True)
        writer = EntryWriter(temporary, cache)
        yield writer
        writer.finish()
        with reraise_write_errors(cache):
            os.rename(temporary, folder)
            fsync(folder.parent)


@contextmanager
def reraise_write_errors(cache: Path) -> Iterator[None]:
    """Turn an OSError into a UserError that names the setting."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"data.cache={cache}: cannot be written ({reason}); set data.cache or RETAIN_CACHE to a folder that can."
        ) from error


def _line(path: Path) -> dict[str, Any]:
    """Sync one array to the disk and return its line of the manifest."""
    fsync(path)
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    size = path.stat().st_size
    return {"bytes": size, "sha256": digest(path), "shape": list(array.shape), "dtype": str(array.dtype)}
