"""Rare failures on Ray: workers told to end, hung, lost nodes, full disks and object stores; the bits stay.

Real processes and real signals. They need minutes, some of them root. The usual failures are in test_sweep.py.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers import sweeps
from helpers.processes import COMMAND, DEADLINE
from ray.cluster_utils import Cluster

from retain import load_config
from retain.platform.errors import UserError
from retain.platform.ledger.reader import trials_of
from retain.platform.sweep.ray_cluster import RayCluster


@pytest.fixture
def users_folder(tmp_path: Path) -> Path:
    """Return the user's working folder, with a strategy that causes the configured fault."""
    sweeps.write_plugin(tmp_path, "faulty")
    return tmp_path


def fault(folder: Path, name: str, **settings: Any) -> dict[str, Any]:
    """Return a variant with the strategy; `starts` reads its notes."""
    return {"strategies": {"plugins.faulty": {"notes": str(folder / f"notes-{name}"), "pause": 0.02, **settings}}}


def starts(folder: Path, name: str) -> list[int]:
    """Return at which iteration each of the trial's processes began."""
    return [int(line) for line in (folder / f"notes-{name}").read_text().splitlines()]


def write(folder: Path, variants: dict[str, Any], **more: Any) -> None:
    """Write the config: about 90 iterations of 20 ms in each of two experiences, checkpoints five times a second."""
    sweeps.write_config(
        folder,
        training={"epochs": 4, "batch_size": 32},
        checkpoint={"every": 0.2},
        sweep={"variants": variants},
        wandb={"mode": "disabled"},
        **more,
    )


def mid_experience(folder: Path, *numbers: int) -> Callable[[], bool]:
    """Return whether each of these trials has a mid-experience checkpoint."""
    return lambda: all("+" in "".join(map(sweeps.newest, folder.glob(f"trials/{n:03d}-*"))) for n in numbers)


def assert_as_alone(folder: Path, *variants: str) -> None:
    """Assert that these trials have the same bits as in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAULTY_ALONE", "1")  # without the pauses
        for variant in variants:
            swept = sweeps.of_variant(folder, variant).folder
            sweeps.assert_same_bits(swept, sweeps.run_alone(swept, folder.parent / f"alone-{variant}"))


@pytest.mark.slow
def test_a_worker_that_gets_sigterm_lets_its_trial_write_a_checkpoint(users_folder: Path) -> None:
    """SIGTERM to a worker; no other mid-experience checkpoint is written."""
    write(users_folder, {"one": fault(users_folder, "one")}, ray={"max_failures": 1})
    folder = users_folder / "out"
    process = sweeps.retain(users_folder, "sweep", "config.yaml", "--output", "out", "checkpoint.every=null")
    sweeps.wait_for(process, lambda: (users_folder / "notes-one").exists())
    os.kill(sweeps.of_variant(folder, "one").read("environment")["pid"], signal.SIGTERM)
    code, output = sweeps.ended(process)
    assert code == 0, output
    first, second = starts(users_folder, "one")
    assert first == 0 < second < 90, "it resumed mid-experience, in the first"
    assert_as_alone(folder, "one")


@pytest.mark.slow
@pytest.mark.parametrize("process", ["raylet", "gcs_server", "ray::DashboardAgent", "ray::RuntimeEnvAgent"])
def test_a_local_cluster_that_dies_ends_the_sweep_which_resumes(users_folder: Path, process: str) -> None:
    """SIGKILL; the raylet ends with its agents. Ray's own driver waits for ever, or ends after a minute without a word."""
    write(users_folder, {"one": fault(users_folder, "one", pause=0.1)})
    folder = users_folder / "out"
    sweep = sweeps.retain(users_folder, "sweep", "config.yaml", "--output", "out")
    sweeps.wait_for(sweep, mid_experience(folder, 0))
    children = psutil.Process(sweep.pid).children(recursive=True)
    (victim,) = [child for child in children if child.name().strip() == process]
    victim.kill()
    code, output = sweeps.ended(sweep)
    assert code == 2 and "Traceback" not in output, output
    assert f"Continue with: retain resume {folder}" in output.splitlines()[-1]
    assert "error: Ray has died under the sweep" in output.splitlines()[-1]
    assert sweeps.states(folder) == {"one": "stopped"}
    psutil.wait_procs(children, timeout=DEADLINE)
    assert not [child for child in children if child.is_running()], "no process is left"
    code, output = sweeps.ended(sweeps.retain(users_folder, "resume", "out"))
    assert code == 0, output
    first, second = starts(users_folder, "one")
    assert first == 0 < second
    assert_as_alone(folder, "one")


JOINED = """
import sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
processes = cluster.head_node.all_processes
print(cluster.address, *(processes[name][0].process.pid for name in ("raylet", "gcs_server")), flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def joined() -> "Iterator[tuple[str, dict[str, int]]]":
    """Start a cluster in a process that may die with it: its address, and the processes of its head."""
    process = subprocess.Popen([sys.executable, "-c", JOINED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    address, raylet, gcs = process.stdout.readline().split()
    members = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    yield address, {"raylet": int(raylet), "gcs_server": int(gcs)}
    for member in members:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("process", ["raylet", "gcs_server"])
def test_a_joined_cluster_that_dies_ends_the_sweep(
    users_folder: Path, joined: tuple[str, dict[str, int]], process: str
) -> None:
    """SIGKILL of the raylet to which the driver is connected, or of the GCS."""
    address, pids = joined
    write(users_folder, {"one": fault(users_folder, "one", pause=0.5)})
    folder = users_folder / "out"
    sweep = sweeps.retain(
        users_folder, "sweep", "config.yaml", "--output", "out", RAY_ADDRESS=address, HOME=os.environ["HOME"]
    )
    sweeps.wait_for(sweep, mid_experience(folder, 0))
    os.kill(pids[process], signal.SIGKILL)
    code, output = sweeps.ended(sweep)
    assert code == 2 and "Traceback" not in output, output
    assert "error: Ray has died under the sweep" in output and f"retain resume {folder}" in output.splitlines()[-1]
    assert sweeps.states(folder) == {"one": "stopped"}


@pytest.mark.slow
def test_a_local_cluster_without_its_log_monitor_runs_on(users_folder: Path) -> None:
    write(users_folder, {"one": fault(users_folder, "one")})
    sweep = sweeps.retain(users_folder, "sweep", "config.yaml", "--output", "out")
    sweeps.wait_for(sweep, mid_experience(users_folder / "out", 0))
    commands = {child: " ".join(child.cmdline()) for child in psutil.Process(sweep.pid).children()}
    victims = [child for child, line in commands.items() if "log_monitor.py" in line or "dashboard.py" in line]
    assert len(victims) == 2
    for victim in victims:
        victim.kill()
    code, output = sweeps.ended(sweep)
    assert code == 0 and sweeps.states(users_folder / "out") == {"one": "done"}, output


@pytest.mark.slow
def test_a_server_that_never_answers_is_no_cluster() -> None:
    with socket.create_server(("", 0)) as server:
        config = load_config("quickstart", [f"ray.address=127.0.0.1:{server.getsockname()[1]}"])
        with pytest.raises(UserError, match="no Ray cluster answers at .*: timed out"):
            RayCluster(config).__enter__()


LOCAL = """
import sys
import ray
from retain.platform.sweep.ray_cluster import RayCluster
from retain import load_config

with RayCluster(load_config("quickstart")):
    ray.get(ray.remote(lambda: None).remote())
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.readline()
"""
REMOTE = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False)
print("ran", ray.get(ray.remote(num_cpus=0)(lambda: 6 * 7).remote()))
"""


@pytest.fixture
def local(tmp_path: Path) -> "Iterator[tuple[str, dict[str, str]]]":
    """Start a cluster like `retain sweep`: its address, and the environment."""
    unset = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS")
    plain = {key: value for key, value in os.environ.items() if key not in unset} | {"HOME": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-c", LOCAL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=plain, cwd=tmp_path
    )
    assert process.stdin is not None and process.stdout is not None
    yield process.stdout.readline().strip(), plain
    process.communicate("\n", timeout=DEADLINE)


@pytest.mark.slow
def test_a_local_cluster_requires_the_token(local: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    """Ray retries for 20 seconds before it gives up."""
    address, plain = local
    others = {
        "right": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": (tmp_path / ".ray" / "auth_token").read_text()},
        "wrong": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 64},
        "none": {"RAY_AUTH_MODE": "disabled"},
    }
    here = plain | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # otherwise Ray searches on the network interface
    command = [sys.executable, "-c", REMOTE, address]
    clients = {
        name: subprocess.Popen(command, env=here | more, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for name, more in others.items()
    }
    said = {name: client.communicate(timeout=DEADLINE)[0] for name, client in clients.items()}
    assert "ran 42" in said["right"], said["right"]
    for name in ("wrong", "none"):
        assert clients[name].returncode != 0 and "ran" not in said[name].split(), said[name]
        assert "token" in said[name].lower(), said[name]
    command = [
        *COMMAND,
        "sweep",
        "quickstart",
        f"ray.address={address}",
        "wandb.mode=disabled",
        "--output",
        str(tmp_path / "out"),
    ]
    refused = subprocess.run(command, env=here | others["wrong"], capture_output=True, text=True, timeout=DEADLINE)
    assert refused.returncode == 2 and "RAY_AUTH_TOKEN" in refused.stderr, refused.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_trial_that_holds_the_gil_is_detected_as_hung(users_folder: Path) -> None:
    write(
        users_folder, {"holds": fault(users_folder, "holds", does="holds")}, ray={"max_failures": 1, "hang_timeout": 3}
    )
    folder = users_folder / "out"
    code, output = sweeps.ended(sweeps.retain(users_folder, "sweep", "config.yaml", "--output", "out"))
    assert code == 0 and sweeps.states(folder) == {"holds": "done"}, output
    first, second = starts(users_folder, "holds")
    assert first == 0 < second
    log = (sweeps.of_variant(folder, "holds").folder / "trial.log").read_text()
    assert "Timeout (0:00:03)!" in log and "faulty.py" in log
    assert_as_alone(folder, "holds")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Yield a disk of 1 MB."""
    if os.geteuid() != 0:
        pytest.skip("only root mounts a small disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def resize(disk: Path, size: str) -> None:
    """Make the disk larger or smaller."""
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


@pytest.mark.slow
def test_a_sweep_on_a_full_disk_reports_it_and_resumes_once_there_is_room(users_folder: Path, small_disk: Path) -> None:
    """No space to start; too little for the first checkpoint; then enough, until other files fill the disk during a trial."""
    variants = {name: fault(users_folder, name) for name in ("one", "two")}
    write(users_folder, variants, model={"mlp": {"hidden": [300, 300]}}, ray={"max_concurrent": 1})
    fill(small_disk / "ballast")
    none = small_disk / "none"
    code, output = sweeps.ended(sweeps.retain(users_folder, "sweep", "config.yaml", "--output", str(none)))
    assert code == 2 and "Traceback" not in output, output
    assert (
        f"{none} cannot be written: No space left on device" in output and "start again with another folder" in output
    ), output
    (small_disk / "ballast").unlink()

    folder = small_disk / "out"
    code, output = sweeps.ended(sweeps.retain(users_folder, "sweep", "config.yaml", "--output", str(folder)))
    assert code == 2 and "Traceback" not in output, output
    assert f"{folder} cannot be written: No space left on device" in output and f"retain resume {folder}" in output, (
        output
    )
    assert sweeps.states(folder) == {"one": "stopped", "two": "pending"}, output

    resize(small_disk, "60m")
    process = sweeps.retain(users_folder, "resume", str(folder))
    sweeps.wait_for(process, mid_experience(folder, 0))
    fill(small_disk / "ballast")
    code, output = sweeps.ended(process)
    assert code == 2 and "Traceback" not in output, output
    assert f"{folder} cannot be written: No space left on device" in output, output
    assert sweeps.states(folder)["one"] in ("stopped", "running"), "there may be no room to write that it has stopped"
    (small_disk / "ballast").unlink()

    code, output = sweeps.ended(sweeps.retain(users_folder, "resume", str(folder)))
    assert code == 0 and sweeps.states(folder) == {"one": "done", "two": "done"}, output
    assert starts(users_folder, "one")[-1] > 0
    for name in ("one", "two"):
        swept = sweeps.of_variant(folder, name).folder
        sweeps.assert_same_bits(swept, sweeps.run_alone(swept, users_folder / f"alone-{name}"))


def fill(path: Path) -> None:
    """Fill all remaining space."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue


@pytest.mark.slow
def test_a_full_temporary_folder_is_reported_and_one_that_fills_up_does_no_harm(
    users_folder: Path, small_disk: Path
) -> None:
    """Ray's files there are required for starting; Tune's files are not read again and must not end a sweep."""
    write(users_folder, {"one": fault(users_folder, "one")})
    with tempfile.TemporaryDirectory() as short:  # Ray's sockets need short paths
        link = Path(short) / "full"
        link.symlink_to(small_disk)
        fill(small_disk / "ballast")
        process = sweeps.retain(users_folder, "sweep", "config.yaml", "--output", "out", RAY_TMPDIR=str(link))
        code, output = sweeps.ended(process)
        assert code == 2 and "Traceback" not in output, output
        assert f"{link} (0.0 MB are free" in output and not (users_folder / "out").exists(), output

        (small_disk / "ballast").unlink()
        more = {"TMPDIR": str(small_disk), "RAY_TMPDIR": short}
        process = sweeps.retain(users_folder, "sweep", "config.yaml", "--output", "out", **more)
        sweeps.wait_for(process, mid_experience(users_folder / "out", 0))
        fill(small_disk / "ballast")
        code, output = sweeps.ended(process)
        assert code == 0 and "Traceback" not in output, output
        assert sweeps.states(users_folder / "out") == {"one": "done"}


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Start a head without CPUs and two nodes with one each and little object memory; the main thread must own them."""
    little = {"object_store_memory": 80 * 2**20}
    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **little})
    for _ in range(2):
        started.add_node(num_cpus=1, **little)
    yield started
    started.shutdown()


def on_cluster(folder: Path, cluster: Cluster, *arguments: str) -> "subprocess.Popen[str]":
    """Start the command with the cluster's address (and our home folder, for its token)."""
    home = os.environ["HOME"]
    return sweeps.retain(folder, *arguments, RAY_ADDRESS=cluster.address, HOME=home)


def node_of(cluster: Cluster, pid: int) -> Any:
    """Return the node whose raylet started a worker."""
    raylet = psutil.Process(pid).ppid()
    (match,) = [node for node in cluster.list_all_nodes() if node.all_processes["raylet"][0].process.pid == raylet]
    return match


@pytest.mark.slow
def test_a_trial_whose_node_dies_resumes_on_another(users_folder: Path, cluster: Cluster) -> None:
    write(users_folder, {"one": fault(users_folder, "one")}, ray={"max_failures": 1})
    folder = users_folder / "out"
    process = on_cluster(users_folder, cluster, "sweep", "config.yaml", "--output", "out")
    sweeps.wait_for(process, mid_experience(folder, 0))
    trial = sweeps.of_variant(folder, "one")
    before = node_of(cluster, trial.read("environment")["pid"])
    cluster.remove_node(before, allow_graceful=False)
    code, output = sweeps.ended(process)
    assert code == 0, output
    first, second = starts(users_folder, "one")
    assert first == 0 < second
    assert_as_alone(folder, "one")


FILLER = """
import sys, numpy, ray
ray.init(address=sys.argv[1], log_to_driver=False)
put = ray.remote(num_cpus=0)(lambda: [ray.put(numpy.ones(2**20)) for _ in range(20)])
kept = [ray.get(put.options(scheduling_strategy=ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
    node_id=node["NodeID"], soft=False)).remote()) for node in ray.nodes()]
print("full", flush=True)
sys.stdin.readline()
"""


@pytest.mark.slow
def test_a_full_object_store_does_not_disturb_a_sweep(users_folder: Path, cluster: Cluster) -> None:
    """160 MB of other objects in each node's 80 MB."""
    command = [sys.executable, "-c", FILLER, cluster.address]
    filler = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert filler.stdout is not None
    try:
        assert filler.stdout.readline() == "full\n"
        write(users_folder, {"one": fault(users_folder, "one", pause=0.0)})
        code, output = sweeps.ended(on_cluster(users_folder, cluster, "sweep", "config.yaml", "--output", "out"))
    finally:
        filler.communicate("\n", timeout=DEADLINE)
    assert code == 0 and sweeps.states(users_folder / "out") == {"one": "done"}, output


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("uv") is None, reason="uv is not on the PATH")
def test_workers_come_up_where_uv_was_called_by_a_relative_path(tmp_path: Path) -> None:
    """Ray would start its workers by that path from another folder, and wait for them forever."""
    uv = os.path.relpath(str(shutil.which("uv")), tmp_path)
    project = Path(__file__).resolve().parent.parent
    arguments = ["sweep", "quickstart", "sweep.streams={}", "sweep.variants={naive: {}}", "sweep.seeds=[0]"]
    arguments += ["training.epochs=1", "wandb.mode=disabled", "--output", "sweep"]
    command = [uv, "run", "--no-sync", "--project", str(project), "retain", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 0, done.stderr
    assert [trial.status().status for trial in trials_of(tmp_path / "sweep")] == ["done"]
