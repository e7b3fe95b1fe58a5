"""Prepare picture files once: several threads decode and resize them into the memory-mapped arrays of a cache entry.

Shapes: N pictures of a part, C channels, S side.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Condition
from typing import Any, Literal

import numpy as np
import torch

from ..errors import UserError
from .cache import DataFolders, load_or_fill
from .cache_entry import EntryWriter
from .image_decoding import MAX_PIXELS, VERSION, UnreadableError, decode, printable

SKIPPED = "skipped.txt"  # in the entry: the skipped files, each with the reason
_CHUNK = 64  # files that a thread decodes at a time
_SUMMED = 2**22  # bytes of pictures summed at a time
_SHOWN = 10  # unreadable files named in an error

_Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Listing:
    """The files of one part of a data set, in order, with their labels and, if any, their domains."""

    paths: Sequence[Path]
    y: Sequence[int]
    domains: Sequence[int] | None = None


def cached_images(
    key: str,
    parts: Mapping[str, Listing] | Callable[[], Mapping[str, Listing]],
    size: int,
    folders: DataFolders,
    *,
    channels: int = 3,
    unreadable: Literal["refuse", "skip"] = "refuse",
    crop: bool = True,
    max_pixels: int = MAX_PIXELS,
) -> dict[str, torch.Tensor]:
    """Open a cache entry of pictures, or decode the files into it.

    Args:
        key: name of the entry; it must change with the files and with every setting.
        parts: the files of each part, or a function that lists them, called only if the entry has to be made.
        size: side S of the pictures in pixels.
        channels: 3 for RGB, 1 for grey.
        unreadable: "refuse" files that cannot be decoded, or "skip" them and list them in the entry's skipped.txt.
        crop: keep the centre of a picture that is not square; False: squeeze it.
        max_pixels: a picture of more pixels is unreadable; those decoded at the same time have no more together either.

    Returns:
        For each part, named as in `parts`: ``{part}_x`` (N, C, S, S) uint8, ``{part}_y`` (N,) int64 and, with domains,
        ``{part}_d`` (N,) int64. Also `mean` and `std` (C,) of the first part's pictures in [0, 1], rounded to four places.

    Raises:
        UserError: a part has no pictures, files cannot be read, or the cache has no room.
    """

    def fill(writer: EntryWriter) -> None:
        listings = parts() if callable(parts) else parts
        total = sum(len(listing.paths) for listing in listings.values())
        needed = total * (channels * size * size + 16)
        writer.need(needed)
        room = f"needs {needed / 1e6:,.1f} MB, {writer.free / 1e6:,.0f} MB are free"
        form = _Form(size, channels, crop, max_pixels)
        decoder = _Decoder(form, f"{key}: {total:,} pictures to {size}x{size}; {room}", total, folders)
        with _without_pillows_limit():
            skipped = [line for part, listing in listings.items() for line in decoder.fill(writer, part, listing)]
        if skipped and unreadable == "refuse":
            raise _refusal(skipped, total)
        if skipped:
            writer.note(SKIPPED, "\n".join(skipped) + "\n")
        mean, std = statistics(writer.array(f"{next(iter(listings))}_x"))
        writer.save({"mean": mean, "std": std})

    return load_or_fill(key, fill, folders.cache)


def files_identity(parts: Mapping[str, Listing], root: Path, *settings: object) -> str:
    """Hash files cheaply, for a cache key: their paths below `root`, sizes, times, labels, domains; and the settings."""
    digest = hashlib.sha256(repr((VERSION, *settings)).encode())
    for part, listing in parts.items():
        domains = listing.domains or [0] * len(listing.paths)
        for path, label, domain in zip(listing.paths, listing.y, domains, strict=True):
            line = f"{part} {label} {domain} {_stamp(path)} {path.relative_to(root)}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def _stamp(path: Path) -> str:
    """Return a file's size and time, or "-" for one without a status, such as a dead link: decoding will fail too."""
    try:
        status = path.stat()
    except OSError:
        return "-"
    return f"{status.st_size} {status.st_mtime_ns}"


@contextmanager
def _without_pillows_limit() -> Iterator[None]:
    """Switch Pillow's limit on pixels off, since `decode` checks another; Pillow knows only one for the whole process."""
    from PIL import Image

    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


@dataclass(frozen=True, slots=True)
class _Form:
    """The form of prepared pictures, as `cached_images` describes it."""

    size: int
    channels: int
    crop: bool
    max_pixels: int


class _PixelBudget:
    """Lets threads hold decoded pictures of at most `limit` pixels together; a larger one alone."""

    def __init__(self, limit: int) -> None:
        self._limit, self._used, self._changed = limit, 0, Condition()

    @contextmanager
    def room(self, pixels: int) -> Iterator[None]:
        """Wait until there is room, and hold it."""
        with self._changed:
            self._changed.wait_for(lambda: not self._used or self._used + pixels <= self._limit)
            self._used += pixels
        try:
            yield
        finally:
            with self._changed:
                self._used -= pixels
                self._changed.notify_all()


class _Decoder:
    """Fills the arrays of one part after another and reports progress."""

    def __init__(self, form: _Form, title: str, total: int, folders: DataFolders) -> None:
        self._form, self._budget = form, _PixelBudget(form.max_pixels)
        self._title, self._total, self._done = title, total, 0
        self._progress = folders.progress or (lambda title, done, total: None)

    def fill(self, writer: EntryWriter, part: str, listing: Listing) -> list[str]:
        """Decode a part without its unreadable files; return a line for each of those."""
        if not listing.paths:
            raise UserError(f"{self._title.partition(':')[0]}: the part {part} has no pictures.")
        form = self._form
        x = writer.create(f"{part}_x", (len(listing.paths), form.channels, form.size, form.size), np.uint8)
        self._progress(self._title, self._done, self._total)
        reasons = self._decode(listing.paths, x)
        rows = np.array([i for i in range(len(x)) if i not in reasons], dtype=np.int64)
        lines = [f"{printable(listing.paths[i])}: {reason}" for i, reason in reasons.items()]
        if not len(rows):
            raise _refusal(lines, len(x))
        if reasons:
            writer.keep(f"{part}_x", rows)
        writer.save({f"{part}_y": np.asarray(listing.y, dtype=np.int64)[rows]})
        if listing.domains is not None:
            writer.save({f"{part}_d": np.asarray(listing.domains, dtype=np.int64)[rows]})
        return lines

    def _decode(self, paths: Sequence[Path], x: _Array) -> dict[int, str]:
        """Write picture i to x[i]; return the reason for each failure. PIL releases the GIL while it decodes."""

        def decode_some(chunk: range) -> dict[int, str]:
            failed, form = {}, self._form
            for i in chunk:
                try:
                    x[i] = decode(
                        paths[i],
                        form.size,
                        form.channels,
                        form.crop,
                        max_pixels=form.max_pixels,
                        room=self._budget.room,
                    )
                except UnreadableError as error:
                    failed[i] = str(error)
            return failed

        from PIL import Image

        Image.init()  # here, because it is not thread-safe
        reasons: dict[int, str] = {}
        chunks = [range(start, min(start + _CHUNK, len(paths))) for start in range(0, len(paths), _CHUNK)]
        pool = ThreadPoolExecutor(num_workers())
        with ExitStack() as stack:
            stack.callback(pool.shutdown, cancel_futures=True)  # Ctrl-C does not wait for chunks that have not begun
            for chunk, failed in zip(chunks, pool.map(decode_some, chunks), strict=True):
                reasons |= failed
                self._done += len(chunk)
                self._progress(self._title, self._done, self._total)
        return reasons


def num_workers() -> int:
    """Return the number of decoding threads: the CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def statistics(x: _Array) -> tuple[_Array, _Array]:
    """Return mean and standard deviation (C,) of pictures (N, C, H, W) uint8 scaled to [0, 1], rounded to four places.

    They are computed from sums of integers, so they are the same on every machine. A constant channel gets deviation 1.
    """
    total = np.zeros(x.shape[1], dtype=np.int64)
    squares = np.zeros(x.shape[1], dtype=np.int64)
    step = max(1, _SUMMED // x[:1].nbytes)
    for start in range(0, len(x), step):
        rows = x[start : start + step].astype(np.int64)
        total += rows.sum((0, 2, 3))
        squares += (rows * rows).sum((0, 2, 3))
    num = x.size / x.shape[1]
    mean = total / num
    std = np.sqrt(np.maximum(squares / num - mean**2, 0))
    return np.round(mean / 255, 4), np.round(np.where(std > 0, std / 255, 1), 4)


def _refusal(unreadable: Sequence[str], total: int) -> UserError:
    """Return the error for unreadable files: the names of the first, and how many there are."""
    shown = "; ".join(sorted(unreadable)[:_SHOWN])
    more = f"; and {len(unreadable) - _SHOWN} more" if len(unreadable) > _SHOWN else ""
    advice = "Mend or remove them; where a data set has the setting unreadable, skip leaves them out."
    return UserError(f"{len(unreadable)} of {total} pictures cannot be read: {shown}{more}. {advice}")
