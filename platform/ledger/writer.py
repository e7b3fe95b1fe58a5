"""Write the folders of trials and sweeps: every run file except checkpoints is written here.

Everything is plain text. Whole files are written under a temporary name and renamed. metrics.jsonl only grows, line by
line, so a killed process leaves at most one incomplete last line, which readers ignore. One process writes to a folder.
A JSON file holds its checksum; trial.json and trials.json also hold that of the YAML file next to them. Imports nothing
heavy.
"""

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from filelock import FileLock, Timeout

from ..errors import UserError
from ..files import digest, fsync, whole_lines, write_text
from ..run_folders import is_run_folder, refuse_links
from .documents import DamagedError, identity_problem, read_json, to_json, write_json
from .reader import Status, StatusName, Trial, listed_trials, run_name, status_of, trials_of


class InUseError(UserError):
    """Another process is writing to the folder."""


def is_in_use(folder: Path) -> bool:
    """Return whether a process is writing to a run's folder. If none is, this locks it for a moment.

    Raises:
        OSError: the folder cannot be written.
    """
    lock = FileLock(folder / ".lock", thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


class _LockedFolder:
    """A folder that this process has locked: the base of the two writers. The kernel frees the lock of a dead process."""

    # Files that a folder may hold and still be free: those that `create` writes before the first event, and logs.
    _FREE: ClassVar[set[str]]

    def __init__(self, folder: Path) -> None:
        """Lock the folder; UserError if another process has locked it, or a link in it leads out of it."""
        refuse_links(folder)
        self.folder = folder
        self._lock = FileLock(folder / ".lock", thread_local=False)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise InUseError(f"{folder} is in use: another retain process is writing to it") from None

    @classmethod
    def refuse_occupied(cls, folder: Path) -> None:
        """Raise UserError unless the folder is new, empty, or holds a run that has not started."""
        if not os.path.exists(folder):
            return
        if not os.path.isdir(folder):
            raise UserError(f"{folder} is a file: choose another folder")
        names = {entry.name for entry in folder.iterdir() if not entry.name.endswith(".tmp")}
        metrics = folder / "metrics.jsonl"
        started = metrics.exists() and metrics.stat().st_size > 0
        if names - cls._FREE or started or status_of(folder).status != "pending":
            advice = f"resume it (retain resume {folder})" if is_run_folder(folder) else "empty it"
            raise UserError(f"{folder} is occupied: {advice} or choose another")

    def close(self) -> None:
        """Release the folder; may be called twice."""
        self._lock.release()

    def __enter__(self) -> Self:
        """Return the writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the folder."""
        self.close()


class TrialLedger(_LockedFolder):
    """Writer of one trial's folder: `create` or `open` it, `append` events, `close` it.

    Attributes:
        folder: the trial's folder.
    """

    _FREE = {".lock", "trial.json", "config.yaml", "status.json", "environment.json", "metrics.jsonl", "trial.log"}

    def __init__(self, folder: Path) -> None:
        """Lock an existing folder and open its events; callers use `create` or `open`."""
        super().__init__(folder)
        with ExitStack() as undo:
            undo.callback(super().close)
            self._file = (folder / "metrics.jsonl").open("ab")
            self._truncate(whole_lines(folder / "metrics.jsonl"))
            undo.pop_all()

    @classmethod
    def create(cls, folder: Path, config_yaml: str, identity: Mapping[str, Any]) -> Self:
        """Start a trial in a new, empty or pending folder.

        Args:
            folder: created if it does not exist.
            config_yaml: the resolved config, with its ``schema: 1``.
            identity: id, variant, stream, seed, overrides (the content of trial.json).

        Raises:
            UserError: the folder holds a started trial or other files, or is in use.
        """
        problem = identity_problem(identity)
        if problem:
            raise UserError(f"{folder}: {problem}")
        cls.refuse_occupied(folder)
        folder.mkdir(parents=True, exist_ok=True)
        fsync(folder.parent)
        ledger = cls(folder)
        with ExitStack() as undo:
            undo.callback(ledger.close)
            cls.refuse_occupied(folder)  # again, now that no other process can start here
            (folder / "trial.json").unlink(missing_ok=True)  # it holds the checksum of the previous config
            write_text(folder / "config.yaml", config_yaml)
            ledger._write_identity(identity)
            ledger.status("pending")
            undo.pop_all()
        return ledger

    @classmethod
    def open(cls, folder: Path, identity: Mapping[str, Any] | None = None) -> Self:
        """Open the folder of a trial that was started; an incomplete last line of its events is removed.

        Args:
            folder: the trial's folder.
            identity: the trial's identity, if it is known: a missing or damaged trial.json is then written again.
        """
        if identity is None:
            read_json(folder / "trial.json")
            return cls(folder)
        ledger = cls(folder)
        with ExitStack() as undo:
            undo.callback(ledger.close)
            try:
                Trial(folder)
            except UserError:
                ledger._write_identity(identity)
            undo.pop_all()
        return ledger

    def _write_identity(self, identity: Mapping[str, Any]) -> None:
        write_json(self.folder / "trial.json", {**identity, "config_sha256": digest(self.folder / "config.yaml")})

    def append(self, kind: str, experience: int, iteration: int, event: Mapping[str, Any]) -> None:
        """Add one event as one line. Readers see it at once; it is durable after `flush`.

        Args:
            kind: "first_step" (the first optimizer step was done), "epoch", "experience", "probe", "note" or "resources".
            experience: number of the experience from 1; 0 is before the first.
            iteration: training iterations since the trial started.
            event: the other fields.
        """
        line = {"kind": kind, "experience": experience, "iteration": iteration, **event}
        data = to_json(line).encode() + b"\n"
        self._file.write(data)
        self._file.flush()
        self._sum.update(data)

    def flush(self) -> int:
        """Make all events durable and return the length of metrics.jsonl in bytes, for a checkpoint to record."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def digest(self) -> str:
        """Return the SHA-256 of all events so far, in hexadecimal, for a checkpoint to record with their length."""
        return str(self._sum.hexdigest())

    def truncate(self, length: int, sha256: str | None = None) -> None:
        """Remove the events after `length` bytes.

        Args:
            length: a length that `flush` returned.
            sha256: the checksum of the events up to there, as `digest` returned it; None: not verified.

        Raises:
            UserError: no line ends at `length`, or the events up to there have changed.
        """
        path = self.folder / "metrics.jsonl"
        size = self.flush()
        if not 0 <= length <= size or whole_lines(path, length) != length:
            raise UserError(f"{path} does not fit its checkpoint: {size} bytes, no line ends at {length}")
        if sha256 is not None and _sum_of(path, length).hexdigest() != sha256:
            raise UserError(f"{path} is damaged: its first {length} bytes have changed since they were written")
        self._truncate(length)

    def _truncate(self, length: int) -> None:
        self._file.truncate(length)
        self.flush()
        self._sum = _sum_of(self.folder / "metrics.jsonl", length)

    def status(self, status: StatusName, *, experience: int = 0, error: str | None = None) -> None:
        """Write status.json: the state, the last finished experience (0: none), and the reason of a failure."""
        write_status(self.folder, status, experience, error)

    def write(self, name: str, data: Mapping[str, Any]) -> None:
        """Write ``<name>.json``; `name` is matrix, summary or environment."""
        write_json(self.folder / f"{name}.json", data)

    def close(self) -> None:
        """Close the events and release the folder; may be called twice."""
        self._file.close()
        super().close()


def _sum_of(path: Path, length: int) -> Any:
    """Return the SHA-256 object of the first `length` bytes of a file; `append` updates it with later events."""
    sha256 = hashlib.sha256()
    with path.open("rb") as file:
        for start in range(0, length, 2**20):
            sha256.update(file.read(min(2**20, length - start)))
    return sha256


class SweepLedger(_LockedFolder):
    """Writer of a sweep's folder: its resolved experiment and the list of its trials."""

    _FREE = {".lock", "sweep.log", "experiment.yaml"}

    @classmethod
    def create(cls, folder: Path, experiment_yaml: str, name: str, trials: Sequence[Mapping[str, Any]]) -> Self:
        """Start a sweep in a new or empty folder.

        Args:
            folder: created if it does not exist.
            experiment_yaml: the resolved experiment, with its ``schema: 1``.
            name: the experiment's name.
            trials: id, variant, stream, seed, overrides of each; "folder" (relative) is "trials/<id>" if absent.

        Raises:
            UserError: the folder is occupied or in use.
        """
        for trial in trials:
            if problem := identity_problem(trial):
                raise UserError(f"{folder}: {problem}")
        cls.refuse_occupied(folder)
        folder.mkdir(parents=True, exist_ok=True)
        fsync(folder.parent)
        ledger = cls(folder)
        with ExitStack() as undo:
            undo.callback(ledger.close)
            cls.refuse_occupied(folder)
            write_text(folder / "experiment.yaml", experiment_yaml)
            entries = [with_folder(trial) for trial in trials]
            ledger._write_list(name, entries)
            undo.pop_all()
        return ledger

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open the folder of a sweep that was started; a damaged trials.json is rebuilt from the trials' folders."""
        trials = trials_of(folder)
        ledger = cls(folder)
        with ExitStack() as undo:
            undo.callback(ledger.close)
            try:
                listed_trials(folder)
            except DamagedError:
                ledger._write_list(run_name(folder), [trial.identity for trial in trials])
            undo.pop_all()
        return ledger

    def _write_list(self, name: str, entries: Sequence[Mapping[str, Any]]) -> None:
        about = {"name": name, "experiment_sha256": digest(self.folder / "experiment.yaml")}
        write_json(self.folder / "trials.json", {**about, "trials": entries})

    def trials(self) -> list[Trial]:
        """Return all trials of the sweep, in the order of its list."""
        return trials_of(self.folder)


def with_folder(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return a trial's identity as a list of trials has it: with its folder, "trials/<id>" unless it names another."""
    return {"folder": f"trials/{identity['id']}", **identity}


def write_status(folder: Path, status: StatusName, experience: int, error: str | None) -> None:
    """Write a trial's status.json without a `TrialLedger`, for a trial whose process has ended.

    Args:
        folder: the trial's folder.
        status: the state.
        experience: the last finished experience; 0: none.
        error: the reason of a failure.
    """
    write_json(folder / "status.json", asdict(Status(status, experience, error, time.time())))


def mark_for_repair(trial: Trial, damage: str) -> None:
    """Prepare a trial with damaged files for resuming: "done" becomes "stopped" with `damage` as the reason.

    A missing or damaged trial.json is written again.
    """
    with TrialLedger.open(trial.folder, trial.identity) as ledger:
        status = trial.status()
        if status.status == "done":
            ledger.status("stopped", experience=status.experience, error=damage)
