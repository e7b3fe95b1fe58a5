"""The ledger: what is written is read back, torn or damaged files are named, one process at a time writes."""

import json
import math
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from retain.platform.errors import UserError
from retain.platform.ledger import (
    SCHEMA,
    SweepLedger,
    Trial,
    TrialLedger,
    is_sweep,
    read_json,
    trials_of,
    write_json,
    write_text,
)

IDENTITY: dict[str, Any] = {"id": "lwf-0", "variant": "lwf", "stream": "digits", "seed": 3, "overrides": {"a.b": 1}}
CONFIG = "schema: 1\nname: demo\nlr: 1e-3\n"
HOLD = """
import sys, time
from pathlib import Path
from retain.platform.ledger import TrialLedger
ledger = TrialLedger.open(Path(sys.argv[1]))
sys.stdout.write("held\\n"); sys.stdout.flush()
time.sleep(60)
"""


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[TrialLedger]:
    with TrialLedger.create(tmp_path / "trial", CONFIG, IDENTITY) as ledger:
        yield ledger


def events(trial: Trial | Path, after_byte: int = 0) -> list[dict[str, Any]]:
    trial = trial if isinstance(trial, Trial) else Trial(trial)
    return [event for _, event in trial.events(after_byte)]


def test_what_is_written_is_read_back(ledger: TrialLedger) -> None:
    ledger.append("epoch", 1, 10, {"epoch": 1, "loss": 0.1 + 0.2})
    ledger.append("experience", 1, 10, {"task_agnostic": [1.0, math.nan], "metrics": {"x": math.inf}})
    ledger.write("matrix", {"task_agnostic": [[math.nan, 0.5]]})
    ledger.status("running", experience=1)
    trial = trials_of(ledger.folder)[0]
    assert events(trial) == [
        {"kind": "epoch", "experience": 1, "iteration": 10, "epoch": 1, "loss": 0.1 + 0.2},
        {"kind": "experience", "experience": 1, "iteration": 10, "task_agnostic": [1.0, None], "metrics": {"x": None}},
    ]
    assert (trial.id, trial.variant, trial.stream, trial.seed) == ("lwf-0", "lwf", "digits", 3)
    assert trial.identity["overrides"] == {"a.b": 1}
    assert trial.read("matrix") == {"schema": SCHEMA, "task_agnostic": [[None, 0.5]]}
    assert trial.read("config") == {"schema": 1, "name": "demo", "lr": 0.001}
    assert trial.read("summary") is None and trial.read("environment") is None
    status = trial.status()
    assert (status.status, status.experience, status.error) == ("running", 1, None) and status.updated > 1e9


def test_events_go_on_from_an_offset(ledger: TrialLedger) -> None:
    for number in range(4):
        ledger.append("epoch", 1, number, {})
    trial = Trial(ledger.folder)
    offsets = [offset for offset, _ in trial.events()]
    assert offsets[-1] == ledger.flush()
    assert [event["iteration"] for event in events(trial, offsets[1])] == [2, 3]
    assert events(trial, offsets[-1]) == []


def test_a_torn_last_line_is_not_read_and_is_cut_off_when_the_trial_goes_on(ledger: TrialLedger) -> None:
    ledger.append("epoch", 1, 1, {})
    length = ledger.flush()
    ledger.close()
    path = ledger.folder / "metrics.jsonl"
    with path.open("ab") as file:
        file.write(b'{"kind": "epoch", "experience": 1, "iter')
    assert [event["iteration"] for event in events(ledger.folder)] == [1]
    with TrialLedger.open(ledger.folder) as again:
        assert path.stat().st_size == length
        again.append("epoch", 1, 2, {})
    assert [event["iteration"] for event in events(ledger.folder)] == [1, 2]


@pytest.mark.parametrize("length", [1, 65536, 200_000])
def test_a_torn_line_of_any_length_is_cut_off(ledger: TrialLedger, length: int) -> None:
    ledger.append("epoch", 1, 1, {})
    whole = ledger.flush()
    ledger.close()
    path = ledger.folder / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + b"x" * length)
    TrialLedger.open(ledger.folder).close()
    assert path.stat().st_size == whole


def test_truncate_forgets_what_came_after(ledger: TrialLedger) -> None:
    ledger.append("epoch", 1, 1, {})
    length = ledger.flush()
    ledger.append("epoch", 1, 2, {"loss": 0.5})
    ledger.truncate(length)
    ledger.append("epoch", 1, 3, {})
    assert [event["iteration"] for event in events(ledger.folder)] == [1, 3]
    ledger.truncate(0)
    assert events(ledger.folder) == []


@pytest.mark.parametrize("wrong", [-1, 5, 10_000])
def test_truncate_refuses_what_is_no_end_of_a_line(ledger: TrialLedger, wrong: int) -> None:
    ledger.append("epoch", 1, 1, {})
    size = ledger.flush()
    with pytest.raises(UserError, match=r"metrics.jsonl does not fit its checkpoint"):
        ledger.truncate(wrong)
    assert ledger.flush() == size


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"status": "done", ', "damaged"),
        (b"[1, 2]", "a mapping was expected, not list"),
        (b"\xff\xfe", "damaged"),
        (b'{"schema": 99}', "newer retain"),
    ],
)
def test_a_damaged_or_newer_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "status.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_json(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_and_a_damaged_line_are_named(ledger: TrialLedger) -> None:
    with pytest.raises(UserError, match=r"nothing.json: no such file"):
        read_json(ledger.folder / "nothing.json")
    ledger.append("epoch", 1, 1, {})
    with (ledger.folder / "metrics.jsonl").open("ab") as file:
        file.write(b"{broken}\n")
    with pytest.raises(UserError, match=r"metrics.jsonl is damaged at byte 51"):
        events(ledger.folder)


def test_writing_is_atomic_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": [1, (2.5, math.nan)], "b": {"c": -math.inf}})
    assert json.loads(path.read_text()) == {"a": [1, [2.5, None]], "b": {"c": None}}
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")  # fails while the temporary file is open
    assert json.loads(path.read_text())["a"][0] == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_an_occupied_folder_is_refused_and_a_pending_one_is_not(ledger: TrialLedger) -> None:
    ledger.close()
    TrialLedger.create(ledger.folder, CONFIG, IDENTITY).close()  # pending: nothing has happened yet
    with TrialLedger.open(ledger.folder) as again:
        again.append("epoch", 1, 1, {})
    before = (ledger.folder / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"is occupied: resume it \(retain resume .*trial\) or choose another"):
        TrialLedger.create(ledger.folder, CONFIG, IDENTITY)
    assert (ledger.folder / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("make", ["status", "foreign", "file"])
def test_other_occupied_folders(tmp_path: Path, make: str) -> None:
    folder = tmp_path / "x"
    if make == "file":
        folder.write_text("")
    else:
        folder.mkdir()
        (folder / "thesis.tex").write_text("") if make == "foreign" else write_json(
            folder / "status.json", {"status": "failed", "experience": 0, "error": "e", "updated": 0.0}
        )
    with pytest.raises(UserError, match=r"occupied|is a file"):
        TrialLedger.create(folder, CONFIG, IDENTITY)
    with pytest.raises(UserError, match=r"occupied|is a file"):
        SweepLedger.create(folder, CONFIG, "demo", [])


def test_a_second_writer_is_refused_and_a_killed_one_does_not_block(ledger: TrialLedger) -> None:
    ledger.append("epoch", 1, 1, {})
    with pytest.raises(UserError, match="in use"):
        TrialLedger.open(ledger.folder)
    ledger.close()
    ledger.close()
    command = [sys.executable, "-c", HOLD, str(ledger.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match="in use: another retain process"):
            TrialLedger.open(ledger.folder)
        assert [event["iteration"] for event in events(ledger.folder)] == [1]  # reading needs no lock
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with TrialLedger.open(ledger.folder) as again:
        again.append("epoch", 1, 2, {})
    assert len(events(ledger.folder)) == 2


def test_a_sweep_lists_its_trials_before_they_start(tmp_path: Path) -> None:
    other = {**IDENTITY, "id": "naive-0", "folder": "elsewhere/n"}
    with SweepLedger.create(tmp_path / "s", CONFIG, "demo", [IDENTITY, other]) as sweep:
        trials = sweep.trials()
        with pytest.raises(UserError, match="in use"):
            SweepLedger.open(sweep.folder)
        with pytest.raises(UserError, match="occupied|in use"):
            SweepLedger.create(sweep.folder, CONFIG, "demo", [])
    assert is_sweep(tmp_path / "s") and not is_sweep(trials[0].folder)
    assert [trial.id for trial in trials_of(tmp_path / "s")] == ["lwf-0", "naive-0"]
    assert [trial.folder.relative_to(tmp_path / "s").as_posix() for trial in trials] == ["trials/lwf-0", "elsewhere/n"]
    assert trials[0].status().status == "pending" and events(trials[0]) == [] and trials[0].read("config") is None
    TrialLedger.create(trials[0].folder, CONFIG, trials[0].identity).close()
    assert trials_of(trials[0].folder)[0].seed == 3
    with pytest.raises(UserError, match="no folder of a trial or a sweep"):
        trials_of(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        TrialLedger.open(tmp_path)
    SweepLedger.open(tmp_path / "s").close()
