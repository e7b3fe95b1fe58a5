"""The journal of a sweep, damaged or written by somebody else: each command says in a sentence what is wrong, naming the file."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.search_driver import begin, drive, search_config
from test_integrity import DAMAGE
from test_unsafe_files import ORDINARY, SPECIAL, Put, no_hang  # noqa: F401  # a fixture

from retain.platform.cli.best import best_configs
from retain.platform.errors import UserError
from retain.platform.ledger.documents import checksum, write_json
from retain.platform.ledger.journal import NAME, append_to_journal, read_journal
from retain.platform.ledger.reader import run_config, trials_of
from retain.platform.ledger.writer import SweepLedger, write_status
from retain.platform.reporting.html_report import report
from retain.platform.reporting.results import reported, results_of
from retain.platform.reporting.search_results import searches_of
from retain.platform.sweep.extend import extended
from retain.platform.sweep.run import has_open_search

STUDY = {"stream": "split_digits", "variant": "naive"}
CHOICE = {"kind": "chosen", **STUDY, "number": 0, "trials": [], "superseded": [], "again": []}
SCRIPT = "<script>alert(1)</script>"
Line = dict[str, Any]


@pytest.fixture(scope="module")
def searched(quick_folder: Path) -> Path:
    """Run a search with three configurations, one of which is stopped early, to its end; no test changes it."""
    folder = quick_folder / "journal" / "run"
    space = {"training.optimizer.lr": {"choice": [0.3, 0.1, 0.00001]}}
    config = search_config(
        samples=3, search={"tpe": {}}, scheduler="asha", protocol="end_of_stream", variants={"naive": {"space": space}}
    )
    begin(folder, config)
    drive(folder)
    assert {trial.status().status for trial in trials_of(folder)} == {"done", "pruned"}
    return folder


@pytest.fixture
def run(searched: Path, quick_folder: Path) -> Iterator[Path]:
    """Return a copy of it."""
    folder = quick_folder / "journal-copy" / "run"
    shutil.copytree(searched, folder)
    yield folder
    shutil.rmtree(folder.parent)


COMMANDS: dict[str, Callable[[Path], object]] = {
    "status, compare": lambda folder: results_of([folder]),
    "report": lambda folder: report([folder]),
    "sweep's end": searches_of,
    "best": lambda folder: best_configs(folder, None, None),
    "show, sync": run_config,
    "add": lambda folder: extended(folder, ["sweep.seeds=[0,1]"]),
    "resume": lambda folder: (SweepLedger.open(folder).close(), has_open_search(folder), drive(folder)),
}
LISTLESS = {"show, sync", "sweep's end"}  # they look for no trial if a journal is empty; others do before


def errors(folder: Path) -> dict[str, str]:
    """Return the error of each command; any other exception is a fault of ours."""
    found = {}
    for name, command in COMMANDS.items():
        try:
            command(folder)
        except UserError as error:
            found[name] = str(error)
    return found


def lines_of(folder: Path) -> list[Line]:
    return [json.loads(line) for line in (folder / NAME).read_text().splitlines()]


def write_lines(folder: Path, lines: list[Any]) -> None:
    """Write a journal with valid checksums, as somebody else can."""
    texts = []
    for line in lines:
        plain = {key: value for key, value in line.items() if key != "sha256"} if isinstance(line, dict) else line
        texts.append(json.dumps({**plain, "sha256": checksum(plain)} if isinstance(plain, dict) else plain) + "\n")
    (folder / NAME).write_text("".join(texts))


def first(lines: list[Line], kind: str, **also: Any) -> Line:
    return next(line for line in lines if line["kind"] == kind and also.items() <= line.items())


def test_every_command_reads_the_whole_journal(run: Path) -> None:
    assert errors(run) == {}


@pytest.mark.parametrize("put", SPECIAL, ids=lambda put: put.__name__)
@pytest.mark.parametrize("name", [NAME, "pruned.json"])
def test_links_pipes_and_devices_are_refused(run: Path, name: str, put: Put) -> None:
    path = sorted(run.rglob(name))[0]
    path.unlink()
    put(path)
    found = errors(run)
    assert found.keys() >= COMMANDS.keys() - ({"show, sync"} if name != NAME else set())  # reads no trial
    assert all(name in error for error in found.values())


@pytest.mark.parametrize("put", ORDINARY, ids=lambda put: put.__name__)
def test_a_journal_of_another_kind_size_or_content_is_named(run: Path, put: Put) -> None:
    (run / NAME).unlink()
    put(run / NAME)
    found = errors(run)
    assert found.keys() >= COMMANDS.keys() - LISTLESS
    assert all(f"{NAME} is damaged" in error for error in found.values())


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_journal_is_named(run: Path, how: str) -> None:
    (run / NAME).write_bytes(DAMAGE[how]((run / NAME).read_bytes()))
    found = errors(run)
    assert found.keys() >= COMMANDS.keys() - LISTLESS
    assert all(f"{NAME} is damaged" in error for error in found.values())


def test_a_missing_journal_is_named(run: Path) -> None:
    (run / NAME).unlink()
    assert "lacks the trial 000-" in errors(run)["report"]


def test_an_incomplete_last_line_is_left_out(run: Path) -> None:
    with (run / NAME).open("a") as file:
        file.write('{"kind": "chosen"')
    assert errors(run) == {}
    append_to_journal(run, "worse", {"stream": "split_digits", "variant": "naive", "number": 0})
    assert read_journal(run)[-1]["kind"] == "worse"


CHANGES: dict[str, tuple[str, Line]] = {
    "no point": ("suggested", {"point": None}),
    "a point that is a list": ("suggested", {"point": [1]}),
    "no number": ("suggested", {"number": None}),
    "a number that does not follow": ("suggested", {"number": 7}),
    "a number that is a truth value": ("suggested", {"number": False}),
    "no stream": ("suggested", {"stream": None}),
    "a variant that is a list": ("suggested", {"variant": ["naive"]}),
    "attributes that are a text": ("suggested", {"attributes": "x"}),
    "no time": ("suggested", {"elapsed": None}),
    "a time before the start": ("suggested", {"elapsed": -1}),
    "a choice that does not exist": ("chosen", {"number": 99}),
    "a choice that is a text": ("chosen", {"number": "0"}),
    "a choice below zero": ("chosen", {"number": -1}),
    "an id that is a path": ("trial", {"id": "../x"}),
    "no id": ("trial", {"id": None}),
    "a seed that is a text": ("trial", {"seed": "0"}),
    "an unknown role": ("trial", {"role": "guest"}),
    "a role that is a list": ("trial", {"role": ["search"]}),
    "a trial of nothing": ("trial", {"searched": None}),
    "a trial of a configuration that does not exist": ("trial", {"configuration": 99}),
    "a protocol that is a text": ("trial", {"protocol": "oracle"}),
    "an unknown kind": ("suggested", {"kind": "guess"}),
    "a kind that is a list": ("suggested", {"kind": []}),
    "no kind": ("suggested", {"kind": None}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_line_that_cannot_be_is_named(run: Path, name: str) -> None:
    kind, change = CHANGES[name]
    lines = lines_of(run)
    place = lines.index(first(lines, kind))
    lines[place] = {key: value for key, value in {**lines[place], **change}.items() if value is not None}
    write_lines(run, lines)
    found = errors(run)
    assert found.keys() == COMMANDS.keys()
    assert all(f"{NAME} is damaged in line {place + 1}: " in error for error in found.values())


@pytest.mark.parametrize(
    "line",
    [
        [],
        {**CHOICE, "superseded": ["x"]},
        {**CHOICE, "superseded": "x"},
        {**CHOICE, "again": [["x"]]},
        {**CHOICE, "trials": [{"id": "a/b"}]},
        {**CHOICE, "trials": None},
        {**STUDY, "kind": "retry", "trials": ["x"]},
        {**STUDY, "kind": "retry", "trials": {"x": 1}},
        {**STUDY, "kind": "closed", "reason": ["repeats"], "limits": {}, "elapsed": 1},
        {**STUDY, "kind": "closed", "reason": "repeats", "limits": [], "elapsed": 1},
        {**STUDY, "kind": "closed", "reason": "repeats", "limits": {}, "elapsed": "1"},
        {"kind": "worse", "stream": "split_digits", "variant": "naive", "number": 9},
        {"kind": "extended", "experiment": [], "trials": []},
        {"kind": "extended", "experiment": {}, "trials": {}},
        {"kind": "extended", "experiment": {}, "trials": [{"id": "a/b"}]},
        {"kind": "extended", "experiment": {}, "trials": [3]},
        {"kind": "earlier", "folder": "x", "stream": "s", "variant": "v", "results": [{"point": {}, "values": ["1"]}]},
    ],
    ids=str,
)
def test_a_last_line_that_cannot_be_is_named(run: Path, line: Any) -> None:
    lines = lines_of(run)
    write_lines(run, [*lines, line])
    found = errors(run)
    assert found.keys() == COMMANDS.keys()
    assert all(f"{NAME} is damaged in line {len(lines) + 1}: " in error for error in found.values())


@pytest.mark.parametrize("place", ["../../elsewhere", "/etc", "trials/../../home", "a\0b"])
def test_the_journal_cannot_name_a_folder_outside(run: Path, place: str) -> None:
    lines = lines_of(run)
    first(lines, "trial")["folder"] = place
    write_lines(run, lines)
    before = sorted(str(path) for path in run.parent.rglob("*") if path.name not in (".lock", "report.html"))
    found = errors(run)
    assert found.keys() >= COMMANDS.keys() - {"show, sync"}
    assert all(f"{NAME}: the folder" in error and "is not inside of" in error for error in found.values())
    after = sorted(str(path) for path in run.parent.rglob("*") if path.name not in (".lock", "report.html"))
    assert after == before


@pytest.mark.parametrize("change", [{"training.optimizer.lr": 7.0}, {"os.system": "touch x"}, {}], ids=str)
def test_a_point_outside_of_the_space_is_refused_on_resuming(run: Path, change: Line) -> None:
    lines = lines_of(run)
    first(lines, "suggested")["point"] = change
    write_lines(run, lines)
    found = errors(run)
    assert found.keys() == {"resume"} and NAME in found["resume"]


@pytest.mark.parametrize(
    "experiment", [{}, {"x": 1}, {"name": "${oc.env:HOME}", "benchmark": {"os.system": {}}}], ids=str
)
def test_an_experiment_that_cannot_be_is_refused(run: Path, experiment: Line) -> None:
    write_lines(run, [*lines_of(run), {"kind": "extended", "experiment": experiment, "trials": []}])
    assert errors(run).keys() >= {"report", "sweep's end", "best", "add", "resume"}


def test_texts_from_the_journal_are_escaped(run: Path) -> None:
    lines = lines_of(run)
    first(lines, "suggested")["point"] = {SCRIPT: SCRIPT}
    for line in lines:
        if line["kind"] == "trial":
            line["protocol"] = {"name": SCRIPT, SCRIPT: SCRIPT + "\n- evil"}
    write_lines(run, lines)
    pruned = next(trial for trial in trials_of(run) if trial.status().status == "pruned")
    write_status(pruned.folder, "pruned", 1, SCRIPT)
    page = report([run]).read_text()
    assert "alert(1)" in page and SCRIPT not in page
    (text,) = best_configs(run, None, None).values()
    assert all(line.startswith("#") for line in text.splitlines() if SCRIPT in line)


def test_a_damaged_result_of_a_search_is_shown_with_its_file(run: Path) -> None:
    """The others are shown as before."""
    damaged = next(trial for trial in trials_of(run) if trial.role == "search" and trial.status().status == "done")
    (damaged.folder / "summary.json").write_bytes(b"\0")
    (search,) = searches_of(run)
    states = {each.number: each for each in search.configurations}
    own = states.pop(damaged.identity["configuration"])
    assert own.state == "failed" and "summary.json is damaged" in own.reason
    assert all("damaged" not in each.reason for each in states.values())
    assert "summary.json is damaged" in report([run]).read_text()


@pytest.mark.parametrize("content", ["noise", "no reason", "reason that is a list"])
def test_a_record_of_an_early_stop_that_cannot_be_is_named(run: Path, content: str) -> None:
    """Of a trial whose process was killed before its state was written; a state that is written needs no record."""
    pruned = next(trial for trial in trials_of(run) if trial.status().status == "pruned")
    if content == "noise":
        (pruned.folder / "pruned.json").write_bytes(bytes(range(256)))
    else:
        write_json(pruned.folder / "pruned.json", {"experience": 1} | ({"reason": [1]} if "list" in content else {}))
    assert errors(run) == {}
    write_status(pruned.folder, "running", 1, None)
    found = errors(run)
    assert found.keys() == {"resume"} and "pruned.json is damaged" in found["resume"]


def test_a_rebuilt_list_of_trials_knows_which_are_no_longer_reported(run: Path) -> None:
    """trials.json is damaged: the trials are read from their folders, and those of an earlier choice are not reported."""
    old = [trial.id for trial in trials_of(run) if trial.role == "reported"]
    append_to_journal(run, "chosen", {**CHOICE, "superseded": old})
    assert old and not reported(results_of([run]))
    (run / "trials.json").write_bytes(b"\0")
    assert not reported(results_of([run]))
    SweepLedger.open(run).close()
    assert not reported(results_of([run]))
