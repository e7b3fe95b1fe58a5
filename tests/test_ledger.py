"""The ledger: it reads what it wrote, names torn or damaged files, and lets one process at a time write."""

import hashlib
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
from retain.platform.files import write_text
from retain.platform.ledger.documents import DOCUMENT_SCHEMA, read_json, write_json
from retain.platform.ledger.reader import Trial, is_sweep, run_config, trials_of, unfinished_trials
from retain.platform.ledger.writer import SweepLedger, TrialLedger, mark_for_repair

IDENTITY: dict[str, Any] = {"id": "lwf-0", "variant": "lwf", "stream": "digits", "seed": 3, "overrides": {"a.b": 1}}
CONFIG = "schema: 1\nname: demo\nlr: 1e-3\n"
HOLD = """
import sys, time
from pathlib import Path
from retain.platform.ledger.writer import TrialLedger
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
    assert trial.read("matrix") == {"schema": DOCUMENT_SCHEMA, "task_agnostic": [[None, 0.5]]}
    assert trial.read("config") == {"schema": 1, "name": "demo", "lr": 0.001}
    assert trial.read("summary") is None and trial.read("environment") is None
    status = trial.status()
    assert (status.status, status.experience, status.error) == ("running", 1, None) and status.updated > 1e9


def test_events_are_read_from_an_offset(ledger: TrialLedger) -> None:
    for number in range(4):
        ledger.append("epoch", 1, number, {})
    trial = Trial(ledger.folder)
    offsets = [offset for offset, _ in trial.events()]
    assert offsets[-1] == ledger.flush()
    assert [event["iteration"] for event in events(trial, offsets[1])] == [2, 3]
    assert events(trial, offsets[-1]) == []


def test_a_torn_last_line_is_not_read_and_is_cut_off_on_resume(ledger: TrialLedger) -> None:
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


def test_truncate_removes_later_events(ledger: TrialLedger) -> None:
    ledger.append("epoch", 1, 1, {})
    length = ledger.flush()
    ledger.append("epoch", 1, 2, {"loss": 0.5})
    ledger.truncate(length)
    ledger.append("epoch", 1, 3, {})
    assert [event["iteration"] for event in events(ledger.folder)] == [1, 3]
    ledger.truncate(0)
    assert events(ledger.folder) == []


@pytest.mark.parametrize("wrong", [-1, 5, 10_000])
def test_truncate_refuses_an_offset_that_is_not_the_end_of_a_line(ledger: TrialLedger, wrong: int) -> None:
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
    assert read_json(path) == {"schema": DOCUMENT_SCHEMA, "a": [1, [2.5, None]], "b": {"c": None}}
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


def test_a_document_holds_a_checksum_that_readers_do_not_see(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"schema": 1, "sha256": "mine", "x": [1.5, "\xe9", "\udcff"]})
    text = path.read_text()
    assert text.startswith('{\n "schema": 2,\n "x": [\n  1.5,') and '"sha256": "' in text
    assert read_json(path) == {"schema": 2, "x": [1.5, "\xe9", "\\udcff"]}  # a file name that is not UTF-8 is escaped
    rest = {key: value for key, value in json.loads(text).items() if key != "sha256"}
    canonical = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert json.loads(text)["sha256"] == hashlib.sha256(canonical.encode()).hexdigest()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"x": 1', '"x": 3'),
        ('"x"', '"y"'),
        ('"sha256"', '"sha257"'),
        ('"schema": 2', '"schema": 0'),
        ("{", "{ "),
        ("1", "1e0"),
    ],
)
def test_a_changed_document_is_refused_unless_its_content_is_equal(tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"x": 1})
    path.write_text(path.read_text().replace(old, new, 1))
    if new == "{ ":
        assert read_json(path) == {"schema": 2, "x": 1}
        return
    with pytest.raises(UserError, match=r"a\.json is damaged: it has changed since it was written"):
        read_json(path)


def test_documents_of_older_runs_have_no_checksum(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"schema": 1, "x": 1}')
    assert read_json(path) == {"schema": 1, "x": 1}
    path.write_text('{"x": 1}')
    with pytest.raises(UserError, match="no checksum"):
        read_json(path)


def test_a_config_that_has_changed_is_refused(ledger: TrialLedger) -> None:
    trial = Trial(ledger.folder)
    assert trial.config_text() == CONFIG and "config_sha256" not in trial.identity and trial.damage() is None
    (ledger.folder / "config.yaml").write_text(CONFIG.replace("1e-3", "1e-2"))
    for read in (trial.config, trial.config_text, lambda: trial.read("config"), lambda: run_config(ledger.folder)):
        with pytest.raises(UserError, match=r"config\.yaml has changed since it was written \(SHA-256 .*restore it"):
            read()
    assert "config.yaml has changed" in str(trial.damage())


def test_the_digest_covers_complete_lines_only(ledger: TrialLedger) -> None:
    path = ledger.folder / "metrics.jsonl"
    ledger.append("epoch", 1, 1, {})
    length, first = ledger.flush(), ledger.digest()
    ledger.append("epoch", 1, 2, {})
    assert ledger.digest() == hashlib.sha256(path.read_bytes()).hexdigest() != first
    ledger.close()
    with path.open("ab") as file:
        file.write(b'{"torn')
    with TrialLedger.open(ledger.folder) as again:
        assert again.digest() == hashlib.sha256(path.read_bytes()).hexdigest()
        with pytest.raises(UserError, match=r"metrics\.jsonl is damaged"):
            again.truncate(length, "0" * 64)
        again.truncate(length, first)
        assert again.digest() == first and path.stat().st_size == length


def test_a_status_that_cannot_be_read_means_stopped(ledger: TrialLedger) -> None:
    path = ledger.folder / "status.json"
    for text in (
        "",
        "{",
        '{"schema": 1}',
        '{"schema": 1, "status": "done", "experience": "2", "error": null, "updated": 0}',
    ):
        path.write_text(text)
        status = Trial(ledger.folder).status()
        assert (status.status, status.experience, status.error) == ("stopped", 0, "status.json is damaged")
    path.write_text('{"schema": 99}')
    with pytest.raises(UserError, match="newer retain"):
        Trial(ledger.folder).status()


def test_a_damaged_list_of_trials_is_rebuilt(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "s"
    others = [{**IDENTITY, "id": name, "seed": seed} for seed, name in enumerate(("000-a", "001-b"))]
    with SweepLedger.create(folder, CONFIG, "demo", others) as sweep:
        for identity in others:
            TrialLedger.create(folder / "trials" / identity["id"], CONFIG, identity).close()
        before, file = [trial.identity for trial in sweep.trials()], (folder / "trials.json").read_bytes()
    (folder / "trials.json").write_bytes(file[: len(file) // 2])
    assert [trial.identity for trial in trials_of(folder)] == before
    assert "trials.json is damaged" in caplog.text
    SweepLedger.open(folder).close()
    assert (folder / "trials.json").read_bytes() == file


def test_a_damaged_trial_identity_is_restored_from_the_list(tmp_path: Path) -> None:
    SweepLedger.create(tmp_path / "s", CONFIG, "demo", [IDENTITY]).close()
    (trial,) = trials_of(tmp_path / "s")
    TrialLedger.create(trial.folder, CONFIG, trial.identity).close()
    before = (trial.folder / "trial.json").read_bytes()
    (trial.folder / "trial.json").write_bytes(before[:-9])
    ((damaged, damage),) = unfinished_trials(trials_of(tmp_path / "s"))
    assert "trial.json is damaged" in str(damage)
    mark_for_repair(damaged, str(damage))
    assert (trial.folder / "trial.json").read_bytes() == before and damaged.damage() is None
    TrialLedger.create(tmp_path / "other", CONFIG, {**IDENTITY, "seed": 4}).close()
    (tmp_path / "other" / "trial.json").replace(trial.folder / "trial.json")
    assert "names another trial" in str(damaged.damage())


@pytest.mark.parametrize("place", ["../elsewhere", "{root}", "trials/../../x", "link", "a\0b", "."])
def test_a_trial_folder_outside_of_its_sweep_is_refused(tmp_path: Path, place: str) -> None:
    SweepLedger.create(tmp_path / "s", CONFIG, "demo", [{**IDENTITY, "folder": place.format(root=tmp_path)}]).close()
    (tmp_path / "s" / "link").symlink_to(tmp_path)
    with pytest.raises(UserError, match="is not inside of|leads out of"):
        trials_of(tmp_path / "s")


def test_a_folder_with_links_out_of_it_is_not_written_to(ledger: TrialLedger, tmp_path: Path) -> None:
    ledger.close()
    victim = tmp_path / "victim"
    victim.write_bytes(b"no line's end")
    (ledger.folder / "metrics.jsonl").unlink()
    (ledger.folder / "metrics.jsonl").symlink_to(victim)
    with pytest.raises(UserError, match=r"metrics\.jsonl is a link that leads out"):
        TrialLedger.open(ledger.folder)
    with pytest.raises(UserError, match="leads out"):
        trials_of(ledger.folder)
    assert victim.read_bytes() == b"no line's end"
