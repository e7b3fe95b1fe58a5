"""Run real sweeps in separate processes, in a user's folder, and compare their trials with uninterrupted ones."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from helpers.processes import COMMAND, DEADLINE
from retain.platform.config.load import from_dict
from retain.platform.config.yaml_files import read_yaml
from retain.platform.ledger.reader import Trial, trials_of
from retain.platform.trial import checkpoint
from retain.platform.trial.run import run as run_trial

PLUGINS = Path(__file__).parents[1] / "plugins"
_RAYS = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS")  # a developer's own cluster


def write_plugin(folder: Path, name: str) -> None:
    """Copy tests/plugins/NAME.py to a user's working folder; its dotted path is plugins.NAME there too."""
    (folder / "plugins").mkdir(exist_ok=True)
    shutil.copy(PLUGINS / f"{name}.py", folder / "plugins")


def write_config(folder: Path, **more: Any) -> None:
    """Write config.yaml: the digits in two steps, one epoch each."""
    config = {
        "name": "swept",
        "benchmark": {"split_digits": {"num_experiences": 2}},
        "model": {"mlp": {"hidden": [16]}},
        "training": {"epochs": 1, "batch_size": 64},
        **more,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def retain(folder: Path, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
    """Start the command in a new process group, as from a terminal."""
    plain = {key: value for key, value in os.environ.items() if key not in (*_RAYS, "WANDB_API_KEY")}
    return subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=folder,
        env={**plain, "HOME": str(folder), "COLUMNS": "200", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def ended(process: "subprocess.Popen[str]", deadline: float = DEADLINE) -> tuple[int, str]:
    """Return exit code and output."""
    try:
        output, _ = process.communicate(timeout=deadline)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, output


def wait_for(process: "subprocess.Popen[str]", condition: Callable[[], bool]) -> None:
    """Wait until the condition holds, while the process lives."""
    end = time.monotonic() + DEADLINE
    while not condition():
        if process.poll() is not None or time.monotonic() > end:
            with suppress(ProcessLookupError):  # it has ended already
                os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError(process.communicate()[0])
        time.sleep(0.01)


def states(folder: Path) -> dict[str, str]:
    """Return each variant's state."""
    return {trial.variant: trial.status().status for trial in trials_of(folder)}


def of_variant(folder: Path, variant: str) -> Trial:
    """Return a variant's trial."""
    (match,) = [trial for trial in trials_of(folder) if trial.variant == variant]
    return match


def newest(folder: Path) -> str:
    """Return the name of a trial's newest checkpoint, or "". The name of a mid-experience checkpoint contains a plus."""
    return max((path.name for path in folder.glob("checkpoints/[0-9]*")), default="")


def assert_same_bits(swept: Path, alone: Path) -> None:
    """Assert that matrices and final tensors of a trial under Ray equal those of a trial in this process."""
    one, other = (checkpoint.load_newest_checkpoint(folder / "checkpoints") for folder in (swept, alone))
    assert one is not None and other is not None
    for tensors, others in ((one["learner"]["model"], other["learner"]["model"]), (one["matrices"], other["matrices"])):
        for name, tensor in tensors.items():
            assert tensor.numpy().tobytes() == others[name].numpy().tobytes(), name
    assert Trial(swept).read("matrix") == Trial(alone).read("matrix")


def run_alone(swept: Path, folder: Path) -> Path:
    """Run the same trial in this process."""
    run_trial(from_dict(read_yaml(swept / "config.yaml")), folder, identity=Trial(swept).identity)
    return folder
