"""The progress display of the terminal while trials run, read from their ledgers."""

import contextlib
from dataclasses import dataclass
from heapq import nlargest
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ..errors import UserError
from ..ledger.reader import Trial, trials_of
from ..reporting.polling import Fingerprint, LedgerCursor, NewTrials, PollSchedule, fingerprint
from ..reporting.results import failure_of
from ..visible_text import beginning
from .terminal import cell, one_line

_VIEW = "task_agnostic"  # of the running accuracy
_ENDED = ("done", "failed", "pruned")
_MAX_SHOWN = 10  # running and latest trials under the bar
_MAX_FAILURE = 160  # characters of an error in a line; `show_results` prints all of it


@dataclass(slots=True)
class _TrialDisplay:
    """The values shown for one trial, from its ledger as far as it has been read."""

    trial: Trial
    state: str = "pending"
    failure: str = ""  # how a failed trial failed
    updated: float = 0.0
    experience: int = 0
    accuracy: float | None = None
    looked_at: Fingerprint | None = None  # of the ledger at the last `look`
    read_at: Fingerprint | None = None  # of the ledger at the last `read`
    cursor: LedgerCursor | None = None

    def look(self) -> bool:
        """Read the trial's state if its files have changed; return whether they have."""
        current = fingerprint(self.trial)
        if current == self.looked_at:
            return False
        self.looked_at = current
        with contextlib.suppress(UserError):  # a damaged file is reported with the results
            status = self.trial.status()
            self.state, self.updated, self.failure = status.status, status.updated, failure_of(status)
        return True

    def read(self) -> None:
        """Read the accuracies that are new since the last `read`."""
        if self.looked_at == self.read_at:
            return
        self.read_at = self.looked_at
        self.cursor = self.cursor or LedgerCursor(self.trial)
        with contextlib.suppress(UserError):
            for row in self.cursor.new():
                if row.axis == "experience":
                    self.experience = row.step
                    names = (f"accuracy/{_VIEW}/experience_{number:02d}" for number in range(1, row.step + 1))
                    seen = [row.values[name] for name in names if name in row.values]
                    self.accuracy = sum(seen) / len(seen) if seen else None


class ProgressDisplay:
    """A context that shows the progress of a folder's trials: how many are done, time left, running accuracies.

    On a terminal it is a live display; elsewhere it prints a line when a trial ends.

    Attributes:
        displays: each trial's, by its id.
        latest: those that are shown under the bar.
    """

    def __init__(self, folder: Path, console: Console) -> None:
        self.folder, self.console = folder, console
        self._stop = Event()
        self.displays: dict[str, _TrialDisplay] = {}
        self._schedule: PollSchedule | None = None
        self._new: NewTrials | None = None
        self.latest: list[_TrialDisplay] = []
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("trials"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._bar.add_task("starting", total=None)
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=2, transient=True)
        self._thread = Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        self.begin()
        for (
            trial
        ) in self.displays.values():  # do not announce trials that had ended before; count the time left from now
            trial.look()
        self._bar.reset(self._task, total=self.num_trials() or None, completed=self.num_ended())
        if self.console.is_terminal:
            self._live.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self.console.is_terminal:
            self._live.stop()

    def _follow(self) -> None:
        while not self._stop.wait(0.5):
            self.look()
        self.look(last=True)

    def begin(self) -> None:
        """Read the list of trials, if the folder has one yet."""
        if not any((self.folder / name).exists() for name in ("trials.json", "trial.json")):
            return
        trials = trials_of(self.folder)
        self._schedule, self._new = PollSchedule(trials), NewTrials(self.folder, trials)
        self.displays = {trial.id: _TrialDisplay(trial) for trial in trials}

    def _add_new(self) -> None:
        """Add the trials that a search has begun."""
        added = self._new.find() if self._new is not None else []
        if added and self._schedule is not None:
            self._schedule.add(added)
            self.displays |= {trial.id: _TrialDisplay(trial) for trial in added}

    def look(self, last: bool = False) -> None:
        """Read the ledgers and update the bar; without a terminal, print the trials that have ended."""
        if self._schedule is None:
            self.begin()
        if self._schedule is None:
            return
        self._add_new()
        trials = [shown.trial for shown in self.displays.values()] if last else self._schedule.next()
        for shown in (self.displays[trial.id] for trial in trials):
            before, changed = shown.state, shown.look()
            self._schedule.mark(shown.trial, shown.state)
            if changed and shown.state in _ENDED and shown.state != before and not self.console.is_terminal:
                shown.read()
                with contextlib.suppress(
                    OSError
                ):  # a log on a full disk: the trials continue, and so do the next lines
                    self.console.print(_line(shown, self.num_ended(), self.num_trials()), soft_wrap=True)
        self._choose()
        started = any(shown.state != "pending" for shown in self.displays.values())
        description = "training" if started else "starting"
        failed = sum(shown.state == "failed" for shown in self.displays.values())
        description += f", {failed} failed" if failed else ""
        self._bar.update(self._task, description=description, total=self.num_trials(), completed=self.num_ended())

    def _choose(self) -> None:
        """Choose the trials under the bar, and read their accuracies."""
        running = [shown for shown in self.displays.values() if shown.state == "running"][:_MAX_SHOWN]
        ended = (shown for shown in self.displays.values() if shown.state in _ENDED)
        latest = running + nlargest(_MAX_SHOWN - len(running), ended, key=lambda shown: shown.updated)
        if self.console.is_terminal:
            for shown in latest:
                shown.read()
        self.latest = latest

    def num_trials(self) -> int:
        """Return the number of trials, without those of an earlier choice that will not run."""
        left_out = self._new.superseded if self._new is not None else set()
        return sum(shown.state in _ENDED or name not in left_out for name, shown in self.displays.items())

    def num_ended(self) -> int:
        """Return the number of trials that are done, failed or were stopped early by a search."""
        return sum(shown.state in _ENDED for shown in self.displays.values())

    def _render(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        for shown in self.latest:
            table.add_row(*_cells(shown))
        return Group(self._bar, table)


def _cells(shown: _TrialDisplay) -> tuple[Text, Text, Text, Text]:
    """A trial's mark, name and state; the accuracy so far, or how it failed: a failed trial has no result."""
    mark = {
        "running": cell("▶", "cyan"),
        "done": cell("✓", "green"),
        "failed": cell("✗", "red"),
        "pruned": cell("-"),
    }.get(shown.state, cell(""))
    so_far = "accuracy so far" if shown.state == "running" else "accuracy"
    accuracy = "" if shown.accuracy is None else f"{so_far} {100 * shown.accuracy:.1f} %"
    if shown.state == "failed":
        return mark, cell(_name(shown.trial)), cell("failed"), cell(shown.failure, "red")
    state = f"experience {shown.experience}" if shown.state == "running" else shown.state
    return mark, cell(_name(shown.trial)), cell(state), cell(accuracy)


def _line(shown: _TrialDisplay, ended: int, total: int) -> Text:
    """A line on a trial that has ended: the accuracy of one that is done, how the other failed."""
    name = _name(shown.trial)
    if shown.state == "failed":
        return one_line(f"{ended}/{total} failed: {name}: ", (beginning(shown.failure, _MAX_FAILURE), "red"))
    accuracy = "" if shown.accuracy is None else f", accuracy {100 * shown.accuracy:.1f} %"
    return one_line(f"{ended}/{total} {shown.state}: {name}{accuracy}")


def _name(trial: Trial) -> str:
    return f"{trial.stream} / {trial.variant} / seed {trial.seed}"
