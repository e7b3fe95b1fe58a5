"""Checkpoints: complete or absent, checked when read, safe to load (safetensors and JSON, nothing pickled).

A checkpoint is a folder with ``tensors.safetensors``, ``state.json`` and ``manifest.json`` (format, the config it belongs to,
SHA-256 of both). It is written under another name, flushed to the disk and renamed, so that one that has its final name is
whole. ``000003`` is after three experiences, ``000003+000000120`` 120 iterations into the fourth. A damaged newest one is passed
over for the one before; one of another config or another format is refused.
"""

import errno
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..errors import UserError
from ..files import digest, sync
from ..ledger.documents import checksum
from .state_codec import flatten, unflatten

FORMAT = 2
_KIND = "retain checkpoint"
_FILES = ("tensors.safetensors", "state.json")
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO)
_log = logging.getLogger(__name__)


def checkpoint_name(experience: int, iteration: int | None = None) -> str:
    """The name after `experience` experiences or, with `iteration`, amid the next one; names sort in order of time."""
    return f"{experience:06d}" + ("" if iteration is None else f"+{iteration:09d}")


class CheckpointWriter:
    """Writes one trial's checkpoints, one at a time, in a thread of its own: training waits for the copy in memory only.

    A context: leaving it waits for the last one. What goes wrong in the thread is raised by the next call, or on leaving.
    """

    def __init__(self, folder: Path, keep: int, config: str) -> None:
        """`folder`: for the checkpoints; `keep`: how many stay; `config`: what tells whose they are (a hash)."""
        self.folder, self.keep, self.config = folder, keep, config
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[Path] | None = None

    @property
    def busy(self) -> bool:
        """Whether one is being written now."""
        return self._writing is not None and not self._writing.done()

    def save(self, name: str, state: dict[str, Any]) -> None:
        """Copy `state` (nested dicts and lists of tensors, numbers, strings, None) and have it written as `name`."""
        tensors: dict[str, torch.Tensor] = {}
        plain = flatten(state, tensors)
        self.wait()
        self._writing = self._thread.submit(_write, self.folder / name, plain, tensors, self.keep, self.config)

    def wait(self) -> None:
        """Until the last one is on the disk; OSError when it could not be written."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def __enter__(self) -> Self:
        """Return the writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the last one."""
        with ExitStack() as stack:
            stack.callback(self._thread.shutdown)
            self.wait()


def valid_checkpoints(folder: Path, config: str | None = None) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The valid checkpoints with their states, on the CPU, newest first. A damaged one is logged and passed over.

    Raises:
        UserError: one is of another format, or of another `config` than the given one.
    """
    for path in reversed(_all(folder)):
        problem = _problem(path, config)
        if problem is not None:
            log_skipped(path, problem)
            continue
        # copies: what the library gives are views of one buffer, whose alignment can tell in the last bits of a product
        tensors = {name: tensor.clone() for name, tensor in load_file(path / "tensors.safetensors").items()}
        state = unflatten(json.loads((path / "state.json").read_text()), tensors)
        assert isinstance(state, dict)
        yield path, state


def log_skipped(path: Path, problem: str) -> None:
    """Say that a checkpoint is not used, and why."""
    _log.warning("checkpoint %s is passed over: %s", path, problem)


def load_newest_checkpoint(folder: Path, config: str | None = None) -> dict[str, Any] | None:
    """The state of the newest valid checkpoint; None where there is none."""
    return next((state for _, state in valid_checkpoints(folder, config)), None)


def _write(final: Path, plain: Any, tensors: dict[str, torch.Tensor], keep: int, config: str) -> Path:
    """Write one beside its place, flush, rename; then remove what is older than the newest `keep`."""
    folder = final.parent
    temporary = folder / f".{final.name}.{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, temporary, ignore_errors=True)  # on a full disk, give the room back
        temporary.mkdir(parents=True)
        sync(folder.parent)
        _save_tensors(tensors, temporary / "tensors.safetensors")
        (temporary / "state.json").write_text(json.dumps(plain))
        digests = {name: digest(temporary / name) for name in _FILES}
        about: dict[str, Any] = {"kind": _KIND, "format": FORMAT, "config": config, "files": digests}
        (temporary / "manifest.json").write_text(json.dumps({**about, "sha256": checksum(about)}))
        for path in (*temporary.iterdir(), temporary):
            sync(path)
        if final.exists():
            shutil.rmtree(final)
        os.rename(temporary, final)
    sync(folder)
    _tidy(final, keep)
    return final


def _save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """The library tells a full disk in its own way; here it is the OSError that it was."""
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def _tidy(newest: Path, keep: int) -> None:
    """Remove all but the newest `keep`, and what killed processes left."""
    found = _all(newest.parent)
    kept = found[: found.index(newest) + 1][-keep:]  # later ones were passed over: damaged, or of another past
    for other in found:
        if other not in kept:
            shutil.rmtree(other)
    for left in newest.parent.glob(".*.tmp"):
        shutil.rmtree(left)


def _all(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("[0-9]*") if path.is_dir())


def _problem(path: Path, config: str | None) -> str | None:
    """Why a checkpoint is damaged, or None; UserError where it is none of ours to read."""
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        whole = manifest.pop("sha256") == checksum(manifest)
        changed = [name for name in _FILES if digest(path / name) != manifest["files"][name]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"{type(error).__name__}: {error}"
    except OSError as error:  # what may pass (too many open files, a network disk away) must not cost what was done
        if error.errno not in _GONE:
            raise
        return f"{type(error).__name__}: {error}"
    if changed or not whole:
        return f"{changed[0] if whole else 'manifest.json'} has changed since it was written"
    number = manifest["format"]
    if manifest["kind"] != _KIND or number != FORMAT:
        raise UserError(
            f"{path} is a '{manifest['kind']}' of format {number}: this version of retain reads format {FORMAT}."
        )
    if config is not None and manifest["config"] != config:
        raise UserError(f"{path} belongs to another trial: its config is not that of this folder. Remove it to go on.")
    return None
