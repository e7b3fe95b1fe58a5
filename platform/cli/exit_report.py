"""The end of a command that ran trials: results, what to do next, the exit code."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from ..errors import UserError


@contextmanager
def print_resume_hint(folder: Path, errors: Console) -> Iterator[None]:
    """A context that prints how to resume when Ctrl-C, SIGTERM or an error ends the trials in `folder`.

    A failure that the trial's ledger records is swallowed: it is a result, and `show_results` prints it.

    Raises:
        typer.Exit: with code 130 for Ctrl-C, 143 for a SIGTERM that Ray's handler turned into SystemExit.
    """
    try:
        yield
    except UserError:
        raise
    except BaseException as error:  # noqa: BLE001 - every end of the trials gets the hint
        if isinstance(error, Exception) and _is_recorded(error, folder):
            return
        if _is_unfinished(folder):
            errors.print(
                "Stopped; checkpoints and completed trials are kept. "
                f"Continue with: retain resume {escape(str(folder))}",
                soft_wrap=True,
            )
        if isinstance(error, KeyboardInterrupt):
            raise typer.Exit(130) from error
        if isinstance(error, SystemExit) and error.code == signal.SIGTERM:  # Ray's handler, before or after the trials
            raise typer.Exit(128 + signal.SIGTERM) from error
        raise


def _is_unfinished(folder: Path) -> bool:
    """Whether the folder has trials that are not done."""
    from ..ledger.reader import trials_of

    is_run_folder = any((folder / name).exists() for name in ("trial.json", "trials.json"))
    return is_run_folder and any(trial.status().status != "done" for trial in trials_of(folder))


def _is_recorded(error: Exception, folder: Path) -> bool:
    """Whether the folder is a trial's whose ledger has this error as the reason of its failure."""
    from ..ledger.reader import Trial

    if not (folder / "trial.json").exists():
        return False
    status = Trial(folder).status()
    return status.status == "failed" and str(status.error).startswith(f"{type(error).__name__}: {error}")


def show_results(folder: Path, console: Console, errors: Console) -> None:
    """Print the tables of a folder's trials, write the report and print what to do next.

    Raises:
        typer.Exit: with code 1 if a trial failed, 130 if some are not done.
    """
    from ..ledger.reader import trials_of
    from ..reporting.html_report import report as write_report
    from ..reporting.results import results_of, table_rows
    from .tables import tables

    for table in tables(table_rows(results_of([folder]))):
        console.print(table)
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
            f"{unfinished} trials are not done. Continue with: retain resume {escape(str(folder))}", soft_wrap=True
        )
        raise typer.Exit(130)
    console.print(
        f"Next: retain list strategies · retain show quickstart · retain report FOLDER... · retain sync {escape(str(folder))}",
        style="dim",
        soft_wrap=True,
    )
    if states.get("failed"):
        raise typer.Exit(1)
