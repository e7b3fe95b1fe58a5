"""Signals, clocks, hangs and full disks: outside influences on a trial, and what it leaves for the next one in its process."""

import faulthandler
import gc
import os
import random
import shutil
import signal
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers import sweeps
from helpers.processes import DEADLINE, forkserver
from plugins import acting

from retain.platform.config.load import to_dict
from retain.platform.config.schema import Checkpoint, Experiment, Ray, Resources, seconds
from retain.platform.contract.outcome import assert_same, outcome
from retain.platform.errors import UserError
from retain.platform.ledger.reader import Trial
from retain.platform.ledger.writer import TrialLedger
from retain.platform.sweep import ray_worker
from retain.platform.sweep.run import resume
from retain.platform.trial import checkpoint
from retain.platform.trial.run import identity_of
from retain.platform.trial.run import run as run_trial
from retain.platform.trial.stop_request import Stopped, StopRequest
from retain.platform.trial.torch_settings import torch_settings

Make = Callable[..., Experiment]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the user's working folder, for separate processes."""
    folder = tmp_path_factory.mktemp("own")
    for name in ("acting", "faulty"):
        sweeps.write_plugin(folder, name)
    return folder


@pytest.fixture
def folder(quick_folder: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Yield a new trial's folder."""
    path = quick_folder / f"stop-{abs(hash(request.node.name))}"
    yield path
    shutil.rmtree(path, ignore_errors=True)


def calling(make_experiment: Make, function: Callable[[Any], None], **more: Any) -> Experiment:
    """Return an experiment that calls `function(learner)` in each iteration."""
    acting.CALL[:] = [function]
    return make_experiment(strategies={"plugins.acting": {}}, **more)


# Stop requests.


def test_signals_request_a_stop_and_their_handlers_are_restored() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with StopRequest() as interruption:
        assert not interruption.requested()
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.requested() and interruption.signal == signal.SIGTERM
        with pytest.raises(Stopped) as stopped:
            interruption.raise_stop()
        assert stopped.value.code == 143
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.requested()
        with pytest.raises(KeyboardInterrupt):
            interruption.raise_stop()
    assert before == {number: signal.getsignal(number) for number in before}
    with pytest.raises(KeyboardInterrupt), StopRequest():  # no stop was requested
        os.kill(os.getpid(), signal.SIGINT)
    with StopRequest(lambda: True) as interruption, pytest.raises(Stopped) as stopped:
        interruption.raise_stop()
    assert stopped.value.code == 0


def test_a_second_ctrl_c_ends_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), StopRequest():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("not reached")


def test_the_programs_signal_handlers_and_other_threads_are_not_touched() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with StopRequest() as interruption:
            os.kill(os.getpid(), signal.SIGTERM)
            assert heard == [signal.SIGTERM] and not interruption.requested()
    finally:
        signal.signal(signal.SIGTERM, before)
    handlers: list[Any] = []

    def elsewhere() -> None:
        with StopRequest():
            handlers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert handlers == [before]


def test_the_caller_can_request_a_stop(folder: Path, make_experiment: Make) -> None:
    """The callback is called before the first iteration; the checkpoint is of the same iteration."""
    config = make_experiment("pair")
    with pytest.raises(Stopped):
        run_trial(config, folder, stopped=lambda: True)
    assert Trial(folder).status().status == "stopped"
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["000000+000000000"]
    run_trial(config, folder)
    run_trial(config, other := folder.with_name(folder.name + "-whole"))
    assert_same(outcome(folder), outcome(other))
    shutil.rmtree(other)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_signal_at_the_command_line_checkpoints_at_once(
    number: signal.Signals, code: int, own: Path, folder: Path, make_experiment: Make
) -> None:
    """`retain run`: the exit code is the signal's, the hint says how to resume, and no completed work is repeated."""
    notes = own / f"notes-{code}"
    config = make_experiment("pair", strategies={"plugins.faulty": {"notes": str(notes), "does": "waits", "at": 5}})
    (own / "waits.yaml").write_text(yaml.safe_dump(to_dict(config)))
    arguments = ["run", "waits.yaml", "wandb.mode=disabled", "checkpoint.every=0", "--output", str(folder)]
    process = sweeps.retain(own, *arguments)
    sweeps.wait_for(process, notes.with_name(f"{notes.name}.waiting").exists)
    process.send_signal(number)
    notes.with_name(f"{notes.name}.go").touch()  # the trial may go on, but the signal came first
    exit_code, output = sweeps.ended(process)
    assert exit_code == code, output
    assert f"retain resume {folder}" in output and "Traceback" not in output
    assert sweeps.newest(folder) == "000000+000000006"
    assert Trial(folder).status().status == "stopped"
    resume(folder)
    assert notes.read_text().split() == ["0", "6"]
    run_trial(config, other := folder.with_name(folder.name + "-whole"))
    assert_same(outcome(folder), outcome(other))
    shutil.rmtree(other)


def test_stopped_again_before_any_progress_the_checkpoint_is_kept(folder: Path, make_experiment: Make) -> None:
    """If it were written again, it would be missing for a moment."""
    changes = []
    for _ in range(2):
        with pytest.raises(Stopped):
            run_trial(make_experiment("pair"), folder, stopped=lambda: True)
        changes.append((folder / "checkpoints" / "000000+000000000" / "manifest.json").stat().st_ino)
    assert changes[0] == changes[1]


# Durations and clocks.


@pytest.mark.parametrize(
    ("text", "expected"), [("60s", 60.0), ("5m", 300.0), ("1.5h", 5400.0), ("90", 90.0), (0.25, 0.25), (0, 0.0)]
)
def test_durations(text: str | float, expected: float) -> None:
    assert seconds("x", text) == expected


@pytest.mark.parametrize("text", ["", "soon", "-1", "5 minutes", "1e400", "nan", float("inf"), True])
def test_invalid_durations_are_refused(text: Any) -> None:
    with pytest.raises(ValueError, match=f"^every={text!r}: must be a {'string' if text is True else 'time'}"):
        Checkpoint(every=text)


@pytest.mark.parametrize("every", [None, "1h"])
def test_without_a_short_interval_only_experiences_have_checkpoints(
    every: Any, folder: Path, make_experiment: Make
) -> None:
    run_trial(replace(make_experiment("pair"), checkpoint=Checkpoint(every=every, keep=1000)), folder)
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["000001", "000002"]


def test_checkpoints_are_written_at_the_set_interval(folder: Path, make_experiment: Make) -> None:
    """10 iterations of at least 50 ms in each experience: at least one interval of 0.1 s, and no more than the time allows."""
    config = make_experiment("pair", strategies={"plugins.acting": {"what": "slow"}}, iterations=10)
    began = time.monotonic()
    run_trial(replace(config, checkpoint=Checkpoint(every=0.1, keep=1000)), folder)
    passed = time.monotonic() - began
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    inside = [name.partition("+")[0] for name in names if "+" in name]
    assert set(inside) == {"000000", "000001"} and set(names) >= {"000001", "000002"}
    assert len(inside) <= passed / 0.1


def test_a_clock_that_jumps_changes_nothing(
    folder: Path, make_experiment: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wall clock jumps back and forth by years; times in the ledger are durations from a monotonic clock."""
    config = replace(make_experiment("pair"), checkpoint=Checkpoint(every=0))
    run_trial(config, folder)
    real, jumps = time.time, random.Random(0)
    monkeypatch.setattr(time, "time", lambda: real() + jumps.uniform(-1e8, 1e8))
    run_trial(config, other := folder.with_name(folder.name + "-jumping"))
    monkeypatch.undo()
    assert_same(outcome(folder), outcome(other))
    for _, event in Trial(other).events():
        assert all(0 <= value < 1e6 for name, value in event.items() if name in ("seconds", "train_seconds"))
    shutil.rmtree(other)


# Hangs.


@pytest.mark.parametrize("how", [pytest.param("sleep", marks=pytest.mark.slow), "hold"])
def test_a_hung_trial_is_ended_and_its_stack_is_logged(how: str, folder: Path, make_experiment: Make) -> None:
    """The trial sleeps, or never releases the interpreter; its earlier progress is in its checkpoint. As a worker runs it."""
    acts = {"what": how, "at": 5, "checkpoints": f"{folder}/checkpoints/000000+*"}
    config = make_experiment("pair", strategies={"plugins.acting": acts}, epochs=20)
    config = replace(config, checkpoint=Checkpoint(every=0), ray=Ray(hang_timeout=4))
    TrialLedger.create(folder, yaml.safe_dump(to_dict(config)), identity_of(config)).close()
    settings = {"folder": str(folder), "sweep": str(folder), "path": []}
    process = forkserver().Process(target=ray_worker.run_trial, args=(settings, print))
    process.start()
    process.join(DEADLINE)
    assert process.exitcode == 1
    log = (folder / "trial.log").read_text()
    assert "Timeout (0:00:04)!" in log and "acting.py" in log and "before_backward" in log
    assert sweeps.newest(folder) > "000000+000000000"


def test_each_iteration_restarts_the_timer_of_a_hang(
    folder: Path, make_experiment: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    timers: list[Any] = []
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda seconds, **more: timers.append(seconds))
    monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", lambda: timers.append("cancelled"))
    config = replace(
        make_experiment("pair", iterations=20), checkpoint=Checkpoint(every=0)
    )  # each iteration is looked at
    run_trial(config, folder, timeout=77.0)
    assert timers.count(77.0) >= 40 and timers[-1] == "cancelled" and set(timers) == {77.0, "cancelled"}


# What a trial leaves in its process.


def mess(learner: Any) -> None:
    """Change global state as a strategy should not."""
    torch.set_num_threads(2)
    torch.set_default_dtype(torch.float64)
    torch.use_deterministic_algorithms(True)
    torch.autograd.set_detect_anomaly(True)
    torch.set_float32_matmul_precision("medium")
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    if learner.clock.train_iterations == 3:
        torch.set_grad_enabled(False)
        raise RuntimeError("enough")


def test_a_trial_is_unaffected_by_global_state_that_the_previous_one_left(folder: Path, make_experiment: Make) -> None:
    config = make_experiment("rotated", strategies={"lwf": {}, "replay": {"memory": 20}})
    run_trial(config, folder)
    settings = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    states = random.getstate(), torch.get_rng_state()
    with pytest.raises(RuntimeError, match="enough"):
        run_trial(calling(make_experiment, mess), messy := folder.with_name(folder.name + "-messy"))
    assert settings == (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled())
    assert states[0] == random.getstate() and torch.equal(states[1], torch.get_rng_state())
    assert not torch.are_deterministic_algorithms_enabled() and not torch.is_anomaly_enabled()
    torch.set_default_dtype(torch.float64)  # the program's settings do not matter either
    try:
        run_trial(config, other := folder.with_name(folder.name + "-after"))
    finally:
        torch.set_default_dtype(torch.float32)
    assert_same(outcome(folder), outcome(other))
    shutil.rmtree(messy)
    shutil.rmtree(other)


@pytest.mark.parametrize("deterministic", [False, True])
def test_deterministic_algorithms_are_set_for_the_trial_only(
    deterministic: bool, folder: Path, make_experiment: Make
) -> None:
    seen: list[bool] = []
    config = calling(make_experiment, lambda learner: seen.append(torch.are_deterministic_algorithms_enabled()))
    run_trial(replace(config, resources=Resources(deterministic=deterministic)), folder)
    assert seen and set(seen) == {deterministic}
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    "strategies", [{}, {"lwf": {}, "replay": {}, "early_stopping": {"patience": 1}, "freezing": {}}]
)
def test_deterministic_algorithms_run_every_strategy_with_the_same_bits(
    strategies: dict[str, Any], folder: Path, make_experiment: Make
) -> None:
    """On the CPU ours are deterministic anyway; none uses operations without a deterministic version in torch."""
    config = make_experiment("rotated", strategies=strategies)
    run_trial(config, folder)
    other = folder.with_name(folder.name + "-deterministic")
    run_trial(replace(config, resources=Resources(deterministic=True)), other)
    assert_same(outcome(folder), outcome(other))
    shutil.rmtree(other)


def test_the_number_of_threads_is_restored_after_a_failure() -> None:
    before = torch.get_num_threads()
    with pytest.raises(KeyError), torch_settings(Resources(threads=before + 1)):
        assert torch.get_num_threads() == before + 1
        raise KeyError
    assert torch.get_num_threads() == before


# Non-finite losses.


def test_a_strategy_that_makes_the_loss_nan_is_named_before_the_step(folder: Path, make_experiment: Make) -> None:
    strategies = {"replay": {}, "plugins.acting": {"what": "nan", "at": 45}, "lwf": {}}
    config = replace(make_experiment(strategies=strategies), checkpoint=Checkpoint(every=0))
    message = (
        r"the loss became nan in experience \d, iteration \d+, by the term of strategy plugins.acting "
        r"\(strategies: replay, plugins.acting, lwf\)"
    )
    with pytest.raises(FloatingPointError, match=message):
        run_trial(config, folder)
    status = Trial(folder).status()
    assert status.status == "failed" and "plugins.acting" in str(status.error)
    state = checkpoint.load_newest_checkpoint(folder / "checkpoints")
    assert state is not None and all(tensor.isfinite().all() for tensor in state["learner"]["model"].values())


# Disks.


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """Yield a disk of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root can mount a disk of 1 MB")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_reported_and_the_trial_resumes(tiny_disk: Path, make_experiment: Make) -> None:
    """The disk has a megabyte; a checkpoint takes about 0.3 MB, and other files grow in the meantime."""
    config = replace(make_experiment(), model={"mlp": {"hidden": [800]}})
    run_trial(config, whole := tiny_disk.parent / "whole")
    other = tiny_disk / "others"

    def fill(learner: Any) -> None:
        if learner.clock.train_exp_counter == 2:
            with other.open("ab") as file:
                file.write(bytes(20_000))

    config = replace(config, strategies={"plugins.acting": {}})
    acting.CALL[:] = [fill]
    with pytest.raises((UserError, OSError), match=r"No space left on device"):
        run_trial(config, tiny_disk / "trial")
    assert sorted(path.name for path in (tiny_disk / "trial" / "checkpoints").iterdir()) == ["000001", "000002"]
    with pytest.raises(
        UserError, match=r"trial cannot be written: No space left on device \(0.0 MB are free\).*retain resume"
    ):
        run_trial(config, tiny_disk / "trial")
    other.unlink()
    acting.CALL[:] = [lambda learner: None]
    result = run_trial(config, tiny_disk / "trial")
    np.testing.assert_array_equal(result.matrices["task_agnostic"], outcome(whole).matrices["task_agnostic"])


def test_a_read_only_disk_is_reported(tiny_disk: Path, make_experiment: Make) -> None:
    """Both before a trial starts and when one is resumed."""
    run_trial(make_experiment("pair"), tiny_disk / "done")
    with pytest.raises(KeyboardInterrupt):
        run_trial(calling(make_experiment, interrupting), tiny_disk / "trial")
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    with pytest.raises(UserError, match="trial cannot be written: Read-only file system"):
        run_trial(calling(make_experiment, interrupting), tiny_disk / "trial")
    with pytest.raises(UserError, match="new: cannot be written: Read-only file system"):
        run_trial(make_experiment("pair"), tiny_disk / "new")
    assert outcome(tiny_disk / "done").summary  # it can be read


def interrupting(learner: Any) -> None:
    """Raise Ctrl-C in the third experience."""
    if learner.clock.train_exp_counter == 2:
        raise KeyboardInterrupt


def test_a_worker_frees_reference_cycles_of_the_previous_trial() -> None:
    """A learner and its plugins refer to each other: hundreds of MB, but few objects for Python's collector to count."""

    class Node:
        def __init__(self) -> None:
            self.itself, self.tensor = self, torch.zeros(10)

    try:
        for _ in range(2):
            left = weakref.ref(Node())
            assert left() is not None
            ray_worker.collect_garbage()
            assert left() is None
    finally:
        gc.unfreeze()
