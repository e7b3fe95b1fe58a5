"""The projector: W&B and TensorBoard hold the ledger's numbers, each step once, despite interruptions."""

import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import wandb
import wandb_server as stub
from helpers.processes import DEADLINE, wait_until

from retain.platform.errors import UserError
from retain.platform.ledger.documents import read_json
from retain.platform.ledger.reader import Trial, trials_of
from retain.platform.ledger.writer import SweepLedger, TrialLedger
from retain.platform.reporting import projector, wandb_runs
from retain.platform.reporting.polling import LedgerCursor
from retain.platform.reporting.projector import (
    PROJECTOR_STOP_FILE,
    ProjectorSettings,
    project,
    start,
    stop,
)
from retain.platform.reporting.rows import MetricsRow
from retain.platform.reporting.wandb_account import resolve_mode

OFFLINE, ONLINE = (
    ProjectorSettings(mode="offline", project="p", tags=("mine",)),
    ProjectorSettings(mode="online", project="p"),
)
SCALARS = ProjectorSettings(mode="disabled", tensorboard=True)
CONFIG = "schema: 1\nname: demo\nstrategies:\n  lwf: {weight: 0.7}\n"
NUM_EXPERIENCES, NUM_EPOCHS = 3, 2


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the user's key and settings."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setattr(projector, "_POLL", 0.05)
    monkeypatch.setattr(projector, "_RETRY", 0.2)
    monkeypatch.setattr(wandb_runs, "_TIMEOUT", 60.0)  # which a busy machine keeps


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with stub.serving() as server:
        wandb.teardown()  # so that it reads the environment again
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
        monkeypatch.setattr(wandb_runs, "_INTERVAL", 1.0)
        yield server
        wandb.teardown()


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Make a sweep of two pending trials."""
    trials = [{"id": f"{name}-0", "variant": name, "stream": "digits", "seed": 5} for name in ("lwf", "naive")]
    SweepLedger.create(tmp_path / "sweep", CONFIG, "demo", trials).close()
    return tmp_path / "sweep"


def write(
    trial: Trial, first: int = 0, last: int = NUM_EXPERIENCES, status: Any = "done", config: str = CONFIG
) -> None:
    """Write a trial's ledger for experiences `first`..`last`, with numbers that rounding would change."""
    made = (trial.folder / "trial.json").exists()
    ledger = TrialLedger.open(trial.folder) if made else TrialLedger.create(trial.folder, config, trial.identity)
    with ledger:
        for i in range(first, last + 1):
            for e in range(1, NUM_EPOCHS + 1) if i else ():
                iteration = 100 * (NUM_EPOCHS * (i - 1) + e)
                usage = {"cpu_percent": 50.0 + i, "gpu": None}
                ledger.append("resources", i, iteration - 1, usage)
                loss = math.nan if (i, e) == (2, 1) else 1 / (3 * iteration)
                numbers = {"epoch": e, "loss": loss, "accuracy": e / 7, "validation_accuracy": e / 9, "lr": 0.1}
                ledger.append("epoch", i, iteration, {**numbers, "seconds": time.perf_counter()})
            row = [(i + j) / 11 if j <= i else math.nan for j in range(1, NUM_EXPERIENCES + 1)]
            views = {"task_agnostic": {"average_accuracy": i / 13}, "task_aware": {"forgetting_max": math.nan}}
            event = {"task_agnostic": row, "task_aware": [i / 17] * 3, "metrics": views, "samples": 10 * i}
            held_out = {"task_agnostic": {"average_accuracy": i / 19}, "task_aware": {"forgetting_max": i / 29}}
            event["validation"] = {"task_agnostic": [i / 23, math.nan, 0.5], "task_aware": row, "metrics": held_out}
            ledger.append("experience", i, 100 * NUM_EPOCHS * i, event)
        if status:
            tested, held_out = ({"task_agnostic": {"average_accuracy": last / each}} for each in (13, 19))
            ledger.write("summary", {**tested, "validation": held_out, "seconds": 2.5})
            matrices = {"task_agnostic": [[1.0, math.nan]], "task_aware": [[0.5, 0.25]]}
            ledger.write("matrix", {**matrices, "validation": {"sizes": [3, 3], "task_agnostic": [[0.125, 0.5]]}})
            ledger.status(status, experience=last)


def expected(trial: Trial) -> list[dict[str, Any]]:
    """Return the expected rows, made from the ledger independently of the projector."""
    rows, cpu = [], 0.0
    for _, event in trial.events():
        if event["kind"] == "resources":
            cpu = event["cpu_percent"]
        elif event["kind"] == "epoch":
            names = {"epoch": "train/epoch", "loss": "train/loss", "accuracy": "train/accuracy"}
            names |= {"validation_accuracy": "validation/accuracy", "lr": "train/learning_rate"}
            names |= {"seconds": "train/seconds", "iteration": "iteration"}
            rows.append({name: event[field] for field, name in names.items()} | {"resources/cpu_percent": cpu})
        else:
            row = {"experience": event["experience"], "cost/samples": event["samples"]}
            row["task_agnostic/average_accuracy"] = event["metrics"]["task_agnostic"]["average_accuracy"]
            for view in ("task_agnostic", "task_aware"):
                row |= {f"accuracy/{view}/experience_0{j + 1}": event[view][j] for j in range(NUM_EXPERIENCES)}
                cells = event["validation"][view]
                row |= {f"validation_accuracy/{view}/experience_0{j + 1}": cells[j] for j in range(NUM_EXPERIENCES)}
                for name, value in event["validation"]["metrics"][view].items():
                    row[f"validation_{view}/{name}"] = value
            rows.append(row)
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


def records(folder: Path) -> list[dict[str, Any]]:
    """Return all records of an offline run, read with W&B's reader."""
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", str(folder)]
    lines = subprocess.run(command, capture_output=True, check=True, text=True).stdout.splitlines()
    return [json.loads(line) for line in lines]


def items(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if not name.startswith("_")} for row in rows]


def history(folder: Path, read: list[dict[str, Any]] | None = None) -> list[dict[str, Any]]:
    """Return the rows of an offline run (whose records may have been read); assert that its steps are 0, 1, 2, ..."""
    rows = [record["history"]["item"] for record in read or records(folder) if record["type"] == "history"]
    assert [row["_step"] for row in rows] == list(range(len(rows)))
    return items(rows)


def offline_runs(folder: Path, trial: Trial) -> list[Path]:
    run = read_json(folder / "projector.json")["trials"][trial.id]["run"]
    return list((folder / "wandb").glob(f"*-{run}"))


def test_an_offline_run_holds_the_ledgers_numbers(sweep: Path) -> None:
    trial = trials_of(sweep)[0]
    write(trial)
    assert project(sweep, OFFLINE) == 1  # the other trial is pending
    (run,) = offline_runs(sweep, trial)
    all_records = records(run)
    assert history(run, all_records) == expected(trial)
    begun = next(record["run"] for record in all_records if record["type"] == "run")
    assert (begun["project"], begun["run_group"], begun["job_type"]) == ("p", "demo", "trial")
    assert begun["display_name"] == "lwf/digits/5" and set(begun["tags"]) == {"lwf", "digits", "mine"}
    assert begun["config"]["update"]["strategies"] == {"lwf": {"weight": 0.7}}
    axes = {
        r["metric"]["glob_name"]: r["metric"]["step_metric"] for r in all_records if "glob_name" in r.get("metric", {})
    }
    assert axes["train/*"] == axes["validation/*"] == "iteration"
    assert axes["accuracy/*"] == axes["task_agnostic/*"] == axes["task_aware/*"] == "experience"
    assert {axes[f"validation_{name}/*"] for name in ("accuracy", "task_agnostic", "task_aware")} == {"experience"}
    summary: dict[str, Any] = {}
    for record in all_records:
        summary |= record.get("summary", {}).get("update", {})
    assert (summary["status"], summary["cost/seconds"]) == ("done", 2.5)
    assert summary["task_agnostic/average_accuracy"] == NUM_EXPERIENCES / 13
    assert summary["validation_task_agnostic/average_accuracy"] == NUM_EXPERIENCES / 19
    assert summary["accuracy_matrix/task_aware"] == [[0.5, 0.25]]
    assert summary["validation_accuracy_matrix/task_agnostic"] == [[0.125, 0.5]]
    assert all_records[-1]["exit"]["exit_code"] == 0


def test_a_grown_offline_run_is_rewritten_and_a_complete_one_is_kept(sweep: Path) -> None:
    grows, complete = trials_of(sweep)
    write(grows, last=1, status="stopped")
    write(complete, status="failed")
    assert project(sweep, OFFLINE) == 2
    (before,), (finished,) = offline_runs(sweep, grows), offline_runs(sweep, complete)
    stamp = finished.stat().st_mtime_ns
    assert len(history(before)) == 1 + NUM_EPOCHS + 1
    assert records(finished)[-1]["exit"]["exit_code"] == 1
    write(grows, first=2)
    assert project(sweep, OFFLINE) == 1
    (after,) = offline_runs(sweep, grows)
    assert history(after) == expected(grows)
    assert offline_runs(sweep, complete) == [finished] and finished.stat().st_mtime_ns == stamp
    assert project(sweep, OFFLINE) == 0


def test_an_uploaded_offline_run_is_not_written_again(sweep: Path) -> None:
    trial = trials_of(sweep)[0]
    write(trial, last=1, status="stopped")
    project(sweep, OFFLINE)
    (run,) = offline_runs(sweep, trial)
    (run / f"run-{run.name.rsplit('-', 1)[1]}.wandb.synced").write_text("")  # written by `wandb sync`
    write(trial, first=2)
    assert project(sweep, OFFLINE) == 0
    assert offline_runs(sweep, trial) == [run] and len(history(run)) == 4
    assert "retain sync" in (sweep / "projector.log").read_text()


def test_a_cursor_yields_each_row_once_across_truncations(sweep: Path) -> None:
    trial = trials_of(sweep)[0]
    write(trial, last=1, status=None)
    with TrialLedger.open(trial.folder) as ledger:
        length = ledger.flush()
    follower = LedgerCursor(trial)
    rows: list[MetricsRow] = list(follower.new())
    assert len(rows) == 4 and not list(follower.new())
    write(trial, first=2, last=2, status=None)
    rows += follower.new()
    for size in (length, 0):  # back to a checkpoint, then to the beginning; other seconds, so other lengths
        with TrialLedger.open(trial.folder) as ledger:
            ledger.truncate(size)
        assert not list(follower.new())
        write(trial, first=2 if size else 0, last=2 if size else 3, status=None)
        rows += follower.new()
    assert [(row.axis, row.step) for row in rows] == [
        *[("experience", 0), ("iteration", 100), ("iteration", 200), ("experience", 1), ("iteration", 300)],
        *[("iteration", 400), ("experience", 2), ("iteration", 500), ("iteration", 600), ("experience", 3)],
    ]
    with (trial.folder / "metrics.jsonl").open("ab") as file:
        file.write(b'{"kind": "epoch", "exp')
    assert not list(follower.new())


def test_tensorboard_holds_the_ledgers_numbers(sweep: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trial = trials_of(sweep)[0]
    write(trial, last=2, status="stopped")
    assert project(sweep, SCALARS) == 1
    write(trial, first=3)
    assert project(sweep, SCALARS) == 1 and project(sweep, SCALARS) == 0
    assert not (sweep / "wandb").exists()
    accumulator = EventAccumulator(str(sweep / "tensorboard" / trial.id))
    accumulator.Reload()
    scalars = [(tag, e.step, e.value) for tag in accumulator.Tags()["scalars"] for e in accumulator.Scalars(tag)]
    expected_scalars = []
    for row in expected(trial):
        axis = "iteration" if "iteration" in row else "experience"
        expected_scalars += [
            (tag, row[axis], pytest.approx(value, rel=1e-6)) for tag, value in row.items() if tag != axis
        ]
    assert sorted(scalars) == sorted(expected_scalars, key=lambda item: item[:2])


def test_tensorboards_hparams_tab_has_settings_metrics_and_the_end(sweep: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2

    trial = trials_of(sweep)[0]
    settings = "model: mlp\ntraining: {optimizer: {lr: 0.1}, epochs: [1, 2]}\nstrategies: {lwf: null, ema: {}}\n"
    write(trial, config=settings)
    assert project(sweep, SCALARS) == 1
    accumulator = EventAccumulator(str(sweep / "tensorboard" / trial.id))
    accumulator.Reload()
    contents = accumulator.PluginTagToContent("hparams")
    found = {tag: plugin_data_pb2.HParamsPluginData.FromString(content) for tag, content in contents.items()}
    shown = {each.name.tag for each in found["_hparams_/experiment"].experiment.metric_infos}
    assert "task_agnostic/average_accuracy" in shown
    columns = found["_hparams_/session_start_info"].session_start_info.hparams
    values = {key: getattr(value, str(value.WhichOneof("kind"))) for key, value in columns.items()}
    own = {"model": "mlp", "training.optimizer.lr": 0.1, "training.epochs": "[1, 2]", "strategies.ema": True}
    assert values == {"variant": trial.variant, "stream": trial.stream, "seed": trial.seed, **own}
    assert found["_hparams_/session_end_info"].session_end_info.status == api_pb2.STATUS_SUCCESS


PARENT = """
import sys, time
from pathlib import Path
from retain.platform.reporting.projector import ProjectorSettings, start
print(start(Path(sys.argv[1]), ProjectorSettings(mode="offline")).pid, flush=True)
time.sleep(1e6)
"""


@pytest.mark.parametrize("end", ["stop", "parent", pytest.param("signal", marks=pytest.mark.slow)])
def test_the_process_follows_the_ledgers_and_writes_everything_before_it_ends(sweep: Path, end: str) -> None:
    """It ends when it is told to by a file or a signal, or when its parent dies."""
    first, second = trials_of(sweep)
    write(first)
    (sweep / PROJECTOR_STOP_FILE).write_text("")  # left by an earlier projector
    if end == "parent":
        parent = subprocess.Popen([sys.executable, "-c", PARENT, str(sweep)], stdout=subprocess.PIPE, text=True)
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
    else:
        process = start(sweep, OFFLINE)
    wait_until(
        lambda: "bytes" in (sweep / "projector.json").read_text() if (sweep / "projector.json").exists() else False
    )
    with pytest.raises(UserError, match="has a projector already"):
        project(sweep, OFFLINE)
    write(second, last=1, status="running")  # still running at the end
    if end == "parent":
        parent.kill()
        parent.communicate()
        wait_until(lambda: not psutil.pid_exists(pid))
    elif end == "signal":
        process.terminate()
        assert process.wait(DEADLINE) == 0
    else:
        assert stop(process, sweep, DEADLINE) and not (sweep / PROJECTOR_STOP_FILE).exists()
    for trial in (first, second):
        (run,) = offline_runs(sweep, trial)
        assert history(run) == expected(trial)


def test_a_damaged_ledger_is_reported_and_the_others_are_sent(sweep: Path) -> None:
    damaged, good = trials_of(sweep)
    write(damaged)
    write(good)
    with (damaged.folder / "metrics.jsonl").open("ab") as file:
        file.write(b"\0\0\0\n")
    with pytest.raises(UserError, match=r"lwf-0.metrics.jsonl is damaged"):
        project(sweep, OFFLINE)
    (run,) = offline_runs(sweep, good)
    assert history(run) == expected(good)


@pytest.mark.parametrize(
    ("mode", "variables", "resolved"),
    [
        (None, {}, "offline"),
        (None, {"WANDB_API_KEY": "k" * 40}, "online"),
        (None, {"WANDB_API_KEY": "k" * 40, "WANDB_MODE": "offline"}, "offline"),
        (None, {"WANDB_MODE": "disabled"}, "disabled"),
        ("offline", {"WANDB_API_KEY": "k" * 40, "WANDB_MODE": "online"}, "offline"),
        ("online", {}, "`wandb login`"),
        (None, {"WANDB_MODE": "online"}, "`wandb login`"),
        (None, {"WANDB_MODE": "dryrun"}, "WANDB_MODE=dryrun: must be one of online, offline, disabled"),
    ],
)
def test_mode(monkeypatch: pytest.MonkeyPatch, mode: Any, variables: dict[str, str], resolved: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if resolved in ("online", "offline", "disabled"):
        assert resolve_mode(mode) == resolved
    else:
        with pytest.raises(UserError, match=resolved):
            resolve_mode(mode)


def test_a_key_in_netrc_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wandb.teardown()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (tmp_path / "netrc").write_text(f"machine api.wandb.ai login user password {'k' * 40}\n")
    assert resolve_mode(None) == "offline"
    (tmp_path / "netrc").write_text(f"machine wandb.example.org login user password {'k' * 40}\n")
    assert resolve_mode(None) == "online"
    wandb.teardown()


def test_online_mode_resumes_the_same_run(sweep: Path, server: Any) -> None:
    trial = trials_of(sweep)[0]
    write(trial, last=1, status="stopped")
    project(sweep, OFFLINE)
    assert project(sweep, ONLINE) == 1 and project(sweep, ONLINE) == 0
    assert len(server.rows) == 1 and not list((sweep / "wandb").glob("offline-*"))  # the upload replaces it
    write(trial, first=2)
    assert project(sweep, OFFLINE) == 0  # the server has the trial: an offline run would duplicate it
    assert project(sweep, ONLINE) == 1
    ((run, rows),) = server.rows.items()
    assert items(rows) == expected(trial) and [row["_step"] for row in rows] == list(range(len(rows)))
    assert run == read_json(sweep / "projector.json")["trials"][trial.id]["run"]
    assert server.upserts[run]["groupName"] == "demo" and server.summary[run]["status"] == "done"


def test_sync_without_a_server_reports_it_and_sends_later(
    sweep: Path, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = trials_of(sweep)[0]
    write(trial)
    server.down = True
    with (
        monkeypatch.context() as patch,
        pytest.raises(UserError, match=r"(?s)not all was sent: CommError.*retain sync"),
    ):
        patch.setattr(wandb_runs, "_TIMEOUT", 3.0)
        project(sweep, ONLINE)
    assert not server.rows
    server.down = False
    assert project(sweep, ONLINE) == 1
    (rows,) = server.rows.values()
    assert items(rows) == expected(trial)
    assert len(list((sweep / "wandb").iterdir())) == 1  # the failed attempt's files are gone


def test_live_streaming_survives_a_killed_service_and_a_killed_projector(
    sweep: Path, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb_runs, "_TIMEOUT", 3.0)  # of what waits for the killed service; it tries again
    trial, late = trials_of(sweep)
    write(trial, last=1, status="running")
    code = "import sys; from pathlib import Path; from retain.platform.reporting import projector, wandb_runs\n"
    code += "wandb_runs._INTERVAL = 1.0\n"
    code += "projector.project(Path(sys.argv[1]), projector.ProjectorSettings(mode='online', project='p'), follow=True)"
    process = subprocess.Popen([sys.executable, "-c", code, str(sweep)])
    wait_until(lambda: sum(map(len, server.rows.values())) == 4)
    process.kill()  # the run stays unfinished
    process.wait()
    write(trial, first=2, last=2, status="running")
    ended = threading.Event()
    thread = threading.Thread(
        target=project, args=(sweep, ONLINE), kwargs={"follow": True, "stopped": ended.is_set}, daemon=True
    )
    thread.start()
    wait_until(lambda: sum(map(len, server.rows.values())) == 7)
    for child in psutil.Process().children():
        if "wandb-core" in child.name() or "wandb-core" in " ".join(child.cmdline()):
            child.kill()
    write(trial, first=3)
    write(late)
    wait_until(
        lambda: all(t["signature"] for t in read_json(sweep / "projector.json")["trials"].values() if len(t) > 3)
    )
    wait_until(lambda: sum(map(len, server.rows.values())) == 20)
    ended.set()
    thread.join(DEADLINE)
    assert not thread.is_alive()
    for each in (trial, late):
        rows = server.rows[read_json(sweep / "projector.json")["trials"][each.id]["run"]]
        assert items(rows) == expected(each) and [row["_step"] for row in rows] == list(range(10))
    assert "tried again in" in (sweep / "projector.log").read_text()
