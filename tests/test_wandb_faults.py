"""W&B unreachable, slow, broken or cut off, and processes that die: each row arrives once, and no trial waits."""

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import wandb
import wandb_server as stub
from helpers import followed_trial
from helpers.followed_trial import follow_a_trial
from helpers.processes import DEADLINE, wait_until

from retain.platform.errors import UserError
from retain.platform.ledger.documents import read_json
from retain.platform.ledger.reader import Trial, trials_of
from retain.platform.ledger.writer import SweepLedger, TrialLedger
from retain.platform.reporting import projector, wandb_runs
from retain.platform.reporting.polling import LedgerCursor, fingerprint
from retain.platform.reporting.projector import ProjectorSettings, num_unsent, project
from retain.platform.reporting.rows import MetricsRow, row_of

ONLINE = ProjectorSettings(mode="online", project="p")
CONFIG = "schema: 1\nname: demo\n"
SLOW = pytest.mark.slow
Event = tuple[str, int, int, dict[str, Any]]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the user's key and settings; set short pauses, and a timeout that a busy machine keeps."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    for module, name, value in ((projector, "_POLL", 0.05), (projector, "_RETRY", 0.2), (projector, "_RETRY_MAX", 1.0)):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(wandb_runs, "_TIMEOUT", 60.0)
    monkeypatch.setattr(wandb_runs, "_INTERVAL", 0.3)
    monkeypatch.setattr(wandb_runs, "_PATIENCE", (0.0, 0.3))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with stub.serving() as server:
        wandb.teardown()  # so that it reads the environment again
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
        yield server
        wandb.teardown()


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Make a sweep of two pending trials."""
    trials = [{"id": name, "variant": name, "stream": "digits", "seed": 5} for name in ("one", "two")]
    SweepLedger.create(tmp_path / "sweep", CONFIG, "demo", trials).close()
    return tmp_path / "sweep"


# --- a trial's ledger: killed, truncated to a checkpoint, and resumed ---


def history(num_experiences: int = 4, num_epochs: int = 5) -> list[Event]:
    """Return the events with a row of a whole trial: experience 0, then epochs and an experience each."""
    events: list[Event] = [("experience", 0, 0, {"task_agnostic": [0.1], "task_aware": [0.2], "metrics": {}})]
    for i in range(1, num_experiences + 1):
        for e in range(1, num_epochs + 1):
            iteration = 10 * (num_epochs * (i - 1) + e)
            events.append(("epoch", i, iteration, {"epoch": e, "loss": 1 / (3 * iteration), "accuracy": e / 7}))
        events.append(("experience", i, 10 * num_epochs * i, {"task_agnostic": [i / 11], "task_aware": [i / 13]}))
    return events


def wanted(events: list[Event]) -> list[tuple[str, int, dict[str, float]]]:
    rows = [row_of({"kind": kind, "experience": i, "iteration": n, **event}) for kind, i, n, event in events]
    return [(row.axis, row.step, row.values) for row in rows if row is not None]


class Writer:
    """Write a history like a trial, with checkpoints at random events; `die` resumes from one of them, or from none."""

    def __init__(self, trial: Trial, seed: int) -> None:
        self.trial, self.random, self.events = trial, random.Random(seed), history()
        self.ledger = TrialLedger.create(trial.folder, CONFIG, trial.identity)
        self.ledger.status("running")
        self.place, self.checkpoints = 0, [(0, 0)]

    def step(self) -> bool:
        """Write the next event, and sometimes a checkpoint; return False when all is written."""
        if self.place == len(self.events):
            return False
        kind, experience, iteration, event = self.events[self.place]
        if self.random.random() < 0.4:  # a real trial writes as many as time allows: they differ after each restart
            usage = {"cpu_percent": float(self.random.randrange(9))}
            self.ledger.append("resources", experience, iteration - self.random.randrange(2), usage)
        seconds = self.random.choice([1.0, 2.0, self.random.random()])  # of equal or different length
        self.ledger.append(kind, experience, iteration, {**event, **({"seconds": seconds} if kind == "epoch" else {})})
        self.place += 1
        if self.random.random() < 0.3:
            self.checkpoints.append((self.ledger.flush(), self.place))
        return True

    def die(self) -> None:
        """Stop in the middle of a line, and resume from one of the newest checkpoints."""
        self.ledger.close()
        with (self.trial.folder / "metrics.jsonl").open("ab") as file:
            file.write(b'{"kind": "epoch", "exp'[: self.random.randrange(20)])
        self.ledger = TrialLedger.open(self.trial.folder)
        keep = max(1, len(self.checkpoints) - self.random.randrange(3))
        self.checkpoints = self.checkpoints[:keep]
        length, self.place = self.checkpoints[-1]
        self.ledger.truncate(length)

    def finish(self) -> None:
        while self.step():
            pass
        self.ledger.write("summary", {"seconds": 2.5})
        self.ledger.status("done", experience=4)
        self.ledger.close()


def numbers(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row without W&B's fields, and without values that differ when a trial repeats its work."""
    values: dict[str, Any] = stub.numbers(row)
    return values


def plain(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [numbers(row) for row in rows]


def assert_once(server: Any, folder: Path) -> None:
    """Assert that each trial is one run with each row of its history once, in order."""
    book = read_json(folder / "projector.json")["trials"]
    assert len(server.rows) == len(trials_of(folder))
    for trial in trials_of(folder):
        sent = server.rows[book[trial.id]["run"]]
        rows = [{axis: step, **values} for axis, step, values in wanted(history())]
        assert plain(sent) == rows
        assert [row["_step"] for row in sent] == list(range(len(rows)))
    assert server.changed == [] and server.gaps == []


def num_sent(folder: Path) -> int:
    """Return how many trials the projector regards as sent completely."""
    return sum("signature" in entry for entry in read_json(folder / "projector.json")["trials"].values())


def finish_all(folder: Path) -> None:
    for seed, trial in enumerate(trials_of(folder)):
        Writer(trial, seed).finish()


@dataclass(frozen=True)
class Follower:
    """A projector in a thread: set `stop` to end it; `asks` is set once it has asked whether to end."""

    stop: threading.Event = field(default_factory=threading.Event)
    asks: threading.Event = field(default_factory=threading.Event)

    def stopped(self) -> bool:
        self.asks.set()
        return self.stop.is_set()


@contextmanager
def following(folder: Path) -> Iterator[Follower]:
    """Run a projector in a thread."""
    follower = Follower()
    options = {"follow": True, "stopped": follower.stopped}
    thread = threading.Thread(target=project, args=(folder, ONLINE), kwargs=options, daemon=True)
    thread.start()
    yield follower
    follower.stop.set()
    thread.join(DEADLINE)
    assert not thread.is_alive()


@pytest.mark.parametrize("first", [0, *(pytest.param(first, marks=SLOW) for first in range(25, 1000, 25))])
def test_each_row_is_read_exactly_once(quick_folder: Path, first: int) -> None:
    """Random histories of writing, dying, polling, and a new projector that knows the number of sent rows."""
    for seed in range(first, first + 25):
        trial = Trial(quick_folder / f"rows-{seed}", {"id": "t", "variant": "v", "stream": "s", "seed": seed})
        chance = random.Random(seed)
        writer, follower, rows = Writer(trial, seed), LedgerCursor(trial), list[MetricsRow]()
        for _ in range(150):
            match chance.choices(["step", "die", "look", "restart"], [12, 1, 4, 1])[0]:
                case "step":
                    writer.step()
                case "die":
                    writer.die()
                case "look":
                    rows += follower.new()
                case "restart":
                    follower = LedgerCursor(trial, skip=len(rows))
        writer.finish()
        rows += follower.new()
        read = [(row.axis, row.step, numbers(row.values)) for row in rows]
        assert read == wanted(history()), seed
        assert follower.count == len(rows)


def test_a_change_is_detected_when_the_clock_stands_or_goes_back(tmp_path: Path) -> None:
    trial = Trial(tmp_path / "t", {"id": "t", "variant": "v", "stream": "s", "seed": 0})
    with TrialLedger.create(trial.folder, CONFIG, trial.identity) as ledger:
        actions: list[Callable[[], None]] = [
            lambda: None,
            lambda: ledger.append("note", 0, 0, {"text": "a"}),
            lambda: ledger.write("summary", {"seconds": 1.5}),
            lambda: ledger.write("summary", {"seconds": 2.5}),  # as many bytes as before
            lambda: ledger.status("running"),
        ]
        seen = []
        for action in actions:
            action()
            for path in trial.folder.glob("*.json*"):
                os.utime(path, ns=(0, 0))  # the clock has been set back to where it was
            seen.append(fingerprint(trial))
    assert len(set(seen)) == len(seen)


# --- the server's faults ---


@pytest.mark.parametrize("status", [403, pytest.param(404, marks=SLOW), pytest.param(409, marks=SLOW)])
def test_rows_that_wandb_drops_silently_are_sent_again(sweep: Path, server: Any, status: int) -> None:
    """W&B drops a run's rows after several refusals, and reports success at its end."""
    faults = iter([status])
    server.fault = lambda kind: stub.Fault(status=next(faults, None)) if kind == "file_stream" else None
    finish_all(sweep)
    with pytest.raises(UserError, match=r"(?s)not all was sent: ConnectionError: W&B has 0 of 25 rows.*retain sync"):
        project(sweep, ONLINE)
    assert num_unsent(sweep, ONLINE) == 2
    assert project(sweep, ONLINE) == 2
    assert num_unsent(sweep, ONLINE) == 0
    assert_once(server, sweep)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_a_broken_server_eventually_gets_each_row_once(sweep: Path, server: Any, seed: int) -> None:
    """Random errors, refusals and closed connections for some time."""
    chance = random.Random(seed)
    faults = [stub.Fault(status=status) for status in (500, 502, 429, 403)]
    faults += [stub.Fault(cut="before"), stub.Fault(cut="after"), stub.Fault(delay=1.0)]
    server.fault = lambda kind: chance.choice(faults) if server.requests < 40 and chance.random() < 0.4 else None
    writers = [Writer(trial, seed + number) for number, trial in enumerate(trials_of(sweep))]
    with following(sweep):
        for number in range(60):
            for writer in writers:
                writer.step()
                if number % 25 == 24:
                    writer.die()
            time.sleep(0.05)  # as trials do
        for writer in writers:
            writer.finish()
        wait_until(lambda: num_sent(sweep) == 2)
    assert_once(server, sweep)


def test_a_hung_server_delays_the_end_for_a_bounded_time(
    sweep: Path, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Much earlier than the server answers."""
    finish_all(sweep)
    server.fault = lambda kind: stub.Fault(delay=10 * DEADLINE)
    with monkeypatch.context() as patch:
        patch.setattr(projector, "_LAST", 3.0)
        patch.setattr(wandb_runs, "_TIMEOUT", 3.0)
        with following(sweep) as follower:
            wait_until(lambda: server.requests > 0)
            follower.stop.set()
    assert num_unsent(sweep, ONLINE) == 2
    assert "2 trials are not sent completely: `retain sync" in (sweep / "projector.log").read_text()
    server.fault = lambda kind: None
    assert project(sweep, ONLINE) == 2
    assert_once(server, sweep)


def test_a_slow_server_gets_everything(sweep: Path, server: Any) -> None:
    finish_all(sweep)
    server.fault = lambda kind: stub.Fault(delay=0.2)
    assert project(sweep, ONLINE) == 2
    assert_once(server, sweep)


# --- processes that die ---

FOLLOW = """
import sys
from pathlib import Path
from retain.platform.reporting import projector, wandb_runs
wandb_runs._INTERVAL, projector._POLL = 0.2, 0.05
projector.project(Path(sys.argv[1]), projector.ProjectorSettings(mode="online", project="p"), follow=True)
"""


@pytest.mark.parametrize("kills", [2, pytest.param(8, marks=SLOW)])
def test_trials_and_the_projector_are_killed_repeatedly(sweep: Path, server: Any, kills: int) -> None:
    """The projector is killed when the server has got some more requests, at random; the trials have written some more then."""
    chance = random.Random(kills)
    writers = [Writer(trial, number) for number, trial in enumerate(trials_of(sweep))]

    def begin() -> "subprocess.Popen[bytes]":
        return subprocess.Popen([sys.executable, "-c", FOLLOW, str(sweep)])

    def write_until(num_requests: int) -> None:
        """Write rows one by one as the projector sends them."""
        while server.requests < num_requests and any([writer.step() for writer in writers]):
            before = server.requests
            wait_until(lambda before=before: server.requests > before)  # type: ignore[misc]

    process = begin()
    try:
        for number in range(kills):
            write_until(server.requests + chance.randrange(2, 12))
            assert process.poll() is None
            process.kill()
            process.wait()
            writers[number % 2].die()
            process = begin()
        for writer in writers:
            writer.finish()
        wait_until(lambda: num_sent(sweep) == 2)
    finally:
        process.kill()
        process.wait()
    assert_once(server, sweep)


def test_a_second_projector_waits_for_the_first_ones_end(sweep: Path, server: Any) -> None:
    """The projector of a killed sweep may still run when the sweep is resumed."""
    finish_all(sweep)
    code = (
        "import sys, time; from pathlib import Path; from retain.platform.reporting.projector_folder import working\n"
    )
    code += "with working(Path(sys.argv[1]), lambda: True):\n    print(flush=True); time.sleep(1e6)"
    first = subprocess.Popen([sys.executable, "-c", code, str(sweep)], stdout=subprocess.PIPE)
    assert first.stdout is not None
    first.stdout.readline()
    with pytest.raises(UserError, match="has a projector already"):
        project(sweep, ONLINE)
    with following(sweep) as second:
        assert second.asks.wait(DEADLINE)  # before it has the lock, it asks only while another one has it
        assert server.requests == 0
        first.kill()
        first.communicate()
        wait_until(lambda: sum(map(len, server.rows.values())) == 50)
    assert_once(server, sweep)


# --- a real trial ---


def assert_untouched(folder: Path, seen: dict[str, Any], server: Any) -> None:
    """Assert that the trial did not wait, its numbers equal those of one without W&B, and its rows can be sent later."""
    assert seen["sending"], "the projector was still trying when the trial had ended"
    trials = [Trial(folder / name) for name in ("without", "with")]
    assert [trial.status().status for trial in trials] == ["done", "done"]
    matrices = [trial.read("matrix") for trial in trials]
    assert matrices[0] == matrices[1]
    losses = [[e.get("loss") for _, e in trial.events() if e["kind"] == "epoch"] for trial in trials]
    assert losses[0] == losses[1] and losses[0]
    assert project(folder / "with", ONLINE) == 1 and project(folder / "with", ONLINE) == 0
    ((_, rows),) = server.rows.items()
    assert [row["_step"] for row in rows] == list(range(len(rows)))
    assert len(rows) == sum(e["kind"] in ("epoch", "experience") for _, e in trials[1].events())


def test_a_trial_does_not_wait_for_a_dead_port(tmp_path: Path, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    seen = follow_a_trial(tmp_path / "trial", "kill")
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    wandb.teardown()
    assert_untouched(tmp_path / "trial", seen, server)


@SLOW
@pytest.mark.parametrize("fault", ["no network", "slow", "hung"])
def test_a_sweeps_end_is_bounded_with_wandb_as_it_is(tmp_path: Path, server: Any, fault: str) -> None:
    """With W&B's default waits. The server answers after `DEADLINE`, at which the test gives up."""
    prefix = ["unshare", "-n"] if fault == "no network" else []
    if prefix and (os.name != "posix" or subprocess.run([*prefix, "true"], capture_output=True).returncode):
        pytest.skip("unshare -n is not permitted here")
    delay = {"slow": 2.0, "hung": 10 * DEADLINE}.get(fault)
    server.fault = lambda kind: stub.Fault(delay=delay) if delay else None
    command = [*prefix, sys.executable, followed_trial.__file__, str(tmp_path / "trial"), "stop"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    seen = json.loads(
        subprocess.run(command, capture_output=True, check=True, timeout=DEADLINE, env=environment).stdout
    )
    log = (tmp_path / "trial" / "with" / "projector.log").read_text()
    assert (num_unsent(tmp_path / "trial" / "with", ONLINE) == 0) == (fault == "slow") == ("`retain sync" not in log)
    server.fault = lambda kind: None
    if fault == "slow":
        assert project(tmp_path / "trial" / "with", ONLINE) == 0
        return
    assert_untouched(tmp_path / "trial", seen, server)


KILLED = """
import sys
from retain import load_config, run
run(load_config("quickstart", ["training.epochs=8"]), sys.argv[1])
"""


@SLOW
def test_a_real_trial_killed_twice_is_one_run(tmp_path: Path, server: Any) -> None:
    folder = tmp_path / "trial"

    def begin() -> "subprocess.Popen[bytes]":
        return subprocess.Popen([sys.executable, "-c", KILLED, str(folder)])

    def size() -> int:
        metrics = folder / "metrics.jsonl"
        return metrics.read_bytes().count(b"\n") if metrics.exists() else 0

    trial = begin()
    wait_until(lambda: size() > 2)
    follower = subprocess.Popen([sys.executable, "-c", FOLLOW, str(folder)])
    for goal in (13, 31):
        wait_until(lambda goal=goal: size() >= goal)  # type: ignore[misc]
        trial.kill()
        trial.wait()
        trial = begin()
    assert trial.wait(DEADLINE) == 0
    wait_until(lambda: num_sent(folder) == 1)
    follower.kill()
    follower.wait()
    ((_, rows),) = server.rows.items()
    follower_rows = list(LedgerCursor(Trial(folder)).new())
    expected_rows = [{row.axis: row.step, **row.values} for row in follower_rows]
    assert plain(rows) == plain(expected_rows)
    assert [row["_step"] for row in rows] == list(range(len(rows)))
    assert server.changed == [] and server.gaps == []
