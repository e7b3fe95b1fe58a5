"""Follow many ledgers cheaply: which trials to look at now, whether one has changed, which rows are new."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from ..errors import UserError
from ..ledger.reader import Trial
from .rows import MetricsRow, _numbers, row_of

Fingerprint = tuple[tuple[int, int, int] | None, ...]
_FIRST, _SHARE = 100, 400  # of the trials that do not run: the next ones to start, and others in turn, in each round


class LedgerCursor:
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

    def new(self) -> Iterator[MetricsRow]:
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


class PollSchedule:
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
