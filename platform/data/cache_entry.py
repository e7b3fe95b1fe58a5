"""Writing an entry of the cache: whole arrays, or arrays on the disk that are filled piece by piece.

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
from ..files import digest, sync

FORMAT = 1
_BLOCK = 2**24  # bytes that are copied at a time
_Array = np.ndarray[Any, np.dtype[Any]]


class EntryWriter:
    """Writes the arrays of one entry into a folder of its own; failures of the disk are said with the setting's name."""

    def __init__(self, folder: Path, cache: Path) -> None:
        """`folder` is new and empty, below `cache`."""
        self._folder, self._cache = folder, cache
        self._maps: dict[str, np.memmap[Any, Any]] = {}

    @property
    def free(self) -> int:
        """Bytes that are free where the entry is written."""
        return shutil.disk_usage(self._folder).free

    def need(self, size: int) -> None:
        """Refuse to begin with what will not fit: `size` in bytes.

        Raises:
            UserError: fewer are free.
        """
        if size > self.free:
            name = self._folder.name.removeprefix(".").removesuffix(".tmp")
            raise UserError(
                f"data.cache={self._cache}: {name} needs {size:,} bytes and {self.free:,} are free; make room, or set "
                f"data.cache or RETAIN_CACHE to a folder that has it."
            )

    def create(self, name: str, shape: tuple[int, ...], dtype: type[np.generic]) -> "np.memmap[Any, Any]":
        """Make an array on the disk and map it, to be filled in any order, by several threads.

        Its blocks are allocated now: on a disk that fills up later, writing to a map would kill the process (SIGBUS).
        """
        path = self._folder / f"{name}.npy"
        with reraise_write_errors(self._cache):
            made = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
            if hasattr(os, "posix_fallocate"):  # macOS has none
                with path.open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        self._maps[name] = made
        return made

    def array(self, name: str) -> "np.memmap[Any, Any]":
        """A created array, to be read."""
        return self._maps[name]

    def save(self, arrays: Mapping[str, _Array]) -> None:
        """Write whole arrays."""
        self.need(sum(array.nbytes for array in arrays.values()))
        for name, array in arrays.items():
            path = self._folder / f"{name}.npy"
            with reraise_write_errors(self._cache), path.open("wb") as file:
                np.save(file, np.ascontiguousarray(array), allow_pickle=False)

    def keep(self, name: str, rows: _Array) -> "np.memmap[Any, Any]":
        """Reduce a created array to some of its rows (n,), in this order."""
        whole = self._maps.pop(name)
        path = self._folder / f"{name}.npy"
        aside = path.with_suffix(".whole")
        with reraise_write_errors(self._cache):
            path.rename(aside)
        kept = self.create(name, (len(rows), *whole.shape[1:]), whole.dtype.type)
        step = max(1, _BLOCK // max(1, whole[:1].nbytes))
        for start in range(0, len(rows), step):
            kept[start : start + step] = whole[rows[start : start + step]]
        aside.unlink()
        return kept

    def note(self, name: str, text: str) -> None:
        """Put a text file for people into the entry."""
        with reraise_write_errors(self._cache):
            (self._folder / name).write_text(text, encoding="utf-8")

    def finish(self) -> None:
        """Bring everything to the disk itself, then write the manifest."""
        with reraise_write_errors(self._cache):
            for made in self._maps.values():
                made.flush()
            entries = {path.stem: _line(path) for path in sorted(self._folder.glob("*.npy"))}
            with (self._folder / "manifest.json").open("w") as file:
                json.dump({"format": FORMAT, "arrays": entries}, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            sync(self._folder)


@contextmanager
def new_entry(folder: Path, cache: Path) -> Iterator[EntryWriter]:
    """Write an entry beside its place and, when all went well, rename it there; called under the entry's lock."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    with reraise_write_errors(cache):
        for stale in (temporary, folder):  # left by a killed process; damaged
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
            sync(folder.parent)


@contextmanager
def reraise_write_errors(cache: Path) -> Iterator[None]:
    """Turn a refusal by the file system into one by us, with the setting's name."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"data.cache={cache}: cannot be written ({reason}); set data.cache or RETAIN_CACHE to a folder that can."
        ) from error


def _line(path: Path) -> dict[str, Any]:
    """One array's line of the manifest, after it is on the disk itself."""
    sync(path)
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    size = path.stat().st_size
    return {"bytes": size, "sha256": digest(path), "shape": list(array.shape), "dtype": str(array.dtype)}
