"""Real sweeps in processes of their own, in a user's folder, and how to compare their trials with undisturbed ones."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from retain.platform.config.load import from_dict
from retain.platform.config.yaml_overrides import read_yaml
from retain.platform.ledger.reader import Trial, trials_of
from retain.platform.trial import checkpoint
from retain.platform.trial.run import run as run_trial

DEADLINE = 110.0


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


def retain(folder: Path, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
    """The command, in a process group of its own, as from a terminal."""
    given = {**os.environ, "WANDB_API_KEY": "", "HOME": str(folder), "COLUMNS": "200", **environment}
    return subprocess.Popen(
        [sys.executable, "-c", "from retain.platform.cli.app import main; main()", *arguments],
        cwd=folder,
        env={key: value for key, value in given.items() if value},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def ended(process: "subprocess.Popen[str]", deadline: float = DEADLINE) -> tuple[int, str]:
    """Exit code and output."""
    try:
        output, _ = process.communicate(timeout=deadline)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, output


def wait_for(process: "subprocess.Popen[str]", condition: Callable[[], bool]) -> None:
    """Until it holds, while the process lives."""
    end = time.monotonic() + DEADLINE
    while not condition():
        if process.poll() is not None or time.monotonic() > end:
            with suppress(ProcessLookupError):  # it has ended by itself
                os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError(process.communicate()[0])
        time.sleep(0.02)


def states(folder: Path) -> dict[str, str]:
    """Each variant's state."""
    return {one.variant: one.status().status for one in trials_of(folder)}


def of_variant(folder: Path, variant: str) -> Trial:
    """A variant's trial."""
    (found,) = [one for one in trials_of(folder) if one.variant == variant]
    return found


def newest(folder: Path) -> str:
    """The name of a trial's newest checkpoint; "" for none. One amid an experience has a plus."""
    return max((path.name for path in folder.glob("checkpoints/[0-9]*")), default="")


def assert_same_bits(swept: Path, alone: Path) -> None:
    """Matrices and final tensors of a trial under Ray and of one in this process."""
    one, other = (checkpoint.load_newest_checkpoint(folder / "checkpoints") for folder in (swept, alone))
    assert one is not None and other is not None
    for tensors, others in ((one["learner"]["model"], other["learner"]["model"]), (one["matrices"], other["matrices"])):
        for name, tensor in tensors.items():
            assert tensor.numpy().tobytes() == others[name].numpy().tobytes(), name
    assert Trial(swept).read("matrix") == Trial(alone).read("matrix")


def run_alone(swept: Path, folder: Path) -> Path:
    """The same trial in this process."""
    run_trial(from_dict(read_yaml(swept / "config.yaml")), folder, identity=Trial(swept).identity)
    return folder
