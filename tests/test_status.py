"""`retain status`, `retain stop` and `retain resume --failed`, from the files of a run, written or real.

test_sweep.py stops a sweep on Ray.
"""

import io
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from socket import gethostname
from typing import Any

import pytest
from helpers.processes import COMMAND, DEADLINE
from helpers.written_runs import identity, write_sweep, write_trial

from retain.platform.cli.app import app
from retain.platform.cli.status import (
    duration_text,
    has_ended,
    process_lines,
    request_stop,
    running_trials,
    seconds_left,
    show_status,
    typical_seconds,
    watch_status,
)
from retain.platform.cli.terminal import Terminal
from retain.platform.config.schema import Checkpoint, Experiment
from retain.platform.contract.outcome import assert_same, outcome
from retain.platform.errors import UserError
from retain.platform.ledger.reader import Trial, trials_of
from retain.platform.ledger.writer import SweepLedger, TrialLedger, write_status
from retain.platform.sweep.ray_tune import SweepStopper
from retain.platform.sweep.ray_worker import DISK_FULL
from retain.platform.sweep.run import resume
from retain.platform.trial.run import run as run_trial
from retain.platform.trial.stop_request import STOP_FILE, Stopped, StopRequest

Make = Callable[..., Experiment]
FAILED: dict[str, Any] = {"status": "failed", "error": "FloatingPointError: loss is nan"}


@pytest.fixture
def tmp_path(quick_folder: Path) -> Iterator[Path]:
    """A new folder in memory, if possible."""
    path = Path(tempfile.mkdtemp(dir=quick_folder))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A sweep in the middle: one seed of naive is done, one runs; lwf has failed twice in one way; ewc is stopped and pending."""
    trials = [
        (identity("naive"), {}),
        (identity("naive", 1), {"status": "running"}),
        (identity("lwf"), FAILED),
        (identity("lwf", 1), FAILED),
        (identity("ewc"), {"status": "stopped"}),
        (identity("ewc", 1), {"absent": True}),
    ]
    return write_sweep(tmp_path / "sweep", trials)


def train(folder: Path, experiences: int, seconds: float = 100.0) -> None:
    """Write the events of a running trial: two epochs of 50 iterations in each completed experience, and one epoch more."""
    with TrialLedger.open(folder) as ledger:
        iteration = 0
        for number in range(1, experiences + 1):
            for epoch in (1, 2):
                iteration += 50
                ledger.append("epoch", number, iteration, {"epoch": epoch, "loss": 1.0, "seconds": 4.0})
            spent = {"train_seconds": seconds - 10, "evaluation_seconds": 10.0}
            ledger.append("experience", number, iteration, spent)
        ledger.append("epoch", experiences + 1, iteration + 50, {"epoch": 1, "loss": 1.0, "seconds": 2.0})
        ledger.status("running", experience=experiences)


def shown(folder: Path) -> str:
    """The command's output."""
    file = io.StringIO()
    show_status(folder, Terminal(file=file, width=160))
    return file.getvalue()


def test_counts_failures_and_what_to_do(sweep: Path) -> None:
    lines = shown(sweep).splitlines()
    assert lines[0] == f"{sweep}: 1 done, 1 running, 2 failed, 1 stopped, 1 pending of 6 trials"
    (failure,) = [line for line in lines if line.startswith("failed")]
    ids = [str(identity("lwf", seed)["id"]) for seed in (0, 1)]
    log = sweep / "trials" / ids[0] / "trial.log"
    assert failure == f"failed {ids[0]}, {ids[1]}: FloatingPointError: loss is nan (after experience 1; {log})"
    assert lines[-1] == f"Run them again: retain resume {sweep} --failed"


def test_a_running_trial_s_place_rate_and_time_left(sweep: Path) -> None:
    """One of two experiences is done, which took 100 s; the last epoch did 50 iterations in 2 s."""
    folder = sweep / "trials" / str(identity("naive", 1)["id"])
    train(folder, experiences=1)
    trials = trials_of(sweep)
    states = {trial.id: trial.status() for trial in trials}
    typical = typical_seconds(trials, states)
    assert typical == {("class_incremental", "naive"): 1.0, "class_incremental": 1.0, None: 1.0}
    (running,) = running_trials(trials, states, typical)
    assert (running.experience, running.total, running.iteration, running.rate) == (2, 2, 150, 25.0)
    assert running.left == pytest.approx(100, abs=30) and running.silent < 30
    # ewc: two more trials, of about 1 s each; one trial runs at a time
    assert seconds_left(trials, states, [replace(running, left=100.0)], typical) == pytest.approx(102)
    two = [replace(running, left=100.0), replace(running, left=10.0)]
    assert seconds_left(trials, states, two, typical) == pytest.approx(100)  # not below the longest
    assert "2 of 2" in shown(sweep) and "150" in shown(sweep) and "25" in shown(sweep)


def test_what_is_not_known_yet_is_not_invented(tmp_path: Path) -> None:
    folder = write_sweep(
        tmp_path / "sweep", [(identity("naive"), {"status": "running"}), (identity("lwf"), {"absent": True})]
    )
    write_status(folder / "trials" / str(identity("naive")["id"]), "running", 0, None)
    trials = trials_of(folder)
    states = {trial.id: trial.status() for trial in trials}
    (running,) = running_trials(trials, states, {})
    assert (running.experience, running.total, running.rate, running.left) == (1, None, None, None)
    assert seconds_left(trials, states, [running], {}) is None
    assert "left, at the pace" not in shown(folder)


def test_a_single_trial(tmp_path: Path) -> None:
    folder = write_trial(tmp_path / "trial", identity("naive"), **FAILED)
    assert f"{folder}: 1 failed of 1 trials" in shown(folder)
    assert "FloatingPointError: loss is nan" in shown(folder) and str(folder / "trial.log") in shown(folder)


def dead_process() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.mark.parametrize(
    ("lines", "said", "ended"),
    [
        ([], None, False),
        (["2026-01-01 10:00:00 process {alive} on {host}: runs 3 trials. If no line follows"], "runs it since", False),
        (["2026-01-01 10:00:00 process {dead} on {host}: runs 3 trials. If no line follows"], "was killed", True),
        (
            ["2026-01-01 10:00:00 process {dead} on elsewhere: runs 3 trials."],
            "runs it since 2026-01-01 10:00:00",
            False,
        ),
        (
            [
                "2026-01-01 10:00:00 process {dead} on {host}: runs 3 trials.",
                "2026-01-01 10:01:00 process {dead} on {host}: ended: Stopped 143",
            ],
            "ended: Stopped 143 at 2026-01-01 10:01:00",
            True,
        ),
        (["damaged \x1b[2J"], None, False),
    ],
)
def test_the_sweep_s_process(sweep: Path, lines: Sequence[str], said: str | None, ended: bool) -> None:
    names = {"alive": os.getpid(), "dead": dead_process(), "host": gethostname()}
    if lines:
        (sweep / "sweep.log").write_text("".join(f"{line.format(**names)}\n" for line in lines))
    found = list(process_lines(sweep))
    assert (len(found) == 1 and said in found[0]) if said else found == []
    assert has_ended(sweep) == ended
    assert "\x1b" not in shown(sweep)


def test_watching_ends_with_the_run(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (sweep / "sweep.log").write_text(f"2026-01-01 10:00:00 process 1 on {gethostname()}: ended\n")
    file = io.StringIO()
    watch_status(sweep, Terminal(file=file, width=160))
    assert "1 done, 1 running, 2 failed" in file.getvalue()


@pytest.mark.parametrize("state", ["done", "failed", "stopped"])
def test_watching_a_trial_that_has_ended(tmp_path: Path, state: str) -> None:
    folder = write_trial(tmp_path / "trial", identity("naive"), status=state)
    assert has_ended(folder)
    write_status(folder, "running", 1, None)
    assert not has_ended(folder)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (99, "99 s"),
        (101, "2 min"),
        (5400, "90 min"),
        (7200, "2.0 h"),
        (3600 * 30, "30 h"),
        (86400 * 5.25, "5.2 days"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_a_wrong_folder_is_refused(tmp_path: Path) -> None:
    for command in (shown, request_stop, lambda folder: watch_status(folder, Terminal())):
        with pytest.raises(UserError, match="no folder of a trial or a sweep"):
            command(tmp_path)


# --- stopping ---


def test_only_a_run_that_is_in_use_can_be_stopped(sweep: Path) -> None:
    with pytest.raises(UserError, match="nothing to stop: no process is running it"):
        request_stop(sweep)
    assert not (sweep / STOP_FILE).exists()
    with SweepLedger.open(sweep):
        request_stop(sweep)
    assert (sweep / STOP_FILE).exists()


def test_a_stop_file_is_like_sigterm(tmp_path: Path) -> None:
    with StopRequest(stop_file=tmp_path / STOP_FILE) as request:
        assert not request.requested()
        (tmp_path / STOP_FILE).touch()
        assert request.requested() and request.signal == signal.SIGTERM
        (tmp_path / STOP_FILE).unlink()
        assert request.requested()  # once seen, it counts
        with pytest.raises(Stopped) as stopped:
            request.raise_stop()
    assert stopped.value.code == 143


def test_the_file_that_a_sweep_makes_itself_is_no_request(sweep: Path) -> None:
    """On a full disk, for example, the sweep ends with that error, not as after SIGTERM; an earlier request counts."""
    for requested_first in (False, True):
        with (
            pytest.raises(Stopped) if requested_first else nullcontext(),
            StopRequest(stop_file=sweep / STOP_FILE) as request,
        ):
            stopper = SweepStopper(sweep, trials_of(sweep), request)
            if requested_first:
                assert (sweep / STOP_FILE).exists() and not stopper.should_stop()  # a trial is running
            else:
                assert not stopper.should_stop()
                stopper.on_result({DISK_FULL: "No space left on device", "folder": str(sweep)})
                assert not stopper.should_stop()
            assert (sweep / STOP_FILE).exists() and stopper.is_stopping
            assert request.requested() == requested_first
            if requested_first:
                request.raise_stop()


def test_a_trial_outside_of_a_sweep_stops_with_a_checkpoint_and_resumes_with_the_same_bits(
    tmp_path: Path, make_experiment: Make
) -> None:
    """The command is called while the first experience ends; the trial stops before its next iteration."""
    config = replace(make_experiment("pair"), checkpoint=Checkpoint(every=0))
    folder = tmp_path / "trial"
    with pytest.raises(Stopped) as stopped:
        run_trial(config, folder, report=lambda metrics: request_stop(folder))
    assert stopped.value.code == 143
    assert Trial(folder).status().status == "stopped"
    assert not (folder / STOP_FILE).exists()
    assert max(path.name for path in (folder / "checkpoints").iterdir()).startswith("000001")
    (folder / STOP_FILE).touch()  # left over, from a request that came when the trial had just ended
    run_trial(config, folder)
    assert Trial(folder).status().status == "done" and not (folder / STOP_FILE).exists()
    run_trial(config, tmp_path / "whole")
    assert_same(outcome(folder), outcome(tmp_path / "whole"))


def test_status_and_stop_from_another_terminal(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """A run with too many epochs to end, in another process: its status, a stop, its status again, another stop."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    arguments = ["run", "quickstart", "training.epochs=100000", "wandb.mode=disabled", "-o", "trial"]
    running = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    request.addfinalizer(running.kill)  # if an assertion fails, it would run for hours
    end, metrics = time.monotonic() + DEADLINE, tmp_path / "trial" / "metrics.jsonl"
    while not metrics.exists() or b'"epoch"' not in metrics.read_bytes():
        assert running.poll() is None and time.monotonic() < end, running.communicate()[1]
        time.sleep(0.05)
    app(["status", "trial"], standalone_mode=False)
    status = capsys.readouterr().out
    assert status.startswith("trial: 1 running of 1 trials\n")
    assert "split_digits / quickstart" in status  # a narrow terminal breaks the line
    assert re.search(r"\s1\s+[\d,]+\s+[\d,.]+\s+-\s+\d+ s ago", status), status
    app(["stop", "trial"], standalone_mode=False)
    said = capsys.readouterr().out
    assert "trial was asked to stop" in said and "retain resume trial" in said
    _, errors = running.communicate(timeout=DEADLINE)
    assert running.returncode == 143
    assert "Stopped; checkpoints and completed trials are kept. Continue with: retain resume" in errors
    app(["status", "trial"], standalone_mode=False)
    assert capsys.readouterr().out == "trial: 1 stopped of 1 trials\n"
    with pytest.raises(UserError, match="trial: nothing to stop: no process is running it."):
        app(["stop", "trial"], standalone_mode=False)


# --- failed trials again ---


@pytest.mark.parametrize(
    ("state", "only_failed", "runs"), [("failed", True, True), ("stopped", True, False), ("stopped", False, True)]
)
def test_resume_of_failed_trials_only(
    tmp_path: Path, make_experiment: Make, state: Any, only_failed: bool, runs: bool
) -> None:
    config = make_experiment("pair")
    config = replace(config, wandb=replace(config.wandb, mode="disabled"))
    with pytest.raises(Stopped):
        run_trial(config, tmp_path / "trial", stopped=lambda: True)
    write_status(tmp_path / "trial", state, 0, "RuntimeError: the machine was full" if state == "failed" else None)
    resume(tmp_path / "trial", only_failed=only_failed)
    assert Trial(tmp_path / "trial").status().status == ("done" if runs else state)
