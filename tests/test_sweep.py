"""One real sweep on Ray, from the command line: trials that fail and die; Ctrl-C, SIGTERM, `retain stop`, SIGKILL; resumed.

`story` runs it once, in five stages; the tests look at what it recorded. Processes, signals and clusters are real. The trials
wait at an iteration until the test has struck, so nothing depends on time. The slow tests are in test_ray_faults.py.
"""

import ipaddress
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import torch
from helpers import sweeps
from helpers.processes import DEADLINE
from ray.cluster_utils import Cluster

from retain import load_config, sweep
from retain.platform.errors import UserError
from retain.platform.ledger.reader import Trial
from retain.platform.sweep.ray_cluster import RayCluster
from retain.platform.trial import checkpoint

VARIANTS = {
    "naive": {},
    "diverging": {"training": {"optimizer": {"lr": 1e30}}},
    "fills": "fills",
    "allocates": "allocates",
    "messes": "messes",
    "interrupted": "waits",  # Ctrl-C
    "killed": "waits",  # SIGKILL of its worker
    "terminated": "waits",  # SIGTERM of the sweep
    "told": "waits",  # retain stop
    "orphaned": "waits",  # SIGKILL of the sweep with all of its processes
    "dies": "dies",
}  # a text: what plugins.faulty does
FAILED = {"diverging": "failed", "fills": "failed", "allocates": "failed"}
PER_EXPERIENCE = 42  # iterations: two epochs of 21 mini-batches


@dataclass
class Stage:
    """What was there when one of the sweep's processes had ended."""

    code: int
    output: str
    states: dict[str, str]
    newest: dict[str, str]  # the newest checkpoint of each trial
    pids: dict[str, int | None]  # the process of each trial
    naive: dict[str, Any]  # the files of a trial that is done


@dataclass
class Story:
    """The user's folder, what each stage left, and what was seen while they ran."""

    home: Path
    stages: list[Stage] = field(default_factory=list)
    listening: set[Any] = field(default_factory=set)  # addresses of the local cluster
    starts: dict[str, list[int]] = field(default_factory=dict)
    before: dict[str, str] = field(default_factory=dict)  # variant -> newest checkpoint when it was struck
    seen: dict[str, tuple[int, str]] = field(default_factory=dict)  # command in another terminal -> exit code, output

    @property
    def folder(self) -> Path:
        """The sweep's folder."""
        return self.home / "out"

    def trial(self, variant: str) -> Path:
        """Return a trial's folder."""
        return sweeps.of_variant(self.folder, variant).folder

    def notes(self, variant: str) -> Path:
        """Return the file with the iterations at which the trial's processes began."""
        return self.home / f"notes-{variant}"

    def record_starts(self) -> None:
        """Record at which iteration each process of a trial began; a test that runs a trial again adds to its notes."""
        notes = {variant: self.notes(variant) for variant in VARIANTS}
        self.starts = {
            n: [int(line) for line in note.read_text().splitlines()] for n, note in notes.items() if note.exists()
        }

    def release(self, variant: str) -> None:
        """Let the trial go on."""
        self.notes(variant).with_name(f"notes-{variant}.go").touch()

    def wait(self, process: Any, variant: str) -> None:
        """Wait until the trial waits in the middle of its second experience, with a checkpoint of it."""
        waiting = self.notes(variant).with_name(f"notes-{variant}.waiting")
        sweeps.wait_for(process, waiting.exists)
        sweeps.wait_for(process, lambda: sweeps.newest(self.trial(variant)).startswith("000001+"))
        self.before[variant] = sweeps.newest(self.trial(variant))

    def see_end(self, command: str, process: Any) -> None:
        """Wait for the end of a command in another terminal."""
        self.seen[command] = sweeps.ended(process)

    def end(self, process: Any) -> None:
        """Wait for the end of a stage, and record it."""
        code, output = sweeps.ended(process)
        folders = {variant: self.trial(variant) for variant in VARIANTS}
        newest = {variant: sweeps.newest(folder) for variant, folder in folders.items()}
        pids = {variant: (Trial(folder).read("environment") or {}).get("pid") for variant, folder in folders.items()}
        self.stages.append(Stage(code, output, sweeps.states(self.folder), newest, pids, files(folders["naive"])))


def files(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Return inode, size and time of change of each file."""
    stats = {str(path.relative_to(folder)): path.stat() for path in sorted(folder.rglob("*")) if path.name != ".lock"}
    return {name: (stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


def listening_addresses(process: Any) -> set[Any]:
    """Return the addresses on which a process and its descendants listen."""
    members = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    ports = [c.laddr.ip for member in members for c in member.net_connections("inet") if c.status == "LISTEN"]
    assert len(ports) > 3
    return {getattr(ip := ipaddress.ip_address(port), "ipv4_mapped", None) or ip for port in ports}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Start a cluster of two nodes with one CPU each, in pytest's process, since the main thread must own it."""
    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    started.add_node(num_cpus=1)
    yield started
    ray.shutdown()
    started.shutdown()


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Story:
    """Run the sweep: until Ctrl-C; SIGTERM, with a worker killed before; `retain stop`; SIGKILL; the rest on another cluster."""
    told = Story(tmp_path_factory.mktemp("home"))
    write_config(told)
    process = sweeps.retain(told.home, "sweep", "config.yaml", "--output", "out")
    told.wait(process, "interrupted")
    told.listening = listening_addresses(process)
    request_stop(told, process, lambda: os.killpg(process.pid, signal.SIGINT), "interrupted")

    process = sweeps.retain(told.home, "resume", "out")
    told.wait(process, "killed")
    os.kill(Trial(told.trial("killed")).read("environment")["pid"], signal.SIGKILL)
    told.wait(process, "terminated")
    request_stop(told, process, lambda: process.send_signal(signal.SIGTERM), "terminated")

    (told.folder / ".stop").touch()  # left over from a request that came too late
    process = sweeps.retain(told.home, "resume", "out")
    told.wait(process, "told")
    told.see_end("status", sweeps.retain(told.home, "status", "out"))
    request_stop(told, process, lambda: told.see_end("stop", sweeps.retain(told.home, "stop", "out")), "told")
    told.see_end("nothing to stop", sweeps.retain(told.home, "stop", "out"))

    process = sweeps.retain(told.home, "resume", "out")
    told.wait(process, "orphaned")
    os.killpg(process.pid, signal.SIGKILL)
    told.end(process)

    address = request.getfixturevalue("cluster").address
    # Ray wrote the token of pytest's cluster to pytest's home folder
    told.end(sweeps.retain(told.home, "resume", "out", RAY_ADDRESS=address, HOME=os.environ["HOME"]))
    told.record_starts()
    return told


def write_config(told: Story) -> None:
    """Write the config, with one trial at a time and as many checkpoints as possible, and the user's strategy."""
    sweeps.write_plugin(told.home, "faulty")

    def variant(name: str, does: Any) -> Any:
        checkpoints = f"{told.folder}/trials/*-{name}-*/checkpoints/000001+*"  # inside the second experience
        settings = {"notes": str(told.notes(name)), "does": does, "at": PER_EXPERIENCE + 2, "checkpoints": checkpoints}
        return {"strategies": {"plugins.faulty": settings}}

    sweeps.write_config(
        told.home,
        training={"epochs": 2, "batch_size": 32},
        checkpoint={"every": 0},
        sweep={
            "variants": {n: variant(n, does) if isinstance(does, str) else does for n, does in VARIANTS.items()},
        },
        ray={"max_concurrent": 1, "max_failures": 1},
    )


def request_stop(told: Story, process: Any, signal_it: Callable[[], None], variant: str) -> None:
    """Send a signal while a trial waits; let the trial go on once the sweep has asked its trials to stop."""
    signal_it()
    sweeps.wait_for(process, (told.folder / ".stop").exists)
    told.release(variant)
    told.end(process)


def test_exit_codes_and_messages(story: Story) -> None:
    interrupted, terminated, told, killed, ended = story.stages
    assert [stage.code for stage in story.stages] == [130, 143, 143, -signal.SIGKILL, 1]
    assert f"Continue with: retain resume {story.folder}" in interrupted.output
    assert all("Continue with: retain resume out" in stage.output for stage in (terminated, told))
    assert not any("Traceback" in stage.output for stage in story.stages)
    num_done = list(killed.states.values()).count("done")
    assert f"{num_done} of 11 trials are done, {11 - num_done} to go" in ended.output
    assert not (story.folder / ".stop").exists()
    assert (story.folder / "report.html").is_file()


def test_each_start_tells_how_to_resume(story: Story) -> None:
    """On the terminal and in the sweep's log: a process that is killed, or that Ray ends, cannot tell it later."""
    assert all(f"continue with: retain resume {story.folder}" in stage.output for stage in (story.stages[0],))
    assert all("continue with: retain resume out" in stage.output for stage in story.stages[1:])
    log = (story.folder / "sweep.log").read_text().splitlines()
    starts = [f"continue with: retain resume {story.folder}" in line for line in log]
    assert starts == [True, False, True, False, True, False, True, True, False], "the fourth was killed"


def test_states_of_the_trials_after_each_stage(story: Story) -> None:
    done = {"naive": "done", **FAILED, "messes": "done"}
    later = dict.fromkeys(list(VARIANTS)[6:], "pending")
    interrupted, terminated, stopped, killed, ended = (stage.states for stage in story.stages)
    assert interrupted == {**done, "interrupted": "stopped", **later}
    done |= {"interrupted": "done", "killed": "done"}
    assert terminated == {**later, **done, "terminated": "stopped"}
    done |= {"terminated": "done"}
    assert stopped == {**later, **done, "told": "stopped"}
    done |= {"told": "done"}
    assert killed == {**done, "orphaned": "running", "dies": "pending"}
    assert ended == {**done, "orphaned": "done", "dies": "failed"}


def test_status_and_stop_from_another_terminal(story: Story) -> None:
    code, status = story.seen["status"]
    assert code == 0
    assert "out: 5 done, 1 running, 3 failed, 2 pending of 11 trials" in status
    assert re.search(r"process \d+ on \S+ runs it since", status)
    assert re.search(r"split_digits / told / seed 0 +2 of 2 +\d+", status)
    assert "FloatingPointError: the loss became" in status and "trial.log" in status
    assert story.seen["stop"][0] == 0 and "out was asked to stop" in story.seen["stop"][1]
    assert story.seen["nothing to stop"] == (2, "error: out: nothing to stop: no process is running it.\n")


@pytest.mark.parametrize("variant", ["interrupted", "terminated", "told"])
def test_ctrl_c_sigterm_and_retain_stop_let_the_running_trial_write_a_checkpoint(story: Story, variant: str) -> None:
    """It need not finish its experience, and repeats no iteration."""
    stage = story.stages[["interrupted", "terminated", "told"].index(variant)]
    assert stage.newest[variant].startswith("000001+") and stage.newest[variant] > story.before[variant]
    first, second = story.starts[variant]
    assert first == 0 and second == PER_EXPERIENCE + int(stage.newest[variant].partition("+")[2])


@pytest.mark.parametrize("variant", ["killed", "orphaned"])
def test_a_killed_trial_resumes_mid_experience(story: Story, variant: str) -> None:
    """Killed alone, or with the whole sweep."""
    first, second = story.starts[variant]
    assert first == 0 and second >= PER_EXPERIENCE + int(story.before[variant].partition("+")[2])


def test_a_trial_that_always_dies_fails(story: Story) -> None:
    output = story.stages[-1].output
    assert "its process ended 2 times without a Python error: killed (out of memory?) or hung" in output
    assert len(story.starts["dies"]) == 2


def test_errors_are_in_the_ledger_and_ray_does_not_run_the_trials_again(story: Story) -> None:
    """Once in the first stage, and once at each resume."""
    errors = {variant: str(Trial(story.trial(variant)).status().error) for variant in FAILED}
    assert re.search(r"^FloatingPointError: the loss became (nan|inf) in experience 1", errors["diverging"])
    assert errors["fills"].startswith("MemoryError")
    assert "can't allocate memory" in errors["allocates"]
    for variant, error in errors.items():
        assert " ".join(error.split())[:50] in " ".join(story.stages[-1].output.split())
        assert (story.trial(variant) / "trial.log").read_text().count("Traceback") == len(story.stages)


def test_one_worker_runs_all_trials_of_a_stage(story: Story) -> None:
    """Running out of memory in Python or torch, and changed global state, do not end it."""
    assert len({story.stages[0].pids[variant] for variant in list(VARIANTS)[:6]}) == 1


def test_what_is_done_stays_untouched(story: Story) -> None:
    assert all(stage.naive == story.stages[0].naive for stage in story.stages)


def test_the_trials_have_the_bits_of_uninterrupted_ones(story: Story) -> None:
    """And of trials alone in this process; a user's strategy acted in them."""
    alone = sweeps.run_alone(story.trial("interrupted"), story.home / "alone")
    for variant in ("interrupted", "killed", "terminated", "orphaned"):
        sweeps.assert_same_bits(story.trial(variant), alone)
    naive = sweeps.run_alone(story.trial("naive"), story.home / "alone-naive")
    sweeps.assert_same_bits(story.trial("naive"), naive)
    assert not torch.equal(weights(alone), weights(naive))


def weights(folder: Path) -> torch.Tensor:
    """Return the head's weights at the end."""
    state = checkpoint.load_newest_checkpoint(folder / "checkpoints")
    assert state is not None
    tensor: torch.Tensor = state["learner"]["model"]["head.weight"]
    return tensor


def test_without_a_key_wandb_is_offline(story: Story) -> None:
    runs = list((story.folder / "wandb").glob("**/*.wandb"))
    assert len(runs) >= len(VARIANTS), (story.folder / "projector.log").read_text()


def test_a_local_cluster_listens_on_loopback_only(story: Story) -> None:
    assert all(ip.is_loopback for ip in story.listening), story.listening
    assert (story.home / ".ray" / "auth_token").stat().st_mode & 0o077 == 0, "nobody else reads the token"


def test_a_sweep_leaves_the_cluster_that_ray_address_names_as_it_was(story: Story, cluster: Cluster) -> None:
    assert (story.folder / ".marker").is_file(), "each node was asked whether it sees the sweep's folder"
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        assert len([node for node in ray.nodes() if node["Alive"]]) == 2
    finally:
        ray.shutdown()


def test_a_trial_that_fits_no_node_is_refused_before_it_starts(cluster: Cluster, tmp_path: Path) -> None:
    config = load_config("quickstart", ["resources.cpus=2", f"ray.address={cluster.address}", "wandb.mode=disabled"])
    with pytest.raises(UserError, match=r"^resources.cpus=2: no node of the cluster has as many"):
        sweep(config, tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists(), "nothing was written"


GREETINGS = {"ssh": b"SSH-2.0-OpenSSH_9.6\r\n", "nothing": b""}  # what another server sends first, before it hangs up


@pytest.fixture
def other_server(request: pytest.FixtureRequest) -> Iterator[str]:
    """Start a server that is no cluster; yield its address."""
    with socket.create_server(("", 0)) as server:

        def serve() -> None:
            with server.accept()[0] as connection:
                connection.sendall(GREETINGS[request.param])

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:1",  # nothing listens there
        "localhost:1",
        "[::1]:1",
        "127.0.0.1:99999",
        "127.0.0.1",
        "127.0.0.1:port",
        "no-such-host.invalid:6379",
        "ray://127.0.0.1:1",
        "ray://",
        "http://127.0.0.1:8265",
        "garbage",
        "a host:6379",
        "\u00fc" * 70 + ":6379",
    ],
)
@pytest.mark.parametrize("source", ["config", "environment"])
def test_an_address_without_a_cluster_is_refused(monkeypatch: pytest.MonkeyPatch, address: str, source: str) -> None:
    """Ray itself would try for minutes."""
    if source == "environment":
        monkeypatch.setenv("RAY_ADDRESS", address)
    config = load_config("quickstart", [f"ray.address={address!r}"] if source == "config" else [])
    with pytest.raises(UserError, match=rf"^ray\.address={re.escape(address)}: .*HOST:PORT"), RayCluster(config):
        pass
    assert not ray.is_initialized()


@pytest.mark.parametrize("other_server", GREETINGS, indirect=True)
def test_another_server_is_no_cluster(other_server: str) -> None:
    config = load_config("quickstart", [f"ray.address={other_server}"])
    with pytest.raises(UserError, match=rf"^ray\.address={other_server}: what answers at .* is no Ray cluster"):
        RayCluster(config).__enter__()


DYING = """
import time
import psutil
from retain import load_config
from retain.platform.sweep.ray_cluster import RayCluster
from retain.platform.sweep.ray_health import run_watched

def work():
    (raylet,) = [child for child in psutil.Process().children() if child.name() == "raylet"]
    raylet.kill()
    time.sleep(3600)

with RayCluster(load_config("quickstart")):
    run_watched(work)
"""


def test_a_local_cluster_that_dies_is_noticed(tmp_path: Path) -> None:
    """Even if nothing returns from Ray any more; test_ray_faults.py has whole sweeps."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | {
        "HOME": str(tmp_path)
    }
    ended = subprocess.run(
        [sys.executable, "-c", DYING], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE
    )
    assert ended.returncode == 1
    last = ended.stderr.strip().splitlines()[-1]
    assert "ClusterLostError: Ray has died under the sweep: its process raylet ended by SIGKILL" in last, ended.stderr
