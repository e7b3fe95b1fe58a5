"""`retain status` and `retain stop`: watch and stop a run from another terminal, by its files alone."""

import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from heapq import nlargest
from pathlib import Path
from socket import gethostname
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table

from ..errors import UserError
from ..ledger.reader import Status, Trial, trials_of
from ..ledger.writer import is_in_use
from ..reporting.search_results import searches_of
from ..trial.stop_request import STOP_FILE
from .exit_report import failure_lines
from .progress import ProgressDisplay
from .search_lines import search_lines
from .terminal import cell, one_line, plain_table, terminal

_POLL_SECONDS = 1.0
_MAX_RUNNING = 30  # trials in the table
_MAX_TIMED = 300  # finished trials, the latest ones, that the time left is computed from
_LOG_LINE = re.compile(r"(?P<time>\S+ \S+) process (?P<process>\d+) on (?P<host>\S+): (?P<text>.*)")


@dataclass(frozen=True, slots=True)
class RunningTrial:
    """How far a running trial has come, by its ledger.

    Attributes:
        trial: its folder and identity.
        experience: the experience that it trains on, from 1.
        total: how many there are; None: not known yet.
        iteration: training iterations at its last event.
        rate: iterations a second in its last epoch; None before its first.
        left: seconds until it is done, at the pace of its past experiences or of finished trials of its variant; None: not known.
        silent: seconds since it last wrote anything.
    """

    trial: Trial
    experience: int
    total: int | None
    iteration: int
    rate: float | None
    left: float | None
    silent: float


def show_status(folder: Path, console: Console) -> None:
    """Print how many trials are done, running, ...; the running ones; the failed ones with reason and log; the time left.

    Raises:
        UserError: the folder is neither a sweep's nor a trial's.
    """
    listed = trials_of(folder)
    trials = [trial for trial in listed if trial.role != "superseded"]
    states = {trial.id: trial.status() for trial in trials}
    counts: Counter[str] = Counter(state.status for state in states.values())
    order = ("done", "running", "failed", "stopped", "pruned", "pending")
    numbers = ", ".join(f"{counts[state]} {state}" for state in order if counts[state])
    console.print(one_line((str(folder), "bold"), f": {numbers} of {len(trials)} trials"), soft_wrap=True)
    if len(listed) > len(trials):
        console.print(f"{len(listed) - len(trials)} trials of an earlier choice are no longer reported", soft_wrap=True)
    for text in process_lines(folder):
        console.print(one_line(text), soft_wrap=True)
    typical = typical_seconds(trials, states)
    running = running_trials(trials, states, typical)
    if running:
        console.print(running_table(running[:_MAX_RUNNING]))
    if len(running) > _MAX_RUNNING:
        console.print(f"and {len(running) - _MAX_RUNNING} more running", style="dim")
    left = seconds_left(trials, states, running, typical)
    if left is not None:
        console.print(f"about {duration_text(left)} left, at the pace so far")
    for parts in search_lines(searches_of(folder)):
        console.print(one_line(*parts), soft_wrap=True)
    failed = [(trial, states[trial.id], "") for trial in trials if states[trial.id].status == "failed"]
    for line in failure_lines(failed):
        console.print(line, soft_wrap=True)
    if failed:
        console.print(one_line(f"Run them again: retain resume {folder} --failed"), style="dim", soft_wrap=True)


def watch_status(folder: Path, console: Console) -> None:
    """Show the progress until the run has ended or Ctrl-C is pressed; then print the status."""
    trials_of(folder)
    with suppress(KeyboardInterrupt), ProgressDisplay(folder, terminal()):
        while not has_ended(folder):
            time.sleep(_POLL_SECONDS)
    show_status(folder, console)


def request_stop(folder: Path) -> None:
    """Ask a run to write checkpoints and end, as after SIGTERM.

    Raises:
        UserError: the folder is neither a sweep's nor a trial's, no process is writing to it, or it cannot be written.
    """
    trials_of(folder)
    try:
        if not is_in_use(folder):
            raise UserError(f"{folder}: nothing to stop: no process is running it.")
        (folder / STOP_FILE).touch()
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}") from None


def has_ended(folder: Path) -> bool:
    """Return whether the sweep's process, or the trial, has ended, so that nothing will change."""
    last = _last_log_line(folder)
    if last is not None:
        return last["text"].startswith("ended") or _is_dead(last)
    trials = [trial for trial in trials_of(folder) if trial.role != "superseded"]
    return all(trial.status().status not in ("pending", "running") for trial in trials)


def process_lines(folder: Path) -> Iterator[str]:
    """Yield what a sweep's log says about its last process: since when it has run, or how it has ended."""
    last = _last_log_line(folder)
    if last is None:
        return
    where = f"process {last['process']} on {last['host']}"
    if last["text"].startswith("ended"):
        yield f"{where} {last['text']} at {last['time']}"
    elif _is_dead(last):
        yield f"{where} was killed; continue with: retain resume {folder}"
    else:
        yield f"{where} runs it since {last['time']}" + (
            "; it was asked to stop" if (folder / STOP_FILE).exists() else ""
        )


def _last_log_line(folder: Path) -> Mapping[str, str] | None:
    try:
        lines = (folder / "sweep.log").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    matches = (_LOG_LINE.fullmatch(line) for line in reversed(lines))
    return next((match.groupdict() for match in matches if match), None)


def _is_dead(line: Mapping[str, str]) -> bool:
    """Whether the line is of a process of this machine that does not exist any more."""
    import psutil

    return line["host"] == gethostname() and not psutil.pid_exists(int(line["process"]))


def running_trials(
    trials: Sequence[Trial], states: Mapping[str, Status], typical: Mapping[object, float]
) -> list[RunningTrial]:
    """Return the running trials, in the order of the list; `typical`: of `typical_seconds`."""
    lengths = {trial.stream: states[trial.id].experience for trial in trials if states[trial.id].status == "done"}
    return [
        _running(trial, states[trial.id], lengths.get(trial.stream), typical)
        for trial in trials
        if states[trial.id].status == "running"
    ]


def _running(trial: Trial, state: Status, length: int | None, typical: Mapping[object, float]) -> RunningTrial:
    epochs: list[dict[str, Any]] = []
    spent: list[float] = []  # seconds of its completed experiences
    iteration = 0
    with suppress(UserError):  # a damaged ledger: its errors are shown when it is resumed
        for _, event in trial.events():
            iteration = event["iteration"]
            epochs += [event] if event["kind"] == "epoch" else []
            spent += [_seconds(event)] if event["kind"] == "experience" else []
        total = (trial.read("matrix") or {}).get("num_experiences", length)
    silent = max(0.0, time.time() - max([state.updated, *_changed(trial)]))
    left = None
    if total is not None and spent:
        left = max(0.0, fmean(spent) * (total - len(spent)) - max(0.0, time.time() - state.updated))
    elif (expected := _expected(trial, typical)) is not None:
        left = max(0.0, expected - max(0.0, time.time() - state.updated))
    return RunningTrial(trial, state.experience + 1, total, iteration, _rate(epochs), left, silent)


def _seconds(event: Mapping[str, Any]) -> float:
    """The seconds of an experience."""
    return sum(float(event.get(name) or 0) for name in ("train_seconds", "evaluation_seconds"))


def _changed(trial: Trial) -> Iterator[float]:
    """When the trial's files were changed, as unix times."""
    for name in ("metrics.jsonl", "status.json", "trial.log", "checkpoints"):
        with suppress(OSError):
            yield (trial.folder / name).stat().st_mtime


def _rate(epochs: Sequence[Mapping[str, Any]]) -> float | None:
    """Iterations a second in the last epoch."""
    if not epochs:
        return None
    before = epochs[-2]["iteration"] if len(epochs) > 1 else 0
    seconds = epochs[-1].get("seconds")
    return (epochs[-1]["iteration"] - before) / seconds if isinstance(seconds, int | float) and seconds > 0 else None


def typical_seconds(trials: Sequence[Trial], states: Mapping[str, Status]) -> dict[object, float]:
    """Return the mean seconds of finished trials: of a stream and variant, of a stream, of all (key None)."""
    spent: dict[object, list[float]] = {}
    done = [trial for trial in trials if states[trial.id].status == "done"]
    for trial in nlargest(_MAX_TIMED, done, key=lambda trial: states[trial.id].updated):
        with suppress(UserError):
            seconds = (trial.read("summary") or {}).get("seconds")
            if isinstance(seconds, int | float):
                for key in ((trial.stream, trial.variant), trial.stream, None):
                    spent.setdefault(key, []).append(seconds)
    return {key: fmean(values) for key, values in spent.items()}


def _expected(trial: Trial, typical: Mapping[object, float]) -> float | None:
    keys = ((trial.stream, trial.variant), trial.stream, None)
    return next((typical[key] for key in keys if key in typical), None)


def seconds_left(
    trials: Sequence[Trial],
    states: Mapping[str, Status],
    running: Sequence[RunningTrial],
    typical: Mapping[object, float],
) -> float | None:
    """Return the seconds until all trials have ended, if as many run at once as now; None if nothing runs or has finished yet."""
    waiting = [_expected(trial, typical) for trial in trials if states[trial.id].status in ("pending", "stopped")]
    left = [*waiting, *(each.left for each in running)]
    if not running or any(each is None for each in left):
        return None
    longest = max(each.left or 0.0 for each in running)
    return max(longest, sum(each or 0.0 for each in left) / len(running))


def running_table(running: Sequence[RunningTrial]) -> Table:
    """Return a table of the running trials."""
    table = plain_table("running", "experience", "iteration", "it/s", "left", "last event")
    for each in running:
        trial = each.trial
        of_total = f"{each.experience} of {each.total}" if each.total else str(each.experience)
        rate = "-" if each.rate is None else f"{each.rate:,.0f}" if each.rate >= 10 else f"{each.rate:.1f}"
        left = "-" if each.left is None else duration_text(each.left)
        name = f"{trial.stream} / {trial.variant} / seed {trial.seed}"
        ago = f"{duration_text(each.silent)} ago"
        table.add_row(*map(cell, (name, of_total, f"{each.iteration:,}", rate, left, ago)))
    return table


def duration_text(seconds: float) -> str:
    """Return seconds as "42 s", "12 min", "3.4 h" or "2.1 days"."""
    for unit, length in (("s", 1), ("min", 60), ("h", 3600), ("days", 86400)):
        if seconds < 100 * length or unit == "days":
            break
    digits = 1 if unit in ("h", "days") and seconds < 10 * length else 0
    return f"{seconds / length:.{digits}f} {unit}"
