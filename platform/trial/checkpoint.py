"""Checkpoints: complete or absent, verified on reading, safe to load (safetensors and JSON, nothing pickled).

A checkpoint is a folder with ``tensors.safetensors``, ``state.json`` and ``manifest.json`` (format, config, SHA-256 of the other
two). It is written under a temporary name, flushed to the disk and renamed, so a checkpoint with its final name is complete.
``000003`` is after three experiences, ``000003+000000120`` 120 iterations into the fourth. If the newest checkpoint is damaged,
the one before is used. A checkpoint of another config or format is refused.
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
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from ..errors import UserError
from ..files import check_size, digest, fsync, open_regular, read_regular
from ..ledger.documents import checksum
from .state_codec import flatten, unflatten

CHECKPOINT_FORMAT = 2
_KIND = "retain checkpoint"
_FILES = ("tensors.safetensors", "state.json")
_MAX_STATE_BYTES, _MAX_MANIFEST_BYTES = 2**28, 2**20
_DAMAGE_ERRORS = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO, errno.EINVAL, errno.EFBIG, errno.ELOOP)
_log = logging.getLogger(__name__)


def checkpoint_name(experience: int, iteration: int | None = None) -> str:
    """Return a checkpoint's name; names sort by time.

    Args:
        experience: number of experiences before it.
        iteration: number of iterations of the next experience before it; None: at the boundary.
    """
    return f"{experience:06d}" + ("" if iteration is None else f"+{iteration:09d}")


class CheckpointWriter:
    """Writes one trial's checkpoints, one at a time, in a separate thread: training waits only for the copy in memory.

    A context manager: leaving it waits for the last checkpoint. An error in the thread is raised by the next call, or on
    leaving.
    """

    def __init__(self, folder: Path, keep: int, config: str) -> None:
        """Start the thread.

        Args:
            folder: the folder of the checkpoints.
            keep: how many of the newest stay.
            config: hash of the config that they belong to.
        """
        self.folder, self.keep, self.config = folder, keep, config
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[Path] | None = None

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written now."""
        return self._writing is not None and not self._writing.done()

    def save(self, name: str, state: dict[str, Any]) -> None:
        """Copy `state` (nested dicts and lists of tensors, numbers, strings, None) and start writing it as `name`."""
        tensors: dict[str, torch.Tensor] = {}
        plain = flatten(state, tensors)
        self.wait()
        self._writing = self._thread.submit(_write, self.folder / name, plain, tensors, self.keep, self.config)

    def wait(self) -> None:
        """Wait until the last checkpoint is on the disk; OSError if it could not be written."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def __enter__(self) -> Self:
        """Return the writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the last checkpoint."""
        with ExitStack() as stack:
            stack.callback(self._thread.shutdown)
            self.wait()


def valid_checkpoints(folder: Path, config: str | None = None) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the valid checkpoints with their states, on the CPU, newest first; a damaged one is logged and skipped.

    Args:
        folder: the folder of the checkpoints.
        config: hash of the config that they must belong to; None: any.

    Raises:
        UserError: a checkpoint has another format, or belongs to another config.
    """
    for path in reversed(_checkpoint_folders(folder)):
        problem = _problem(path, config)
        if problem is not None:
            log_skipped(path, problem)
            continue
        # clone: load_file returns views of one buffer, whose alignment can change the last bits of a product
        tensors = {name: tensor.clone() for name, tensor in load_file(path / "tensors.safetensors").items()}
        state = unflatten(json.loads(read_regular(path / "state.json", _MAX_STATE_BYTES)), tensors)
        assert isinstance(state, dict)
        yield path, state


def log_skipped(path: Path, problem: str) -> None:
    """Log that a checkpoint is not used, and why."""
    _log.warning("checkpoint %s is passed over: %s", path, problem)


def load_newest_checkpoint(folder: Path, config: str | None = None) -> dict[str, Any] | None:
    """Return the state of the newest valid checkpoint; None if there is none."""
    return next((state for _, state in valid_checkpoints(folder, config)), None)


def _write(final: Path, plain: Any, tensors: dict[str, torch.Tensor], keep: int, config: str) -> Path:
    """Write a checkpoint under a temporary name, flush, rename; then remove those older than the newest `keep`."""
    folder = final.parent
    temporary = folder / f".{final.name}.{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, temporary, ignore_errors=True)  # on a full disk, free the space again
        temporary.mkdir(parents=True)
        fsync(folder.parent)
        _save_tensors(tensors, temporary / "tensors.safetensors")
        (temporary / "state.json").write_text(json.dumps(plain), encoding="utf-8")
        digests = {name: digest(temporary / name) for name in _FILES}
        about: dict[str, Any] = {"kind": _KIND, "format": CHECKPOINT_FORMAT, "config": config, "files": digests}
        (temporary / "manifest.json").write_text(json.dumps({**about, "sha256": checksum(about)}), encoding="utf-8")
        for path in (*temporary.iterdir(), temporary):
            fsync(path)
        if final.exists():
            shutil.rmtree(final)
        os.rename(temporary, final)
    fsync(folder)
    _remove_old(final, keep)
    return final


def _save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Save tensors; an operating system's error, which safetensors wraps, is raised as an OSError."""
    path.touch()
    mode = path.stat().st_mode  # as the umask says; safetensors makes a new file that only its owner may read
    try:
        save_file(tensors, path)
        path.chmod(mode)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def _remove_old(newest: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints, and the temporary folders of killed processes."""
    checkpoints = _checkpoint_folders(newest.parent)
    # those after `newest` were skipped on resuming: they are damaged, or do not match the ledger's events
    keepers = checkpoints[: checkpoints.index(newest) + 1][-keep:]
    for path in checkpoints:
        if path not in keepers:
            shutil.rmtree(path)
    for temporary in newest.parent.glob(".*.tmp"):
        shutil.rmtree(temporary)


def _checkpoint_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("[0-9]*") if path.is_dir())


def _problem(path: Path, config: str | None) -> str | None:
    """Return why a checkpoint is damaged, or None; UserError if it has another format or belongs to another config."""
    try:
        manifest = json.loads(read_regular(path / "manifest.json", _MAX_MANIFEST_BYTES))
        manifest_valid = manifest.pop("sha256") == checksum(manifest)
        # first what takes no time, however large the files are
        check_size(path / "state.json", _MAX_STATE_BYTES)
        open_regular(path / "tensors.safetensors").close()
        with safe_open(path / "tensors.safetensors", "pt"):
            pass  # its header fits the file's length
        changed = [name for name in _FILES if digest(path / name) != manifest["files"][name]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        return f"{type(error).__name__}: {error}"
    except (
        OSError
    ) as error:  # a temporary error (too many open files, an absent network disk) must not discard progress
        if error.errno not in _DAMAGE_ERRORS:
            raise
        return f"{type(error).__name__}: {error}"
    if changed or not manifest_valid:
        return f"{changed[0] if manifest_valid else 'manifest.json'} has changed since it was written"
    number = manifest["format"]
    if manifest["kind"] != _KIND or number != CHECKPOINT_FORMAT:
        raise UserError(
            f"{path} is a '{manifest['kind']}' of format {number}: this version of retain reads format {CHECKPOINT_FORMAT}."
        )
    if config is not None and manifest["config"] != config:
        raise UserError(
            f"{path} belongs to another trial: its config is not that of this folder. Remove it to continue."
        )
    return None
