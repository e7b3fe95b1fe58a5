"""The end of a command that ran trials: results, what to do next, the exit code."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.text import Text

from ..errors import UserError
from .terminal import one_line

if TYPE_CHECKING:
    from ..reporting.results import ComparedTrial

_MAX_IDS = 5  # trials named in a line about their common error


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
            hint = f"Stopped; checkpoints and completed trials are kept. Continue with: retain resume {folder}"
            errors.print(one_line(hint), soft_wrap=True)
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
    from ..reporting.html_report import report as write_report
    from ..reporting.results import results_of, table_rows
    from .tables import tables

    results = results_of([folder])
    for table in tables(table_rows(results)):
        console.print(table)
    failed = [result for result in results if result.status.status == "failed"]
    for line in _failures(failed):
        errors.print(line, soft_wrap=True)
    page = None
    try:
        page = write_report([folder])
    except UserError as error:  # a full disk, for example
        advice = f"Write the page with: retain report {folder} --output PAGE"
        errors.print(one_line(("not written", "yellow"), f" {error}. {advice}"), soft_wrap=True)
    for note in (
        "In %, mean ± 95 % interval over the finished seeds. ACC: average accuracy at the end; avg. incr.: average incremental",
        "accuracy; forget. max: max over the past - final (Chaudhry 2018); learning: learning accuracy. Sources are on the page.",
    ):
        console.print(note, style="dim", soft_wrap=True)
    if page is not None:
        console.print(one_line("Forgetting curves: ", (str(page), "bold")), soft_wrap=True)
    unfinished = sum(result.status.status not in ("done", "failed") for result in results)
    if unfinished:
        errors.print(
            one_line(f"{unfinished} trials are not done. Continue with: retain resume {folder}"), soft_wrap=True
        )
        raise typer.Exit(130)
    commands = f"retain list strategies · retain show quickstart · retain report FOLDER... · retain sync {folder}"
    console.print(one_line(f"Next: {commands}"), style="dim", soft_wrap=True)
    if failed:
        raise typer.Exit(1)


def _failures(failed: "Sequence[ComparedTrial]") -> Iterator[Text]:
    """Yield a line for each error: the trials that failed by it, the error, how far they came, and the first one's log."""
    same: dict[object, list[ComparedTrial]] = {}
    for result in failed:
        status = result.status
        same.setdefault((status.error, status.experience) if status.error else result.trial.id, []).append(result)
    for results in same.values():
        yield _failure(results[0], [result.trial.id for result in results])


def _failure(result: "ComparedTrial", ids: Sequence[str]) -> Text:
    trial, status = result.trial, result.status
    if status.error is None:  # one of its files is damaged
        return one_line(("damaged", "red"), f" {trial.id}: {result.problem}")
    stage = f"after experience {status.experience}; " if status.experience else ""
    more = f" and {len(ids) - _MAX_IDS} more" if len(ids) > _MAX_IDS else ""
    names = f"{', '.join(ids[:_MAX_IDS])}{more}"
    return one_line(
        ("failed", "red"), f" {names}: {' '.join(status.error.split())} ({stage}{trial.folder / 'trial.log'})"
    )
