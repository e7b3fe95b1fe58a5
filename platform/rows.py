"""Events of a trial's ledger -> rows of numbers with their own step axis, as W&B and TensorBoard take them.

And projector.json, in which the projector remembers what it has sent.
"""

import contextlib
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha1
from pathlib import Path
from typing import Any, Literal

from .errors import UserError
from .files import SCHEMA, VIEWS, read_json, write_json
from .ledger import Trial

# Fields of an epoch's event whose dashboard name is not train/<field>; `iteration` and `epoch` are axes.
_EPOCH_NAMES = {"lr": "train/learning_rate", "validation_accuracy": "validation/accuracy"}
_AXES = ("kind", "experience", "iteration")


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
        """Start at the first event; leave out the first `skip` rows."""
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
    """Return the row of an epoch's or an experience's event, None for other kinds; nulls are left out."""
    experience, iteration = event["experience"], event["iteration"]
    if event["kind"] == "epoch":
        numbers = _numbers(event, "")
        values = {_EPOCH_NAMES.get(name, f"train/{name}"): value for name, value in numbers.items()}
        return Row("iteration", iteration, values, (experience, 0, iteration, event.get("epoch", 0)))
    if event["kind"] != "experience":
        return None
    values = {f"cost/{name}": value for name, value in _numbers(event, "").items()}
    for view in VIEWS:
        cells = {f"experience_{number:02d}": cell for number, cell in enumerate(event.get(view) or (), 1)}
        values |= _numbers(cells, f"accuracy/{view}/")
    values |= metric_values(event.get("metrics") or {})
    return Row("experience", experience, values, (experience, 1, iteration, 0))


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


class Book:
    """A folder's projector.json: the key that makes run ids unique, and what each trial has sent."""

    def __init__(self, folder: Path) -> None:
        """Read it, or start one."""
        self._path = folder / "projector.json"
        if self._path.exists():
            self._data = read_json(self._path)
        else:  # random: the folder's name may be used again, and the server would take the new run for the old one
            self._data = {"schema": SCHEMA, "key": secrets.token_hex(8), "trials": {}}
            self.save()

    def entry(self, trial: Trial) -> dict[str, Any]:
        """What is known of a trial, to be changed in place: run (its id), then mode, bytes, signature, tensorboard."""
        run = sha1(f"{self._data['key']}/{trial.id}".encode()).hexdigest()[:12]
        entry: dict[str, Any] = self._data["trials"].setdefault(trial.id, {"run": run})
        return entry

    def save(self) -> None:
        """Write it, atomically."""
        write_json(self._path, self._data)


def signature(trial: Trial) -> str:
    """Digest of all that is projected of a trial."""
    digest = sha1(trial.status().status.encode())
    for name in ("metrics.jsonl", "summary.json", "matrix.json"):
        path = trial.folder / name
        digest.update(path.read_bytes() if path.exists() else b"")
    return digest.hexdigest()


def fingerprint(trial: Trial) -> tuple[tuple[int, int], ...]:
    """What changes when a trial's files change, cheaply."""
    found = []
    for name in ("metrics.jsonl", "status.json", "summary.json", "matrix.json"):
        with contextlib.suppress(FileNotFoundError):
            stat = (trial.folder / name).stat()
            found.append((stat.st_mtime_ns, stat.st_size))
    return tuple(found)
