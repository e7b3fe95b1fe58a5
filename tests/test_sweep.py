"""Real sweeps on Ray, from the command line, in a user's folder: done, failed, interrupted, killed, gone on with."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from retain.platform import checkpoint, trial
from retain.platform.config import from_dict
from retain.platform.ledger import Trial, trials_of
from retain.platform.loading import read_yaml

MINE = '''
"""A strategy of the user's own, that takes its time."""
import time
from dataclasses import dataclass
from retain.platform.plugins import Plugin

@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Halve the loss, sleep `pause` seconds an iteration."""
    pause: float = 0.0

class Mine(Plugin):
    def __init__(self, config):
        self.config = config

    def before_backward(self, strategy, **kwargs):
        time.sleep(self.config.pause)
        strategy.loss = strategy.loss / 2

def build(config, seed):
    return Mine(config)
'''
DEADLINE = 110.0


@pytest.fixture
def users_folder(tmp_path: Path) -> Path:
    """Where the user works: a package of strategies of their own, and a config."""
    (tmp_path / "sweeptest").mkdir()
    (tmp_path / "sweeptest" / "mine.py").write_text(MINE)
    return tmp_path


def write_config(folder: Path, **more: Any) -> None:
    """config.yaml: the digits in two steps, one epoch each."""
    config = {
        "name": "swept",
        "benchmark": {"split_digits": {"num_experiences": 2}},
        "model": {"mlp": {"hidden": [16]}},
        "training": {"epochs": 1, "batch_size": 64},
        **more,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def retain(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    """The command, in a process group of its own, as from a terminal."""
    environment = {**os.environ, "WANDB_API_KEY": "", "HOME": str(folder), "COLUMNS": "200"}
    return subprocess.Popen(
        [sys.executable, "-c", "from retain.platform.cli import main; main()", *arguments],
        cwd=folder,
        env={key: value for key, value in environment.items() if value},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Exit code and output."""
    try:
        output, _ = process.communicate(timeout=DEADLINE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, output


def wait_for(process: "subprocess.Popen[str]", condition: Callable[[], bool]) -> None:
    """Until it holds, while the process lives."""
    end = time.monotonic() + DEADLINE
    while not condition():
        if process.poll() is not None or time.monotonic() > end:
            os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError(process.communicate()[0])
        time.sleep(0.02)


def states(folder: Path) -> dict[str, str]:
    """Each variant's state."""
    return {one.variant: one.status().status for one in trials_of(folder)}


def assert_same_bits(swept: Path, alone: Path) -> None:
    """Matrices and final tensors of a trial under Ray and of one in this process."""
    one, other = (checkpoint.load_newest(folder / "checkpoints") for folder in (swept, alone))
    assert one is not None and other is not None
    for tensors, others in ((one["learner"]["model"], other["learner"]["model"]), (one["matrices"], other["matrices"])):
        for name, tensor in tensors.items():
            assert tensor.numpy().tobytes() == others[name].numpy().tobytes(), name
    assert Trial(swept).read("matrix") == Trial(alone).read("matrix")


def run_alone(swept: Path, folder: Path) -> Path:
    """The same trial in this process."""
    trial.run(from_dict(read_yaml(swept / "config.yaml")), folder, identity=Trial(swept).identity)
    return folder


def weights(folder: Path) -> torch.Tensor:
    """The head's weights at the end."""
    state = checkpoint.load_newest(folder / "checkpoints")
    assert state is not None
    found: torch.Tensor = state["learner"]["model"]["head.weight"]
    return found


def files(folder: Path) -> dict[str, tuple[int, int, int]]:
    """What and when: inode, size and time of change of each file."""
    stats = {str(path.relative_to(folder)): path.stat() for path in sorted(folder.rglob("*")) if path.name != ".lock"}
    return {name: (stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


def test_a_sweep_fails_in_part_is_interrupted_and_killed_and_gone_on_with(
    users_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One trial diverges; Ctrl-C in the next; then SIGKILL of the whole process group in the one after; then the rest."""
    variants = {
        "naive": {},
        "diverging": {"training": {"optimizer": {"lr": 1e30}}},
        "mine": {"strategies": {"sweeptest.mine": {"pause": 0.15}}},
        "mine too": {"strategies": {"sweeptest.mine": {"pause": 0.1501}}},
    }
    write_config(users_folder, sweep={"variants": variants}, ray={"max_concurrent": 1})
    folder = users_folder / "out"
    process = retain(users_folder, "sweep", "config.yaml", "--folder", "out")

    def halfway(number: int) -> Callable[[], bool]:
        """One of two experiences is in the ledger and in a checkpoint."""
        return lambda: bool(list(folder.glob(f"trials/00{number}-*/checkpoints/000001")))

    wait_for(process, halfway(2))
    os.killpg(process.pid, signal.SIGINT)
    code, output = ended(process)
    assert code == 130, output
    assert f"retain resume {folder}" in output and "Traceback" not in output
    assert states(folder) == {"naive": "done", "diverging": "failed", "mine": "stopped", "mine too": "pending"}, output
    naive, diverging, mine, mine_too = (one.folder for one in trials_of(folder))
    error = Trial(diverging).status().error
    assert error is not None and re.search(r"^FloatingPointError: the loss became (nan|inf) in experience 1", error)
    assert error[:50] in output.replace("\n", " ")
    assert (diverging / "trial.log").read_text().count("Traceback") == 1  # Ray did not run it again
    untouched, half = files(naive), files(mine / "checkpoints" / "000001")

    process = retain(users_folder, "resume", "out")
    wait_for(process, halfway(3))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert states(folder) == {"naive": "done", "diverging": "failed", "mine": "done", "mine too": "running"}
    assert files(mine / "checkpoints" / "000001") == half  # it went on from there

    code, output = ended(retain(users_folder, "resume", "out"))
    assert code == 1 and "Traceback" not in output, output  # one has failed
    assert "2 of 4 trials are done, 2 to go" in output
    assert states(folder) == {"naive": "done", "diverging": "failed", "mine": "done", "mine too": "done"}
    assert files(naive) == untouched
    assert (folder / "report.html").is_file()
    # W&B is offline, as by default without a key
    assert len(list((folder / "wandb").glob("**/*.wandb"))) >= 4, (folder / "projector.log").read_text()
    monkeypatch.syspath_prepend(str(users_folder))
    for swept in (naive, mine, mine_too):
        assert_same_bits(swept, run_alone(swept, users_folder / f"alone-{swept.name}"))
    assert torch.equal(weights(mine), weights(mine_too)) and not torch.equal(weights(mine), weights(naive))
