"""What the terminal shows: progress while trials run (read from their ledgers), and tables afterwards."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from .comparison import VIEWS, Row, best, cell
from .ledger import Trial, trials_of

_HEADINGS = {
    "average_accuracy": "ACC",
    "average_incremental_accuracy": "avg. incr.",
    "forgetting_max": "forget. max",
    "learning_accuracy": "learning",
}
_SHOWN = 10  # running and latest trials under the bar


@dataclass(slots=True)
class _Follower:
    """One trial's ledger, read as far as it has been written."""

    trial: Trial
    offset: int = 0
    state: str = "pending"
    updated: float = 0.0
    experience: int = 0
    accuracy: float | None = None

    def look(self) -> None:
        """Read what is new."""
        if self.state in ("done", "failed"):
            return
        status = self.trial.status()
        self.state, self.updated = status.status, status.updated
        for offset, event in self.trial.events(self.offset):
            self.offset = offset
            if event["kind"] == "experience":
                self.experience = event["experience"]
                seen = [value for value in event["task_agnostic"][: self.experience] if value is not None]
                self.accuracy = sum(seen) / len(seen) if seen else None


class Watch:
    """A context that shows how the trials of a folder go on: done, time left, running accuracy of each.

    On a terminal a live display; elsewhere a line as each trial ends.
    """

    def __init__(self, folder: Path, console: Console) -> None:
        self.folder, self.console = folder, console
        self._stop = Event()
        self._followers: list[_Follower] = []
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
        self._look()

    def _look(self) -> None:
        """Read the ledgers and move the bar; without a terminal, say which trials have ended."""
        if not self._followers:
            if not any((self.folder / name).exists() for name in ("trials.json", "trial.json")):
                return
            self._followers = [_Follower(trial) for trial in trials_of(self.folder)]
        for follower in self._followers:
            before = follower.state
            follower.look()
            if follower.state != before and follower.state in ("done", "failed") and not self.console.is_terminal:
                self.console.print(_line(follower, self._ended(), len(self._followers)), highlight=False)
        running = any(follower.state != "pending" for follower in self._followers)
        self._bar.update(
            self._task,
            description="training" if running else "starting Ray",
            total=len(self._followers),
            completed=self._ended(),
        )

    def _ended(self) -> int:
        return sum(follower.state in ("done", "failed") for follower in self._followers)

    def _render(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        running = [follower for follower in self._followers if follower.state == "running"]
        ended = sorted((f for f in self._followers if f.state in ("done", "failed")), key=lambda f: -f.updated)
        for follower in (running + ended)[:_SHOWN]:
            table.add_row(*_cells(follower))
        return Group(self._bar, table)


def _cells(follower: _Follower) -> tuple[str, str, str, str]:
    mark = {"running": "[cyan]▶[/]", "done": "[green]✓[/]", "failed": "[red]✗[/]"}[follower.state]
    trial = follower.trial
    accuracy = "" if follower.accuracy is None else f"{100 * follower.accuracy:5.1f} % of what was seen"
    where = f"experience {follower.experience}" if follower.state == "running" else follower.state
    return mark, f"{trial.stream} / {trial.variant} / seed {trial.seed}", where, accuracy


def _line(follower: _Follower, ended: int, total: int) -> str:
    accuracy = "" if follower.accuracy is None else f", accuracy {100 * follower.accuracy:.1f} %"
    trial = follower.trial
    return f"{ended}/{total} {follower.state}: {trial.stream} / {trial.variant} / seed {trial.seed}{accuracy}"


def tables(rows: Sequence[Row]) -> list[Table]:
    """One table per stream and view: variants by metrics in per cent, mean and 95 % interval over seeds, best in bold."""
    found = []
    for stream, view in dict.fromkeys((row.stream, row.view) for row in rows):
        members = [row for row in rows if (row.stream, row.view) == (stream, view)]
        both = len({row.view for row in rows if row.stream == stream}) > 1
        seeds = max(row.metrics["average_accuracy"][2] for row in members)
        title = f"{stream}, {VIEWS[view].lower()}" if both else stream
        title += f": {seeds} seeds" if seeds > 1 else ""
        table = Table(title=Text(title, style="bold"), title_justify="left", box=None, padding=(0, 2, 0, 0))
        table.add_column("variant", overflow="fold")  # the numbers are never cut, so this gives way first
        for heading in _HEADINGS.values():
            table.add_column(heading, justify="right", no_wrap=True)
        winners = {column: best(members, column) for column in _HEADINGS}
        for row in members:
            cells = [
                (cell(*row.metrics[name][:2]), "bold" if row.variant in winners[name] else "") for name in _HEADINGS
            ]
            name = Text(row.variant + (" (bound)" if row.bound else ""), style="dim" if row.bound else "")
            table.add_row(name, *(Text(text, style=style) for text, style in cells))
        found.append(table)
    return found


def dry_run_table(trials: Sequence[Mapping[str, Any]]) -> Table:
    """The trials that a sweep would run."""
    table = Table("trial", "stream", "variant", "seed", box=None, padding=(0, 2, 0, 0))
    for trial in trials:
        table.add_row(trial["id"], trial["stream"], trial["variant"], str(trial["seed"]))
    return table


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    return (
        time.strftime("%H h %M min", time.gmtime(seconds))
        if seconds >= 3600
        else f"{int(seconds // 60)} min {seconds % 60:.0f} s"
    )
