"""An existing Ray cluster of two nodes: found through RAY_ADDRESS, used on both nodes, not shut down."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from retain.platform.ledger.reader import trials_of

COMMAND = [sys.executable, "-c", "from retain.platform.cli.app import main; main()"]


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Start a cluster of two nodes with one CPU each, in pytest's process, since the main thread must own it."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    yield cluster.address
    ray.shutdown()
    cluster.shutdown()


def test_a_sweep_runs_on_the_cluster_that_ray_address_names(address: str, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    arguments = ["sweep", "quickstart", "sweep.streams={}", "sweep.variants={naive: {}}", "sweep.seeds=[0,1]"]
    arguments += ["training.epochs=1", "wandb.mode=disabled", "--output", str(folder)]
    environment = {**os.environ, "RAY_ADDRESS": address}
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert [trial.status().status for trial in trials_of(folder)] == ["done", "done"]
    assert (folder / ".marker").is_file(), "each node was asked whether it sees the sweep's folder"
    ray.init(address=address, log_to_driver=False)
    assert len([node for node in ray.nodes() if node["Alive"]]) == 2, "the sweep left the cluster as it was"


def test_a_trial_that_fits_no_node_is_refused_before_it_starts(address: str, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    arguments = ["sweep", "quickstart", "resources.cpus=2", f"ray.address={address}", "wandb.mode=disabled"]
    done = subprocess.run([*COMMAND, *arguments, "--output", str(folder)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "resources.cpus=2" in done.stderr
    assert not folder.exists(), "nothing was written"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("uv") is None, reason="uv is not on the PATH")
def test_workers_come_up_where_uv_was_called_by_a_relative_path(tmp_path: Path) -> None:
    """Ray would start its workers by that path from another folder, and wait for them forever."""
    uv = os.path.relpath(str(shutil.which("uv")), tmp_path)
    project = Path(__file__).resolve().parent.parent
    arguments = ["sweep", "quickstart", "sweep.streams={}", "sweep.variants={naive: {}}", "sweep.seeds=[0]"]
    arguments += ["training.epochs=1", "wandb.mode=disabled", "--output", "sweep"]
    command = [uv, "run", "--no-sync", "--project", str(project), "retain", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    assert [trial.status().status for trial in trials_of(tmp_path / "sweep")] == ["done"]
