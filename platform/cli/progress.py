"""What the terminal shows: progress while trials run (read from their ledgers), and tables afterwards."""

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

from ..errors import UserError
from ..ledger.reader import Trial, trials_of
from ..reporting.polling import Fingerprint, LedgerCursor, PollSchedule, fingerprint

_VIEW = "task_agnostic"  # of the running accuracy
_ENDED = ("done", "failed")
_SHOWN = 10  # running and latest trials under the bar


@dataclass(slots=True)
class _TrialDisplay:
    """What is shown of one trial, from its ledger as far as it has been read."""

    trial: Trial
    state: str = "pending"
    updated: float = 0.0
    experience: int = 0
    accuracy: float | None = None
    found: Fingerprint | None = None
    read_at: Fingerprint | None = None
    rows: LedgerCursor | None = None

    def look(self) -> bool:
        """Read the state if anything has changed; say so."""
        found = fingerprint(self.trial)
        if found == self.found:
            return False
        self.found = found
        with contextlib.suppress(UserError):  # a damaged file is told when the results are shown
            status = self.trial.status()
            self.state, self.updated = status.status, status.updated
        return True

    def read(self) -> None:
        """Read the accuracies that are new since the last `look`."""
        if self.found == self.read_at:
            return
        self.read_at = self.found
        self.rows = self.rows or LedgerCursor(self.trial)
        with contextlib.suppress(UserError):
            for row in self.rows.new():
                if row.axis == "experience":
                    self.experience = row.step
                    names = (f"accuracy/{_VIEW}/experience_{number:02d}" for number in range(1, row.step + 1))
                    seen = [row.values[name] for name in names if name in row.values]
                    self.accuracy = sum(seen) / len(seen) if seen else None


class ProgressDisplay:
    """A context that shows how the trials of a folder go on: done, time left, running accuracy of each.

    On a terminal a live display; elsewhere a line as each trial ends.
    """

    def __init__(self, folder: Path, console: Console) -> None:
        self.folder, self.console = folder, console
        self._stop = Event()
        self._all: dict[str, _TrialDisplay] = {}
        self._rounds: PollSchedule | None = None
        self._latest: list[_TrialDisplay] = []
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
        self._task = self._bar.add_task("starting Ray", total=None)
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=2, transient=True)
        self._thread = Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        self._begin()
        for one in self._all.values():  # what has ended before is not news, and the time left counts from here
            one.look()
        self._bar.reset(self._task, total=len(self._all) or None, completed=self._ended())
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
            self._look()
        self._look(last=True)

    def _begin(self) -> None:
        """Find the trials, once the folder lists them."""
        if not any((self.folder / name).exists() for name in ("trials.json", "trial.json")):
            return
        trials = trials_of(self.folder)
        self._rounds = PollSchedule(trials)
        self._all = {trial.id: _TrialDisplay(trial) for trial in trials}

    def _look(self, last: bool = False) -> None:
        """Read the ledgers and move the bar; without a terminal, say which trials have ended."""
        if self._rounds is None:
            self._begin()
        if self._rounds is None:
            return
        trials = [one.trial for one in self._all.values()] if last else self._rounds.next()
        for one in (self._all[trial.id] for trial in trials):
            before, changed = one.state, one.look()
            self._rounds.mark(one.trial, one.state)
            if changed and one.state in _ENDED and one.state != before and not self.console.is_terminal:
                one.read()
                self.console.print(_line(one, self._ended(), len(self._all)), highlight=False)
        self._choose()
        running = any(one.state != "pending" for one in self._all.values())
        description = "training" if running else "starting Ray"
        self._bar.update(self._task, description=description, total=len(self._all), completed=self._ended())

    def _choose(self) -> None:
        """Choose the trials under the bar, and read what is shown of them."""
        running = [one for one in self._all.values() if one.state == "running"][:_SHOWN]
        ended = (one for one in self._all.values() if one.state in _ENDED)
        latest = running + nlargest(_SHOWN - len(running), ended, key=lambda one: one.updated)
        if self.console.is_terminal:
            for one in latest:
                one.read()
        self._latest = latest

    def _ended(self) -> int:
        return sum(one.state in _ENDED for one in self._all.values())

    def _render(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        for one in self._latest:
            table.add_row(*_cells(one))
        return Group(self._bar, table)


def _cells(one: _TrialDisplay) -> tuple[str, str, str, str]:
    mark = {"running": "[cyan]▶[/]", "done": "[green]✓[/]", "failed": "[red]✗[/]"}.get(one.state, "")
    trial = one.trial
    accuracy = "" if one.accuracy is None else f"{100 * one.accuracy:5.1f} % of what was seen"
    where = f"experience {one.experience}" if one.state == "running" else one.state
    return mark, f"{trial.stream} / {trial.variant} / seed {trial.seed}", where, accuracy


def _line(one: _TrialDisplay, ended: int, total: int) -> str:
    accuracy = "" if one.accuracy is None else f", accuracy {100 * one.accuracy:.1f} %"
    trial = one.trial
    return f"{ended}/{total} {one.state}: {trial.stream} / {trial.variant} / seed {trial.seed}{accuracy}"
