"""The folders of trials and sweeps: the only writer of run files (checkpoints aside), and their reader.

Everything is plain text. Whole files are written beside their place and renamed; metrics.jsonl only grows, line by
line, so a killed process leaves at most one torn last line, which no reader sees. One process writes to a folder.
This file imports nothing heavy: `retain --help`, the report and the projector read ledgers without torch.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from filelock import FileLock, Timeout

from .errors import UserError
from .files import SCHEMA, read_json, to_json, whole_lines, write_json, write_text

State = Literal["pending", "running", "done", "failed", "stopped"]
Document = Literal["matrix", "summary", "environment", "config"]
# What a folder may hold and still be free: what `create` itself writes before the first event, and logs.
_FREE = {".lock", "trial.json", "config.yaml", "status.json", "environment.json", "metrics.jsonl", "trial.log"}
_FREE_SWEEP = {".lock", "sweep.log"}


class _Held:
    """A folder held by this process: the base of the two writers. The kernel frees the lock of a dead process."""

    def __init__(self, folder: Path) -> None:
        """Take the folder's lock; UserError when another process has it."""
        self.folder = folder
        self._lock = FileLock(folder / ".lock", thread_local=False)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise UserError(f"{folder} is in use: another retain process is writing to it") from None

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


class TrialLedger(_Held):
    """The writer of one trial's folder: `create` or `open` it, `append` events, `close` it.

    Attributes:
        folder: the trial's folder.
    """

    def __init__(self, folder: Path) -> None:
        """Hold an existing folder; use `create` or `open`."""
        super().__init__(folder)
        with ExitStack() as undo:
            undo.callback(super().close)
            self._file = (folder / "metrics.jsonl").open("ab")
            self._file.truncate(whole_lines(folder / "metrics.jsonl"))
            undo.pop_all()

    @classmethod
    def create(cls, folder: Path, config_yaml: str, identity: Mapping[str, Any]) -> Self:
        """Start a trial in a new, empty or pending folder.

        Args:
            folder: made if need be; UserError when it holds a started trial or anything else.
            config_yaml: the resolved config, with its ``schema: 1``.
            identity: id, variant, stream, seed, overrides (the content of trial.json).
        """
        _refuse_occupied(folder, _FREE)
        folder.mkdir(parents=True, exist_ok=True)
        ledger = cls(folder)
        with ExitStack() as undo:
            undo.callback(ledger.close)
            _refuse_occupied(folder, _FREE)  # again, now that nobody else can start here
            write_text(folder / "config.yaml", config_yaml)
            write_json(folder / "trial.json", {"schema": SCHEMA, **identity})
            ledger.status("pending")
            undo.pop_all()
        return ledger

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Go on with a trial that was started; a torn last line of its metrics is cut off."""
        read_json(folder / "trial.json")
        return cls(folder)

    def append(self, kind: str, experience: int, iteration: int, event: Mapping[str, Any]) -> None:
        """Add one event as one line, at once visible to readers (durable after `flush`).

        Args:
            kind: "epoch", "experience", "note" or "resources".
            experience: from 1; 0 is before the first.
            iteration: training iterations since the trial began.
            event: the other fields.
        """
        line = {"kind": kind, "experience": experience, "iteration": iteration, **event}
        self._file.write(to_json(line).encode() + b"\n")
        self._file.flush()

    def flush(self) -> int:
        """Make all events durable and return the length of metrics.jsonl in bytes, for a checkpoint to record."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def truncate(self, length: int) -> None:
        """Forget the events after `length` bytes (what `flush` returned); UserError when that is no line's end."""
        path = self.folder / "metrics.jsonl"
        size = self.flush()
        if not 0 <= length <= size or whole_lines(path, length) != length:
            raise UserError(f"{path} does not fit its checkpoint: {size} bytes, no line ends at {length}")
        self._file.truncate(length)
        self.flush()

    def status(self, status: State, *, experience: int = 0, error: str | None = None) -> None:
        """Write status.json: the state, the last finished experience (0: none), and what went wrong."""
        write_status(self.folder, status, experience, error)

    def write(self, name: str, data: Mapping[str, Any]) -> None:
        """Write ``<name>.json`` (matrix, summary, environment) with the schema's number."""
        write_json(self.folder / f"{name}.json", {"schema": SCHEMA, **data})

    def close(self) -> None:
        """Close the files and release the folder; may be called twice."""
        self._file.close()
        super().close()


class SweepLedger(_Held):
    """The writer of a sweep's folder: its resolved experiment and the list of its trials."""

    @classmethod
    def create(cls, folder: Path, experiment_yaml: str, name: str, trials: Sequence[Mapping[str, Any]]) -> Self:
        """Start a sweep in a new or empty folder.

        Args:
            folder: made if need be; UserError when it is occupied.
            experiment_yaml: the resolved experiment, with its ``schema: 1``.
            name: the experiment's name.
            trials: id, variant, stream, seed, overrides of each; "folder" (relative) is "trials/<id>" if absent.
        """
        _refuse_occupied(folder, _FREE_SWEEP)
        folder.mkdir(parents=True, exist_ok=True)
        ledger = cls(folder)
        with ExitStack() as undo:
            undo.callback(ledger.close)
            _refuse_occupied(folder, _FREE_SWEEP)
            write_text(folder / "experiment.yaml", experiment_yaml)
            entries = [{"folder": f"trials/{trial['id']}", **trial} for trial in trials]
            write_json(folder / "trials.json", {"schema": SCHEMA, "name": name, "trials": entries})
            undo.pop_all()
        return ledger

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Go on with a sweep that was started."""
        read_json(folder / "trials.json")
        return cls(folder)

    def trials(self) -> "list[Trial]":
        """All trials of the sweep, in the order of its list."""
        return trials_of(self.folder)


def _refuse_occupied(folder: Path, free: set[str]) -> None:
    """Raise UserError unless the folder is new, empty, or holds a trial that has not started."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder} is a file: choose another folder")
    names = {entry.name for entry in folder.iterdir() if not entry.name.endswith(".tmp")}
    metrics = folder / "metrics.jsonl"
    started = metrics.exists() and metrics.stat().st_size > 0
    if names - free or started or _status(folder).status != "pending":
        raise UserError(f"{folder} is occupied: resume it (retain resume {folder}) or choose another")


@dataclass(frozen=True, slots=True)
class Status:
    """Where a trial stands, as status.json says (`updated`: unix seconds)."""

    status: State
    experience: int
    error: str | None
    updated: float


def write_status(folder: Path, status: State, experience: int, error: str | None) -> None:
    """Write a trial's status.json; for a trial whose writer is gone."""
    write_json(folder / "status.json", {"schema": SCHEMA, **asdict(Status(status, experience, error, time.time()))})


def _status(folder: Path) -> Status:
    if not (folder / "status.json").exists():
        return Status("pending", 0, None, 0.0)
    data = read_json(folder / "status.json")
    return Status(data["status"], data["experience"], data["error"], data["updated"])


class Trial:
    """The reader of one trial's folder; works while the trial runs, and before it has started.

    Attributes:
        folder: the trial's folder.
        identity: id, variant, stream, seed, overrides.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any] | None = None) -> None:
        """Read trial.json, unless the sweep's list gives the identity (a pending trial may have no folder yet)."""
        self.folder = folder
        self.identity = dict(read_json(folder / "trial.json") if identity is None else identity)

    @property
    def id(self) -> str:
        """Name of the trial, unique in its sweep."""
        return str(self.identity["id"])

    @property
    def variant(self) -> str:
        """Name of the set of overrides that is compared."""
        return str(self.identity["variant"])

    @property
    def stream(self) -> str:
        """Name of the stream."""
        return str(self.identity["stream"])

    @property
    def seed(self) -> int:
        """The trial's seed."""
        return int(self.identity["seed"])

    def status(self) -> Status:
        """Where the trial stands now; pending when nothing says otherwise."""
        return _status(self.folder)

    def events(self, after_byte: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield (offset of the line's end in bytes, event) for each complete line after an offset given so before."""
        path = self.folder / "metrics.jsonl"
        if not path.exists():
            return
        with path.open("rb") as file:
            offset = file.seek(after_byte)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                try:
                    event = json.loads(line)
                except ValueError as error:
                    raise UserError(f"{path} is damaged at byte {offset}: {error}") from error
                offset += len(line)
                yield offset, event

    def read(self, name: Document) -> dict[str, Any] | None:
        """Return matrix.json, summary.json, environment.json or config.yaml; None when it is not there (yet)."""
        if name != "config":
            path = self.folder / f"{name}.json"
            return read_json(path) if path.exists() else None
        from .loading import read_yaml  # here: OmegaConf, which it imports, is slow

        path = self.folder / "config.yaml"
        return read_yaml(path) if path.exists() else None


def is_sweep(folder: Path) -> bool:
    """Whether the folder is a sweep's."""
    return (folder / "trials.json").exists()


def trials_of(folder: Path) -> list[Trial]:
    """All trials of a sweep's folder, or the one of a trial's folder; UserError for any other folder."""
    if is_sweep(folder):
        entries = read_json(folder / "trials.json")["trials"]
        return [Trial(folder / entry["folder"], entry) for entry in entries]
    if (folder / "trial.json").exists():
        return [Trial(folder)]
    raise UserError(f"{folder} is no folder of a trial or a sweep: it has no trial.json and no trials.json")
