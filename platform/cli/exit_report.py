"""The end of a command that ran trials: results, what to do next, the exit code."""

import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.text import Text

from ..errors import UserError
from .terminal import one_line

if TYPE_CHECKING:
    from ..ledger.reader import Status, Trial

_POLL = 0.5  # seconds between two looks for a trial that is done
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
    """Whether the folder has trials that are not done, or a search that has not chosen."""
    from ..ledger.reader import trials_of
    from .dry_run import has_open_search

    if not any((folder / name).exists() for name in ("trial.json", "trials.json")):
        return False
    trials = [trial for trial in trials_of(folder) if trial.role != "superseded"]
    return not all(trial.status().status in ("done", "pruned") for trial in trials) or has_open_search(folder)


def _is_recorded(error: Exception, folder: Path) -> bool:
    """Whether the folder is a trial's whose ledger has this error as the reason of its failure."""
    from ..ledger.reader import Trial

    if not (folder / "trial.json").exists():
        return False
    status = Trial(folder).status()
    return status.status == "failed" and str(status.error).startswith(f"{type(error).__name__}: {error}")


@contextmanager
def report_prepared_meanwhile(folder: Path) -> Iterator[None]:
    """A context in which a thread imports what the report needs, once a first trial is done: not when the trials start."""
    ended = threading.Event()

    def prepare() -> None:
        while not any(folder.glob("trials/*/summary.json")):
            if ended.wait(_POLL):
                return
        from ..reporting.html_report import preload

        preload()

    thread = threading.Thread(target=prepare, daemon=True, name="retain-report")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def show_results(folder: Path, console: Console, errors: Console) -> None:
    """Print the tables of a folder's trials, write the report and print what to do next.

    Raises:
        typer.Exit: with code 1 if a trial failed, 130 if some are not done or a search has not chosen.
    """
    from ..reporting.html_report import report as write_report
    from ..reporting.results import reported, results_of, table_rows
    from ..reporting.search_results import searches_of
    from .dry_run import has_open_search
    from .search_lines import search_lines
    from .tables import tables

    results = results_of([folder])
    for table in tables(table_rows(reported(results))):
        console.print(table)
    for parts in search_lines(searches_of(folder)):
        console.print(one_line(*parts), soft_wrap=True)
    current = [result for result in results if result.trial.role != "superseded"]
    failed = [result for result in current if result.status.status == "failed"]
    for line in failure_lines((result.trial, result.status, result.problem) for result in failed):
        errors.print(line, soft_wrap=True)
    page = None
    try:
        page = write_report([folder], results=results)
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
    unfinished = sum(result.status.status not in ("done", "failed", "pruned") for result in current)
    if unfinished or has_open_search(folder):
        left = f"{unfinished} trials are not done" if unfinished else "The search has not chosen yet"
        errors.print(one_line(f"{left}. Continue with: retain resume {folder}"), soft_wrap=True)
        raise typer.Exit(130)
    commands = f"retain list strategies · retain show quickstart · retain report FOLDER... · retain sync {folder}"
    console.print(one_line(f"Next: {commands}"), style="dim", soft_wrap=True)
    if failed:
        raise typer.Exit(1)


def resumption_lines(
    folder: Path, trials: "Sequence[Trial]", to_go: "Sequence[Trial]", *, only_failed: bool
) -> Iterator[str]:
    """Yield how many of a folder's trials are done and to go, and what a resumed search leaves as it is.

    Args:
        folder: of a sweep or a trial.
        trials: its trials.
        to_go: those that will run.
        only_failed: whether only failed ones run.
    """
    states = [(trial, trial.status().status) for trial in trials if trial.role != "superseded"]
    ids = {trial.id for trial in to_go}  # damaged ones too, which are done but for their damage
    num_done = sum(state in ("done", "pruned") and trial.id not in ids for trial, state in states)
    kind = "failed ones " if only_failed else ""
    yield f"{num_done} of {len(states)} trials are done, {len(ids)} {kind}to go"
    kept = sum(state == "failed" and trial.role == "search" for trial, state in states)
    if kept and not only_failed:
        yield f"{kept} failed trials of the search stay as they are. Run them again: retain resume {folder} --failed"


def failure_lines(failed: "Iterable[tuple[Trial, Status, str]]") -> Iterator[Text]:
    """Yield a line for each error: the trials that failed by it, the error, how far they came, and the first one's log.

    Args:
        failed: trials with their states, and what is wrong with those that are damaged.
    """
    same: dict[object, list[tuple[Trial, Status, str]]] = {}
    for trial, status, problem in failed:
        key = (status.error, status.experience) if status.error else trial.id
        same.setdefault(key, []).append((trial, status, problem))
    for members in same.values():
        yield _failure(*members[0], [trial.id for trial, *_ in members])


def _failure(trial: "Trial", status: "Status", problem: str, ids: Sequence[str]) -> Text:
    if status.error is None:  # one of its files is damaged
        return one_line(("damaged", "red"), f" {trial.id}: {problem}")
    stage = f"after experience {status.experience}; " if status.experience else ""
    more = f" and {len(ids) - _MAX_IDS} more" if len(ids) > _MAX_IDS else ""
    names = f"{', '.join(ids[:_MAX_IDS])}{more}"
    return one_line(
        ("failed", "red"), f" {names}: {' '.join(status.error.split())} ({stage}{trial.folder / 'trial.log'})"
    )
