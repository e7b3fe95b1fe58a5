"""Real sweeps on Ray, from the command line, in a user's folder: completed, failed, interrupted, killed, resumed."""

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import sweeps
import torch

from retain.platform.ledger.reader import Trial, trials_of
from retain.platform.trial import checkpoint

MINE = '''
"""A user-defined strategy that sleeps."""
import time
from dataclasses import dataclass
from retain import Plugin

@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Halve the loss, sleep `pause` seconds in each iteration."""
    pause: float = 0.0

class Mine(Plugin):
    def state_dict(self):
        return {}

    def __init__(self, config):
        self.config = config

    def before_backward(self, learner, **kwargs):
        time.sleep(self.config.pause)
        learner.loss = learner.loss / 2

def build(config, seed):
    return Mine(config)
'''


@pytest.fixture
def users_folder(tmp_path: Path) -> Path:
    """Make the user's working folder: a package of strategies, and a config."""
    (tmp_path / "sweeptest").mkdir()
    (tmp_path / "sweeptest" / "mine.py").write_text(MINE)
    return tmp_path


def weights(folder: Path) -> torch.Tensor:
    """Return the head's weights at the end."""
    state = checkpoint.load_newest_checkpoint(folder / "checkpoints")
    assert state is not None
    tensor: torch.Tensor = state["learner"]["model"]["head.weight"]
    return tensor


def files(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Return inode, size and time of change of each file."""
    stats = {str(path.relative_to(folder)): path.stat() for path in sorted(folder.rglob("*")) if path.name != ".lock"}
    return {name: (stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


def test_a_sweep_fails_in_part_is_interrupted_killed_and_resumed(
    users_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One trial diverges; Ctrl-C in the next one; SIGKILL of the whole process group in the third; then the rest."""
    variants = {
        "naive": {},
        "diverging": {"training": {"optimizer": {"lr": 1e30}}},
        "mine": {"strategies": {"sweeptest.mine": {"pause": 0.15}}},
        "mine too": {"strategies": {"sweeptest.mine": {"pause": 0.1501}}},
    }
    sweeps.write_config(users_folder, sweep={"variants": variants}, ray={"max_concurrent": 1})
    folder = users_folder / "out"
    process = sweeps.retain(users_folder, "sweep", "config.yaml", "--output", "out")

    def halfway(number: int) -> Callable[[], bool]:
        """Return whether one of two experiences is in the ledger and in a checkpoint."""
        return lambda: bool(list(folder.glob(f"trials/00{number}-*/checkpoints/000001")))

    sweeps.wait_for(process, halfway(2))
    os.killpg(process.pid, signal.SIGINT)
    code, output = sweeps.ended(process)
    assert code == 130, output
    assert f"retain resume {folder}" in output and "Traceback" not in output
    assert sweeps.states(folder) == {
        "naive": "done",
        "diverging": "failed",
        "mine": "stopped",
        "mine too": "pending",
    }, output
    naive, diverging, mine, mine_too = (trial.folder for trial in trials_of(folder))
    error = Trial(diverging).status().error
    assert error is not None and re.search(r"^FloatingPointError: the loss became (nan|inf) in experience 1", error)
    assert (diverging / "trial.log").read_text().count("Traceback") == 1  # Ray did not run it again
    stopped = sweeps.newest(mine)
    assert stopped.startswith("000001+"), "it did not have to finish its experience"
    untouched, half = files(naive), files(mine / "checkpoints" / stopped)

    process = sweeps.retain(users_folder, "resume", "out")
    sweeps.wait_for(process, halfway(3))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert sweeps.states(folder) == {"naive": "done", "diverging": "failed", "mine": "done", "mine too": "running"}
    assert files(mine / "checkpoints" / stopped) == half  # it resumed from there

    code, output = sweeps.ended(sweeps.retain(users_folder, "resume", "out"))
    assert code == 1 and "Traceback" not in output, output  # one has failed
    assert "2 of 4 trials are done, 2 to go" in output
    assert error[:50] in output.replace("\n", " ")
    assert sweeps.states(folder) == {"naive": "done", "diverging": "failed", "mine": "done", "mine too": "done"}
    assert files(naive) == untouched
    assert (folder / "report.html").is_file()
    # W&B is offline, as by default without a key
    assert len(list((folder / "wandb").glob("**/*.wandb"))) >= 4, (folder / "projector.log").read_text()
    monkeypatch.syspath_prepend(str(users_folder))
    for swept in (naive, mine, mine_too):
        sweeps.assert_same_bits(swept, sweeps.run_alone(swept, users_folder / f"alone-{swept.name}"))
    assert torch.equal(weights(mine), weights(mine_too)) and not torch.equal(weights(mine), weights(naive))
