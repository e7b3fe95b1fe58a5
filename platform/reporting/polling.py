"""Poll many ledgers cheaply: which trials to poll now, whether one has changed, which rows are new."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..ledger.journal import NAME as JOURNAL
from ..ledger.reader import Trial, trials_of
from .rows import MetricsRow, numbers_of, row_of

Fingerprint = tuple[tuple[int, int, int] | None, ...]
# Trials in each round that are not running: the next ones to start, and as many others in turn.
_NUM_NEXT, _NUM_IN_TURN = 100, 400


class LedgerCursor:
    """Reads each row of one trial's metrics once, even if a resumed trial has truncated its metrics.jsonl.

    Attributes:
        count: rows that were read so far, with those that `skip` left out.
    """

    def __init__(self, trial: Trial, skip: int = 0) -> None:
        """Start at the first event and leave out the first `skip` rows."""
        self.count = 0
        self._trial = trial
        self._skip = skip
        self._last: tuple[int, int, dict[str, Any]] | None = None  # last line: start and end in bytes, its event
        self._key: tuple[int, ...] = ()
        self._resources: dict[str, float] = {}

    @property
    def offset(self) -> int:
        """The number of bytes of metrics.jsonl that were read."""
        return self._last[1] if self._last else 0

    def new(self) -> Iterator[MetricsRow]:
        """Yield the rows since the last call; events that a resumed trial repeats are left out."""
        if not self._is_intact():
            self._last = None
        for end, event in self._trial.events(self.offset):
            self._last = (self.offset, end, event)
            if event["kind"] == "resources":
                self._resources = numbers_of(event, "resources/")
                continue
            row = row_of(event)
            if row is None or row.key <= self._key:
                continue
            self._key = row.key
            self.count += 1
            if self._skip > 0:
                self._skip -= 1
            else:
                if (
                    row.axis == "iteration"
                ):  # resources get no separate rows: the number of rows must not depend on time
                    row.values.update(self._resources)
                yield row

    def _is_intact(self) -> bool:
        """Whether the last line read is still in the file: a resumed trial may have replaced it."""
        if self._last is None:
            return True
        start, end, event = self._last
        try:
            return next(self._trial.events(start), None) == (end, event)
        except UserError:  # no line starts here any more
            return False


class PollSchedule:
    """Chooses the trials to poll now, so that a round costs the same for a hundred trials and for ten thousand.

    Each round has all running trials, the next ones to start, and some of the others in turn.
    """

    def __init__(self, trials: Sequence[Trial]) -> None:
        """Start without knowing a trial's state; `mark` sets it."""
        self._trials = list(trials)
        self._waiting = {trial.id: trial for trial in trials}
        self._running: dict[str, Trial] = {}
        self._start = 0

    def add(self, trials: Sequence[Trial]) -> None:
        """Add trials that a search has begun."""
        self._trials += trials
        self._waiting |= {trial.id: trial for trial in trials}

    def next(self) -> list[Trial]:
        """Return the trials of the next round: running ones, the next to start, others in turn; each in the list's order."""
        others = self._trials[self._start : self._start + _NUM_IN_TURN]
        self._start = self._start + _NUM_IN_TURN if self._start + _NUM_IN_TURN < len(self._trials) else 0
        first = islice(self._waiting.values(), _NUM_NEXT)
        chosen = {trial.id: trial for trial in (*self._running.values(), *first, *others)}
        return list(chosen.values())

    def mark(self, trial: Trial, state: str) -> None:
        """Set a trial's state."""
        if state == "running":
            self._running[trial.id] = trial
        else:
            self._running.pop(trial.id, None)
        if state not in ("pending", "stopped"):
            self._waiting.pop(trial.id, None)


class NewTrials:
    """Finds the trials that a search or `retain add` adds to a sweep while it runs: those of its journal.

    Attributes:
        superseded: ids of trials of an earlier choice, as far as the journal was read.
    """

    def __init__(self, folder: Path, known: Sequence[Trial]) -> None:
        self._folder = folder
        self.superseded: set[str] = set()
        self._ids = {trial.id for trial in known}
        self._size = -1  # of the journal when it was last read

    def find(self) -> list[Trial]:
        """Return the trials that are new since the last call; the list is read again only if the journal has grown."""
        with contextlib.suppress(FileNotFoundError, UserError):
            size = os.stat(self._folder / JOURNAL).st_size
            if size != self._size:
                trials = trials_of(self._folder)
                found = [trial for trial in trials if trial.id not in self._ids]
                self.superseded = {trial.id for trial in trials if trial.role == "superseded"}
                self._size = size
                self._ids |= {trial.id for trial in found}
                return found
        return []


def fingerprint(trial: Trial) -> Fingerprint:
    """Return a cheap value that changes when a trial's files change.

    It needs no clock: metrics.jsonl grows, so its size changes; the other files are replaced, so their inodes change.
    """
    folder = os.fspath(trial.folder)
    states: list[tuple[int, int, int] | None] = []
    for name in ("metrics.jsonl", "status.json", "summary.json", "matrix.json"):
        stat = None
        with contextlib.suppress(FileNotFoundError):
            stat = os.stat(f"{folder}/{name}")
        states.append(stat and (stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return tuple(states)
