"""The pool of workers without Ray: which trials run again, folders that are written meanwhile, SIGTERM, imports.

Sweeps on real clusters are in test_sweep.py and test_ray_faults.py.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
from helpers.written_runs import identity

from retain import load_config
from retain.platform.ledger.reader import Trial
from retain.platform.ledger.writer import write_status
from retain.platform.sweep.plan import PlannedTrial, plan
from retain.platform.sweep.ray_pool import TrialQueue
from retain.platform.sweep.signals import default_sigterm, exit_on_sigterm
from retain.platform.sweep.trial_folders import FolderWriter


def trials_in(folder: Path, number: int) -> list[Trial]:
    """Return trials without a ledger."""
    trials = [Trial(folder / str(index), {**identity("v", index), "id": str(index)}) for index in range(number)]
    for trial in trials:
        trial.folder.mkdir()
    return trials


def waiting(queue: TrialQueue) -> list[str]:
    """Take all trials of a queue; return their ids."""
    ids = []
    while (trial := queue.first(lambda trial: True)) is not None:
        queue.took_first()
        ids.append(trial.id)
    return ids


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_trial_whose_process_dies_runs_again_next_and_is_given_up_after_so_many_times(
    tmp_path: Path, times: int
) -> None:
    trials = trials_in(tmp_path, 3)
    queue = TrialQueue(trials, times)
    for _ in range(times):
        assert not queue.given_up
        first = queue.first(lambda trial: True)
        assert first is trials[0]
        queue.took_first()
        queue.failed(first, RuntimeError("died"), has_started=True)
    assert list(queue.given_up) == ["0"] and "RuntimeError: died" in queue.given_up["0"]
    assert waiting(queue) == ["1", "2"]


def test_a_process_that_dies_after_its_trial_does_not_concern_it(tmp_path: Path) -> None:
    trials = trials_in(tmp_path, 2)
    queue = TrialQueue(trials, 1)
    for trial, status in zip(trials, ("done", "failed"), strict=True):
        queue.took_first()
        write_status(trial.folder, status, 0, None)
        queue.failed(trial, RuntimeError("died"), has_started=True)
    assert waiting(queue) == [] and queue.given_up == {}


def test_workers_that_cannot_start_count_for_the_next_trial_or_for_all_if_none_ever_started(tmp_path: Path) -> None:
    queue = TrialQueue(trials_in(tmp_path, 3), 2)
    for _ in range(2):
        queue.failed(None, RuntimeError("no module"), has_started=True)
    assert list(queue.given_up) == ["0"]
    queue.failed(None, RuntimeError("no module"), has_started=False)
    assert list(queue.given_up) == ["0"] and queue.num_waiting == 2
    queue.failed(None, RuntimeError("no module"), has_started=False)
    assert list(queue.given_up) == ["0", "1", "2"] and queue.num_waiting == 0
    queue.failed(None, RuntimeError("no module"), has_started=False)  # nothing waits any more


def test_a_trial_waits_until_its_folder_is_written(tmp_path: Path) -> None:
    queue = TrialQueue(trials_in(tmp_path, 2), 1)
    assert queue.first(lambda trial: trial.id != "0") is None and queue.num_waiting == 2


@pytest.fixture(scope="module")
def planned() -> list[PlannedTrial]:
    """Plan three trials."""
    return plan(load_config("quickstart", ["sweep.streams={}", "sweep.variants={}", "sweep.seeds=[4,5,6]"]))


def test_folders_are_written_in_a_thread_before_the_block_ends(tmp_path: Path, planned: list[PlannedTrial]) -> None:
    with FolderWriter(tmp_path, planned) as writer:
        assert [trial.seed for trial in writer.trials] == [4, 5, 6]
        writer.wait()
        assert all(map(writer.is_written, writer.trials))
        assert writer.is_written(Trial(tmp_path, identity("of an earlier process")))
    for trial, plan_of_it in zip(writer.trials, planned, strict=True):
        assert trial.damage() is None and trial.status().status == "pending"
        assert Trial(trial.folder).identity == plan_of_it.identity


def test_a_folder_that_cannot_be_written_is_an_error_of_its_trial(tmp_path: Path, planned: list[PlannedTrial]) -> None:
    (tmp_path / "trials").mkdir()
    with FolderWriter(tmp_path, planned[:1]) as writer:
        writer.wait()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "trials").touch()
    with FolderWriter(tmp_path / "other", planned) as writer:
        while True:
            try:
                assert not writer.is_written(writer.trials[0])
            except OSError:
                break
            time.sleep(0.01)


@pytest.mark.parametrize("inside", [nullcontext, default_sigterm])
def test_sigterm_raises_system_exit_except_while_trials_run(inside: type) -> None:
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    with exit_on_sigterm():
        with inside():
            is_default = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
            assert is_default == (inside is default_sigterm)
        with pytest.raises(SystemExit) as exit_info:
            os.kill(os.getpid(), signal.SIGTERM)
        assert exit_info.value.code == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_sweep_can_start_ray_before_torch_is_imported() -> None:
    """`sweep` starts Ray in a thread, and imports what the plan needs meanwhile."""
    code = "import sys, retain.platform.sweep.run; print({'torch', 'ray', 'optuna', 'scipy'} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "set()"
