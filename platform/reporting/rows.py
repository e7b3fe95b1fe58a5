"""Events of a trial's ledger -> rows of numbers with their own step axis, as W&B and TensorBoard take them.

And what is needed to follow many ledgers: which to look at now, whether one has changed, what was sent (projector.json).
"""

import contextlib
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha1
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from ..errors import UserError
from ..files import VIEWS, DamagedError, read_json, write_json
from ..ledger.reader import Trial

Mode = Literal["online", "offline", "disabled"]
Fingerprint = tuple[tuple[int, int, int] | None, ...]
_FIRST, _SHARE = 100, 400  # of the trials that do not run: the next ones to start, and others in turn, in each round
# Fields of an epoch's event whose dashboard name is not train/<field>; `iteration` and `epoch` are axes.
_EPOCH_NAMES = {
    "lr": "train/learning_rate",
    "train_loss": "train/evaluated_loss",
    "train_accuracy": "train/accuracy",
    "validation_loss": "validation/loss",
    "validation_accuracy": "validation/accuracy",
}
_AXES = ("kind", "experience", "iteration")


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What to project to.

    Attributes:
        mode: of W&B; None: what WANDB_MODE says, else online where a key is found, else offline.
        project, entity: where the runs go on W&B.
        group: of the runs; None: the experiment's name.
        tags: on each run, beside its variant, stream and strategies.
        tensorboard: whether to write <folder>/tensorboard too.
    """

    mode: Mode | None = None
    project: str = "retain"
    entity: str | None = None
    group: str | None = None
    tags: tuple[str, ...] = ()
    tensorboard: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its axis and place on it, the numbers by name, and its key, which grows along a trial."""

    axis: Literal["iteration", "experience"]
    step: int
    values: dict[str, float]
    key: tuple[int, ...]


class Follower:
    """Reads what is new in one trial's metrics, once, even when the trial was truncated and has gone on since."""

    def __init__(self, trial: Trial, skip: int = 0) -> None:
        """Start at the first event; leave out the first `skip` rows. `count`: rows that were found, with those."""
        self.count = 0
        self._trial = trial
        self._skip = skip
        self._last: tuple[int, int, dict[str, Any]] | None = None  # start and end in bytes of the last line, its event
        self._key: tuple[int, ...] = ()
        self._resources: dict[str, float] = {}

    @property
    def offset(self) -> int:
        """Bytes of metrics.jsonl that were read."""
        return self._last[1] if self._last else 0

    def new(self) -> Iterator[Row]:
        """Yield the rows since the last call; a resumed trial repeats events, which are left out."""
        if not self._intact():
            self._last = None
        for end, event in self._trial.events(self.offset):
            self._last = (self.offset, end, event)
            if event["kind"] == "resources":
                self._resources = _numbers(event, "resources/")
                continue
            row = row_of(event)
            if row is None or row.key <= self._key:
                continue
            self._key = row.key
            self.count += 1
            if self._skip > 0:
                self._skip -= 1
            else:
                if row.axis == "iteration":  # no rows of their own: so the number of rows does not depend on time
                    row.values.update(self._resources)
                yield row

    def _intact(self) -> bool:
        """Whether the last line read is still there: a resumed trial has cut it off and written others."""
        if self._last is None:
            return True
        start, end, event = self._last
        try:
            return next(self._trial.events(start), None) == (end, event)
        except UserError:  # no line starts here any more
            return False


def row_of(event: Mapping[str, Any]) -> Row | None:
    """Return the row of an epoch's, an experience's or a probe's event, None for other kinds; nulls are left out."""
    experience, iteration = event["experience"], event["iteration"]
    if event["kind"] == "epoch":
        numbers = _numbers(event, "")
        values = {_EPOCH_NAMES.get(name, f"train/{name}"): value for name, value in numbers.items()}
        return Row("iteration", iteration, values, (experience, 0, iteration, 0, event.get("epoch", 0)))
    if event["kind"] == "probe":
        return _probe_row(event)
    if event["kind"] != "experience":
        return None
    values = {f"cost/{name}": value for name, value in _numbers(event, "").items()}
    for view in VIEWS:
        cells = {f"experience_{number:02d}": cell for number, cell in enumerate(event.get(view) or (), 1)}
        values |= _numbers(cells, f"accuracy/{view}/")
    values |= metric_values(event.get("metrics") or {})
    return Row("experience", experience, values, (experience, 1, iteration, 0, 0))


def _probe_row(event: Mapping[str, Any]) -> Row:
    """What a probe found: after an experience, or amid one."""
    after = bool(event.get("after"))
    prefix = f"{'probe' if after else 'probe_during'}/{event.get('probe')}/"
    values = _numbers({**(event.get("values") or {}), "seconds": event.get("seconds")}, prefix)
    key = (event["experience"], int(after), event["iteration"], 1, event.get("order", 0))
    return (
        Row("experience", event["experience"], values, key)
        if after
        else Row("iteration", event["iteration"], values, key)
    )


def metric_values(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Flatten {view: {metric: value}} (or one view's {metric: value}, which is then task-agnostic) to view/metric."""
    views = {view: metrics[view] for view in VIEWS if isinstance(metrics.get(view), Mapping)}
    found: dict[str, float] = {}
    for view, values in (views or {VIEWS[0]: metrics}).items():
        found |= _numbers(values, f"{view}/")
    return found


def _numbers(values: Mapping[str, Any], prefix: str) -> dict[str, float]:
    return {
        f"{prefix}{name}": value
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name not in _AXES
    }


def final_values(trial: Trial) -> dict[str, Any]:
    """What is true of a whole trial: its state, cost, final metrics of both views and accuracy matrices."""
    summary, matrix = trial.read("summary") or {}, trial.read("matrix") or {}
    cost = {f"cost/{name}": summary[name] for name in ("seconds", "samples") if summary.get(name) is not None}
    matrices = {f"accuracy_matrix/{view}": matrix[view] for view in VIEWS if view in matrix}
    return {"status": trial.status().status, **cost, **metric_values(summary), **matrices}


class Book:
    """A folder's projector.json: the key that makes run ids unique, and what each trial has sent.

    What W&B has is asked of W&B: entries may be lost with a process, the key and a trial's mode may not.
    """

    def __init__(self, folder: Path) -> None:
        """Read it, or start one."""
        self._path = folder / "projector.json"
        self.changed, self._saved = False, 0.0
        if self._path.exists():
            self._data = _book(self._path)
        else:  # random: the folder's name may be used again, and the server would take the new run for the old one
            self._data = {"key": secrets.token_hex(8), "trials": {}}
            self.save()

    def entry(self, trial: Trial) -> dict[str, Any]:
        """What is known of a trial, to be changed in place: run (its id), then mode, bytes, signature, tensorboard."""
        run = sha1(f"{self._data['key']}/{trial.id}".encode()).hexdigest()[:12]
        entry: dict[str, Any] = self._data["trials"].setdefault(trial.id, {"run": run})
        return entry

    @property
    def left(self) -> int:
        """How many trials the last projector has left to the next one; as many as there are when it was killed."""
        return int(self._data.get("left", 0))

    @left.setter
    def left(self, count: int) -> None:
        """Remember it at once."""
        self._data["left"] = count
        self.save()

    def save(self) -> None:
        """Write it, atomically."""
        write_json(self._path, self._data)
        self.changed, self._saved = False, time.monotonic()

    def keep(self, seconds: float = 0.0) -> None:
        """Write it if it was `changed`, unless that was done less than so many seconds ago: it names every trial."""
        if self.changed and time.monotonic() >= self._saved + seconds:
            self.save()


def _book(path: Path) -> dict[str, Any]:
    """Read a projector.json; the ids of its runs are parts of paths."""
    data = read_json(path)
    trials = data.get("trials")
    entries = list(trials.values()) if isinstance(trials, dict) else [None]
    runs = [str(entry.get("run")) if isinstance(entry, dict) else "" for entry in entries]
    if not isinstance(data.get("key"), str) or not all(re.fullmatch("[0-9a-f]{12}", run) for run in runs):
        raise DamagedError(f"{path} is damaged: it is no book of what was sent; without it all is sent anew")
    return data


class Rounds:
    """Says which trials to look at now, so that a look costs the same for a hundred trials and for ten thousand.

    Those that run are in each round; of the others a few: the next in the list to start, and some more in turn.
    """

    def __init__(self, trials: Sequence[Trial]) -> None:
        """Know of no state yet; tell with `mark`."""
        self._trials = trials
        self._waiting = {trial.id: trial for trial in trials}
        self._running: dict[str, Trial] = {}
        self._place = 0

    def next(self) -> list[Trial]:
        """The trials of the next round, in the order of the list within each kind."""
        turn = self._trials[self._place : self._place + _SHARE]
        self._place = self._place + _SHARE if self._place + _SHARE < len(self._trials) else 0
        first = islice(self._waiting.values(), _FIRST)
        found = {trial.id: trial for trial in (*self._running.values(), *first, *turn)}
        return list(found.values())

    def mark(self, trial: Trial, state: str) -> None:
        """Say in which state a trial was found."""
        if state == "running":
            self._running[trial.id] = trial
        else:
            self._running.pop(trial.id, None)
        if state not in ("pending", "stopped"):
            self._waiting.pop(trial.id, None)


def signature(trial: Trial) -> str:
    """Digest of all that is projected of a trial."""
    digest = sha1(trial.status().status.encode())
    for name in ("metrics.jsonl", "summary.json", "matrix.json"):
        path = trial.folder / name
        digest.update(path.read_bytes() if path.exists() else b"")
    return digest.hexdigest()


def fingerprint(trial: Trial) -> Fingerprint:
    """What changes when a trial's files change, cheaply.

    Size and inode tell it without a clock: metrics grow, the other files are replaced whole.
    """
    folder = os.fspath(trial.folder)
    found: list[tuple[int, int, int] | None] = []
    for name in ("metrics.jsonl", "status.json", "summary.json", "matrix.json"):
        stat = None
        with contextlib.suppress(FileNotFoundError):
            stat = os.stat(f"{folder}/{name}")
        found.append(stat and (stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return tuple(found)
