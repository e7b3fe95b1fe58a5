"""How a command that ran trials ends: what it found, what to do next, and the exit code."""

import signal
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from ..errors import UserError


class print_resume_hint:
    """Says how to go on when Ctrl-C, SIGTERM or an error ends what ran; a trial's own failure is in its ledger, as a result."""

    def __init__(self, folder: Path, errors: Console) -> None:
        self.folder, self.errors = folder, errors

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if isinstance(error, Exception) and _is_recorded(error, self.folder):
            return True
        if error is not None and not isinstance(error, UserError) and _is_unfinished(self.folder):
            self.errors.print(
                f"Stopped; what is done is kept. Go on with: retain resume {escape(str(self.folder))}", soft_wrap=True
            )
        if isinstance(error, KeyboardInterrupt):
            raise typer.Exit(130)
        if isinstance(error, SystemExit) and error.code == signal.SIGTERM:  # Ray's handler, outside of the trials' time
            raise typer.Exit(128 + signal.SIGTERM)
        return False


def _is_unfinished(folder: Path) -> bool:
    """Whether there is something to go on with."""
    from ..ledger.reader import trials_of

    there = any((folder / name).exists() for name in ("trial.json", "trials.json"))
    return there and any(trial.status().status != "done" for trial in trials_of(folder))


def _is_recorded(error: Exception, folder: Path) -> bool:
    """Whether the folder is that of a trial which says that it failed of this."""
    from ..ledger.reader import Trial

    if isinstance(error, UserError) or not (folder / "trial.json").exists():
        return False
    status = Trial(folder).status()
    return status.status == "failed" and str(status.error).startswith(f"{type(error).__name__}: {error}")


def show_results(folder: Path, console: Console, errors: Console) -> None:
    """Tables, the report, what to do next; exit code 1 when a trial failed, 130 when some were stopped."""
    from ..ledger.reader import trials_of
    from ..reporting.html_report import report as write_report
    from ..reporting.results import results_of, table_rows
    from .tables import tables

    for shown in tables(table_rows(results_of([folder]))):
        console.print(shown)
    states: dict[str, list[Any]] = {}
    for trial in trials_of(folder):
        states.setdefault(trial.status().status, []).append(trial)
    for trial in states.get("failed", []):
        errors.print(
            f"[red]failed[/] {escape(trial.id)}: {escape(str(trial.status().error))} ({escape(str(trial.folder / 'trial.log'))})",
            soft_wrap=True,
        )
    page = write_report([folder])
    console.print(
        "In %, mean ± 95 % interval over seeds. ACC: average accuracy at the end; avg. incr.: average incremental accuracy;\n"
        "forget. max: max over the past - final (Chaudhry 2018); learning: learning accuracy. Sources are on the page.",
        style="dim",
        soft_wrap=True,
    )
    console.print(f"Forgetting curves: [bold]{escape(str(page))}[/]", soft_wrap=True)
    unfinished = sum(len(trials) for state, trials in states.items() if state not in ("done", "failed"))
    if unfinished:
        errors.print(
            f"{unfinished} trials are not done. Go on with: retain resume {escape(str(folder))}", soft_wrap=True
        )
        raise typer.Exit(130)
    console.print(
        f"Next: retain list strategies · retain show quickstart · retain report FOLDER... · retain sync {escape(str(folder))}",
        style="dim",
        soft_wrap=True,
    )
    if states.get("failed"):
        raise typer.Exit(1)
