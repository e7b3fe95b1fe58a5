"""Signals, clocks, hangs and full disks: outside influences on a trial, and what it leaves for the next one in its process."""

import gc
import importlib
import os
import random
import shutil
import signal
import subprocess
import sys
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
from bits import assert_same, outcome

from retain.platform.config.load import to_dict
from retain.platform.config.schema import Checkpoint, Experiment, Resources, seconds
from retain.platform.errors import UserError
from retain.platform.ledger.reader import Trial
from retain.platform.sweep import ray_worker
from retain.platform.sweep.run import resume
from retain.platform.trial import checkpoint
from retain.platform.trial.run import run as run_trial
from retain.platform.trial.stop_request import Stopped, StopRequest
from retain.platform.trial.torch_settings import torch_settings

Make = Callable[..., Experiment]
OWN = '''
"""User-defined strategies: one that calls a function of the test, one that adds a NaN, one that hangs."""
import time
from dataclasses import dataclass
from pathlib import Path
from retain import Plugin

CALL = []

@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """What to do, and from which iteration on."""
    what: str = "call"
    at: int = 0

class Own(Plugin):
    def state_dict(self):
        return {}

    def __init__(self, config):
        self.config = config

    def before_backward(self, learner, **kwargs):
        done = learner.clock.train_iterations
        if self.config.what == "call":
            CALL[0](learner)
        elif self.config.what == "nan" and done >= self.config.at:
            learner.loss = learner.loss * float("nan")
        elif self.config.what == "slow":
            time.sleep(0.05)
        elif self.config.what == "sleep" and done == self.config.at:
            time.sleep(1000)
        elif self.config.what == "hold" and done == self.config.at:
            sum(range(10**13))  # never lets another thread of Python run

def build(config, seed):
    return Own(config)
'''
COMMAND = [sys.executable, "-c", "from retain.platform.cli.app import main; main()"]


@pytest.fixture(scope="module", autouse=True)
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the user's working folder."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "stoptest").mkdir()
    (folder / "stoptest" / "own.py").write_text(OWN)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        importlib.invalidate_caches()
        yield folder


@pytest.fixture
def folder(quick_folder: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Yield a new trial's folder."""
    path = quick_folder / f"stop-{abs(hash(request.node.name))}"
    yield path
    shutil.rmtree(path, ignore_errors=True)


def calling(make_experiment: Make, function: Callable[[Any], None], **more: Any) -> Experiment:
    """Return an experiment that calls `function(learner)` in each iteration."""
    importlib.import_module("stoptest.own").CALL[:] = [function]
    return make_experiment(strategies={"stoptest.own": {}}, **more)


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
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
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
    """The callback is called twice a second; the checkpoint is of the same iteration."""
    config = make_experiment("pair", strategies={"stoptest.own": {"what": "slow"}})
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
    config = make_experiment("pair", strategies={"stoptest.own": {"what": "slow"}}, iterations=30)
    (own / "slow.yaml").write_text(yaml.safe_dump(to_dict(config)))
    arguments = ["run", "slow.yaml", "wandb.mode=disabled", "checkpoint.every=0.1", "--output", str(folder)]
    process = subprocess.Popen(
        [*COMMAND, *arguments], cwd=own, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 100
    while time.monotonic() < end and not (seen := sorted((folder / "checkpoints").glob("0*"))):
        time.sleep(0.02)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == code, output + errors
    assert f"retain resume {folder}" in errors and "Traceback" not in output + errors
    assert max(path.name for path in (folder / "checkpoints").iterdir()) > seen[-1].name
    assert Trial(folder).status().status == "stopped"
    resume(folder)
    run_trial(config, other := folder.with_name(folder.name + "-whole"))
    assert_same(outcome(folder), outcome(other))
    shutil.rmtree(other)


def test_stopped_again_before_any_progress_the_checkpoint_is_kept(folder: Path, make_experiment: Make) -> None:
    """If it were written again, it would be missing for a moment."""
    config = make_experiment("pair", strategies={"stoptest.own": {"what": "slow"}})
    changes = []
    for _ in range(2):
        with pytest.raises(Stopped):
            run_trial(config, folder, stopped=lambda: True)
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
    with pytest.raises(ValueError, match=f"^every={text!r}: must be a time"):
        Checkpoint(every=text)


@pytest.mark.parametrize(("every", "inside"), [(None, False), ("60s", False), (0.1, True)])
def test_checkpoints_are_written_at_the_set_interval(
    every: Any, inside: bool, folder: Path, make_experiment: Make
) -> None:
    """40 iterations of 50 ms: 2 s, so about 20 intervals of 0.1 s."""
    config = make_experiment("pair", strategies={"stoptest.own": {"what": "slow"}}, iterations=20)
    run_trial(replace(config, checkpoint=Checkpoint(every=every, keep=1000)), folder)
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert [name for name in names if "+" not in name] == ["000001", "000002"]
    assert (6 <= len(names) <= 22) if inside else len(names) == 2


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
        assert all(0 <= value < 60 for name, value in event.items() if name in ("seconds", "train_seconds"))
    shutil.rmtree(other)


# Hangs.

HUNG = """
import sys, yaml
from retain import run
from retain.platform.config.load import from_dict
run(from_dict(yaml.safe_load(open(sys.argv[1]))), sys.argv[2], timeout=float(sys.argv[3]))
"""


@pytest.mark.parametrize("how", [pytest.param("sleep", marks=pytest.mark.slow), "hold"])
def test_a_hung_trial_is_ended_and_its_stack_is_logged(
    how: str, own: Path, folder: Path, make_experiment: Make
) -> None:
    """The trial sleeps, or never releases the interpreter; its earlier progress is in its checkpoint."""
    config = make_experiment("pair", strategies={"stoptest.own": {"what": how, "at": 5}})
    (own / "hung.yaml").write_text(yaml.safe_dump(to_dict(replace(config, checkpoint=Checkpoint(every=0)))))
    command = [sys.executable, "-c", HUNG, "hung.yaml", str(folder), "2"]
    ended = subprocess.run(command, cwd=own, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    log = (folder / "trial.log").read_text()
    assert "Timeout (0:00:02)!" in log and "own.py" in log and "before_backward" in log
    assert max(path.name for path in (folder / "checkpoints").glob("0*")) > "000000+000000000"


def test_a_trial_that_makes_progress_is_not_ended(folder: Path, make_experiment: Make) -> None:
    config = make_experiment("pair", strategies={"stoptest.own": {"what": "slow"}}, iterations=20)
    run_trial(config, folder, timeout=1.0)  # the trial takes twice as long
    assert Trial(folder).status().status == "done"


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
    strategies = {"replay": {}, "stoptest.own": {"what": "nan", "at": 45}, "lwf": {}}
    config = replace(make_experiment(strategies=strategies), checkpoint=Checkpoint(every=0))
    message = (
        r"the loss became nan in experience \d, iteration \d+, by the term of strategy stoptest.own "
        r"\(strategies: replay, stoptest.own, lwf\)"
    )
    with pytest.raises(FloatingPointError, match=message):
        run_trial(config, folder)
    status = Trial(folder).status()
    assert status.status == "failed" and "stoptest.own" in str(status.error)
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

    config = replace(config, strategies={"stoptest.own": {}})
    importlib.import_module("stoptest.own").CALL[:] = [fill]
    with pytest.raises((UserError, OSError), match=r"No space left on device"):
        run_trial(config, tiny_disk / "trial")
    assert sorted(path.name for path in (tiny_disk / "trial" / "checkpoints").iterdir()) == ["000001", "000002"]
    with pytest.raises(
        UserError, match=r"trial cannot be written: No space left on device \(0.0 MB are free\).*retain resume"
    ):
        run_trial(config, tiny_disk / "trial")
    other.unlink()
    importlib.import_module("stoptest.own").CALL[:] = [lambda learner: None]
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
    with pytest.raises(UserError, match="new cannot be written: Read-only file system"):
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
            ray_worker._collect()
            assert left() is None
    finally:
        gc.unfreeze()
