"""Files and folders that retain writes have the permissions that the umask says, so a group can share runs and a cache."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from retain import report, run
from retain.platform.config.load import from_dict, to_dict
from retain.platform.ledger.writer import SweepLedger
from retain.platform.reporting.projector import project, settings_for


@pytest.fixture(params=[0o002, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """Set the umask of the process."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_every_file_has_the_permissions_of_the_umask(umask: int, tmp_path: Path) -> None:
    """A trial with checkpoints and a probe's files, its page and TensorBoard's files, a sweep's list, and the cache."""
    folder, cache = tmp_path / "made" / "run", tmp_path / "made" / "cache"
    config = from_dict(
        {
            "name": "shared",
            "benchmark": {"split_digits": {"num_experiences": 2}},
            "model": {"mlp": {"hidden": [4]}},
            "training": {"iterations": 4, "batch_size": 32},
            "probes": {"worst_errors": {}, "curves": {}},
            "checkpoint": {"keep": 2},
            "data": {"cache": str(cache)},
            "wandb": {"mode": "disabled"},
            "tensorboard": True,
        }
    )
    run(config, folder)
    report([folder])
    project(folder, settings_for(folder, config))
    SweepLedger.create(folder.with_name("sweep"), yaml.safe_dump(to_dict(config)), "shared", []).close()
    made = list((tmp_path / "made").rglob("*"))
    modes = {path.relative_to(tmp_path).as_posix(): stat.S_IMODE(path.stat().st_mode) for path in made}
    assert modes == {name: (0o777 if (tmp_path / name).is_dir() else 0o666) & ~umask for name in modes}
    names = {path.name for path in made}
    assert {"tensors.safetensors", "state.json", "train_x.npy", "report.html", "metrics.jsonl", "trials.json"} <= names
    assert any(name.endswith(".png") for name in names) and any(name.startswith("events.out") for name in names)
