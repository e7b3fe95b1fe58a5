"""Failures on Ray: processes killed, hung, terminated, changing global state, out of memory, out of disk; the bits stay.

Real processes and real signals. The slow tests need minutes, some of them root.
"""

import ipaddress
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import sweeps
from ray.cluster_utils import Cluster

FAULTS = '''
"""A learner that does something bad at an iteration, and says from where it started."""
import os, random, signal, time
from dataclasses import dataclass
from pathlib import Path
import numpy
import torch
from retain import Plugin

@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Do what `does` names `at` an iteration, once; append a line to `notes` at the start."""
    notes: str
    does: str = "nothing"
    at: int = 60
    pause: float = 0.02

class Fault(Plugin):
    def state_dict(self):
        return {}

    def __init__(self, config):
        self.config, self.started = config, False

    def before_backward(self, learner, **kwargs):
        now = learner.clock.train_iterations
        if not self.started:
            self.started = True
            with open(self.config.notes, "a") as file:
                file.write(f"{now}\\n")
        if "RAYTEST_ALONE" not in os.environ:
            time.sleep(self.config.pause)
        if now >= self.config.at:
            getattr(self, self.config.does)(learner)

    def once(self):
        """Return True at the first call in any process."""
        flag = Path(self.config.notes + ".flag")
        if flag.exists():
            return False
        flag.touch()
        return True

    def nothing(self, learner): pass

    def hangs(self, learner):
        if self.once():
            time.sleep(1e6)

    def holds(self, learner):
        if self.once():
            sum(range(10**13))

    def dies(self, learner):
        os.kill(os.getpid(), signal.SIGKILL)

    def fills(self, learner):
        bytearray(10**15)

    def allocates(self, learner):
        torch.empty(10**15)

    def messes(self, learner):
        if self.once():
            torch.set_num_threads(2)
        torch.manual_seed(5); random.seed(5); numpy.random.seed(5)

    def after_training_exp(self, learner, **kwargs):
        if self.config.does == "messes" and learner.experience.current_experience == 1:
            torch.set_default_dtype(torch.float64)
            torch.set_grad_enabled(False)
            torch.set_num_threads(2)
            torch.use_deterministic_algorithms(True)
            torch.nn.modules.module.register_module_forward_hook(lambda module, given, found: None)

def build(config, seed):
    return Fault(config)
'''


@pytest.fixture
def users_folder(tmp_path: Path) -> Path:
    """Return the user's working folder, with a strategy that causes the configured fault."""
    (tmp_path / "raytest").mkdir()
    (tmp_path / "raytest" / "fault.py").write_text(FAULTS)
    return tmp_path


def fault(folder: Path, name: str, **settings: Any) -> dict[str, Any]:
    """Return a variant with the strategy; `starts` reads its notes."""
    return {"strategies": {"raytest.fault": {"notes": str(folder / f"notes-{name}"), **settings}}}


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
        patch.setenv("RAYTEST_ALONE", "1")  # without the pauses
        for variant in variants:
            swept = sweeps.of_variant(folder, variant).folder
            sweeps.assert_same_bits(swept, sweeps.run_alone(swept, folder.parent / f"alone-{variant}"))


def test_killed_and_hung_trials_resume_and_one_that_always_dies_fails(
    users_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"killed": "nothing", "hangs": "hangs", "dies": "dies", "fine": "nothing"}
    variants = {name: fault(users_folder, name, does=does) for name, does in names.items()}
    write(users_folder, variants, ray={"max_failures": 1, "hang_timeout": 3, "max_concurrent": 2})
    folder = users_folder / "out"
    process = sweeps.retain(users_folder, "sweep", "config.yaml", "--output", "out", "resources.cpus=0.5")
    sweeps.wait_for(process, mid_experience(folder, 0))
    os.kill(sweeps.of_variant(folder, "killed").read("environment")["pid"], signal.SIGKILL)
    code, output = sweeps.ended(process)
    assert code == 1 and "Traceback" not in output, output
    assert sweeps.states(folder) == {"killed": "done", "hangs": "done", "dies": "failed", "fine": "done"}, output
    assert "its process ended 2 times without a Python error: killed (out of memory?) or hung" in output
    assert len(starts(users_folder, "dies")) == 2
    for name in ("killed", "hangs"):
        first, second = starts(users_folder, name)
        assert first == 0 < second, "it resumed mid-experience"
    assert "Timeout (0:00:03)!" in (sweeps.of_variant(folder, "hangs").folder / "trial.log").read_text()
    monkeypatch.syspath_prepend(str(users_folder))
    assert_as_alone(folder, "killed", "hangs", "fine")


def test_a_reused_worker_is_clean_and_sigterm_ends_the_sweep_with_a_checkpoint(
    users_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One worker: two trials run out of memory, one changes global state, one runs when the sweep gets SIGTERM, one more."""
    bad = {"fills": "fills", "allocates": "allocates", "messes": "messes"}
    variants = {name: fault(users_folder, name, does=does, at=10, pause=0.0) for name, does in bad.items()}
    variants |= {name: fault(users_folder, name) for name in ("after", "last")}
    write(users_folder, variants, ray={"max_concurrent": 1})
    folder = users_folder / "out"
    process = sweeps.retain(users_folder, "sweep", "config.yaml", "--output", "out")
    sweeps.wait_for(process, mid_experience(folder, 3))
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    code, output = sweeps.ended(process)
    assert time.monotonic() - asked < 20, "no grace was needed"
    assert code == 143 and f"Continue with: retain resume {folder}" in output and "Traceback" not in output, output
    ended = {"fills": "failed", "allocates": "failed", "messes": "done"}
    assert sweeps.states(folder) == {**ended, "after": "stopped", "last": "pending"}
    assert str(sweeps.of_variant(folder, "fills").status().error).startswith("MemoryError")
    assert "can't allocate memory" in str(sweeps.of_variant(folder, "allocates").status().error)
    pids = {sweeps.of_variant(folder, name).read("environment")["pid"] for name in (*bad, "after")}
    assert len(pids) == 1, "all in one process"
    assert "+" in sweeps.newest(sweeps.of_variant(folder, "after").folder)
    assert not (folder / ".stop").exists()

    code, output = sweeps.ended(sweeps.retain(users_folder, "resume", "out"))
    assert code == 1 and "Traceback" not in output, output
    assert sweeps.states(folder) == {**ended, "after": "done", "last": "done"}
    first, second = starts(users_folder, "after")
    assert first == 0 < second
    monkeypatch.syspath_prepend(str(users_folder))
    assert_as_alone(folder, "after", "last")


@pytest.mark.slow
def test_a_worker_that_gets_sigterm_lets_its_trial_write_a_checkpoint(
    users_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM to a worker; no other mid-experience checkpoint is written."""
    write(users_folder, {"one": fault(users_folder, "one")}, ray={"max_failures": 1})
    folder = users_folder / "out"
    process = sweeps.retain(users_folder, "sweep", "config.yaml", "--output", "out", "checkpoint.every=null")
    sweeps.wait_for(process, lambda: (users_folder / "notes-one").exists())
    time.sleep(0.5)
    os.kill(sweeps.of_variant(folder, "one").read("environment")["pid"], signal.SIGTERM)
    code, output = sweeps.ended(process)
    assert code == 0, output
    first, second = starts(users_folder, "one")
    assert first == 0 < second < 90, "it resumed mid-experience, in the first"
    monkeypatch.syspath_prepend(str(users_folder))
    assert_as_alone(folder, "one")


LOCAL = """
import os, subprocess, sys
import psutil, ray
from retain.platform.sweep.ray_cluster import RayCluster
from retain import load_config

with RayCluster(load_config("quickstart")):
    ray.get(ray.remote(lambda: None).remote())
    me = psutil.Process()
    ports = [c.laddr.ip for p in [me, *me.children(recursive=True)] for c in p.net_connections("inet") if c.status == "LISTEN"]
    print(ray.get_runtime_context().gcs_address, *ports, flush=True)
    sys.stdin.readline()
"""
REMOTE = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False)
print("ran", ray.get(ray.remote(num_cpus=0)(lambda: 6 * 7).remote()))
"""


@pytest.fixture
def local(tmp_path: Path) -> "Iterator[tuple[str, list[str], dict[str, str]]]":
    """Start a cluster like `retain sweep`: its address, the addresses that its processes listen on, the environment."""
    unset = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS")
    plain = {key: value for key, value in os.environ.items() if key not in unset} | {"HOME": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-c", LOCAL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=plain, cwd=tmp_path
    )
    assert process.stdin is not None and process.stdout is not None
    address, *ports = process.stdout.readline().split()
    yield address, ports, plain
    process.communicate("\n", timeout=60)


def test_a_local_cluster_listens_on_loopback_only(local: tuple[str, list[str], dict[str, str]], tmp_path: Path) -> None:
    _, ports, _ = local
    assert len(ports) > 3
    addresses = {getattr(ip := ipaddress.ip_address(port), "ipv4_mapped", None) or ip for port in ports}
    assert all(ip.is_loopback for ip in addresses), addresses
    assert (tmp_path / ".ray" / "auth_token").stat().st_mode & 0o077 == 0, "nobody else reads the token"


@pytest.mark.slow
def test_a_local_cluster_requires_the_token(local: tuple[str, list[str], dict[str, str]], tmp_path: Path) -> None:
    """Ray retries for 20 seconds before it gives up."""
    address, _, plain = local
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
    said = {name: client.communicate(timeout=60)[0] for name, client in clients.items()}
    assert "ran 42" in said["right"], said["right"]
    for name in ("wrong", "none"):
        assert clients[name].returncode != 0 and "ran" not in said[name].split(), said[name]
        assert "token" in said[name].lower(), said[name]
    command = [sys.executable, "-c", "from retain.platform.cli.app import main; main()", "sweep", "quickstart"]
    command += [f"ray.address={address}", "wandb.mode=disabled", "--output", str(tmp_path / "out")]
    refused = subprocess.run(command, env=here | others["wrong"], capture_output=True, text=True, timeout=100)
    assert refused.returncode == 2 and "RAY_AUTH_TOKEN" in refused.stderr, refused.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_trial_that_holds_the_gil_is_detected_as_hung(users_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(
        users_folder, {"holds": fault(users_folder, "holds", does="holds")}, ray={"max_failures": 1, "hang_timeout": 3}
    )
    folder = users_folder / "out"
    code, output = sweeps.ended(sweeps.retain(users_folder, "sweep", "config.yaml", "--output", "out"))
    assert code == 0 and sweeps.states(folder) == {"holds": "done"}, output
    first, second = starts(users_folder, "holds")
    assert first == 0 < second
    log = (sweeps.of_variant(folder, "holds").folder / "trial.log").read_text()
    assert "Timeout (0:00:03)!" in log and "fault.py" in log
    monkeypatch.syspath_prepend(str(users_folder))
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
def test_a_sweep_on_a_full_disk_reports_it_and_resumes_once_there_is_room(
    users_folder: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    monkeypatch.syspath_prepend(str(users_folder))
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
def test_a_trial_whose_node_dies_resumes_on_another(
    users_folder: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(users_folder, {"one": fault(users_folder, "one")}, ray={"max_failures": 1})
    folder = users_folder / "out"
    process = on_cluster(users_folder, cluster, "sweep", "config.yaml", "--output", "out")
    sweeps.wait_for(process, mid_experience(folder, 0))
    trial = sweeps.of_variant(folder, "one")
    before = node_of(cluster, trial.read("environment")["pid"])
    cluster.remove_node(before, allow_graceful=False)
    code, output = sweeps.ended(process, 200)
    assert code == 0, output
    first, second = starts(users_folder, "one")
    assert first == 0 < second
    monkeypatch.syspath_prepend(str(users_folder))
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
        code, output = sweeps.ended(on_cluster(users_folder, cluster, "sweep", "config.yaml", "--output", "out"), 200)
    finally:
        filler.communicate("\n", timeout=60)
    assert code == 0 and sweeps.states(users_folder / "out") == {"one": "done"}, output
