"""Searches that are resumed, repaired and extended: what was decided stays decided, and nothing is lost.

Real trials, one at a time in this process (helpers/search_driver.py). A search is "killed" by cutting its journal after a line.
"""

import io
import itertools
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from helpers.search_driver import begin, drive, outcome, search_config
from rich.console import Console

from retain.platform.cli.best import best_configs
from retain.platform.cli.exit_report import resumption_lines, show_results
from retain.platform.cli.search_lines import search_lines
from retain.platform.cli.status import has_ended, show_status
from retain.platform.cli.terminal import one_line
from retain.platform.config.search import Objective
from retain.platform.errors import UserError
from retain.platform.ledger.journal import NAME, read_journal
from retain.platform.ledger.reader import Trial, trials_of, unfinished_trials
from retain.platform.ledger.trial_values import values_so_far
from retain.platform.ledger.writer import write_status
from retain.platform.reporting.comparison_text import left_out
from retain.platform.reporting.results import results_of
from retain.platform.reporting.search_results import searches_of
from retain.platform.sweep import study
from retain.platform.sweep.extend import extended, write_extension
from retain.platform.sweep.run import has_open_search

LR = "training.optimizer.lr"
OBJECTIVE = Objective("validation.average_accuracy", "maximize")
SEEDS = [100, 101, 102, 103, 104, 105]
TPE = {"tpe": {"startup": 1}}
BOTH = {"naive": {"space": {LR: {"loguniform": [0.001, 1.0]}, "training.batch_size": {"randint": [8, 17]}}}}
FEW = {"naive": {"space": {LR: {"choice": [0.01, 0.03, 0.1, 0.2, 0.3, 0.5]}}}}
TWO = {name: {"space": {LR: {"loguniform": [0.001, 1.0]}}} for name in ("one", "other")}


def search(folder: Path, **sweep: Any) -> Path:
    begin(folder, search_config(**sweep))
    return folder


def lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [line for line in read_journal(folder) if line["kind"] == kind]


def of_role(folder: Path, role: str) -> list[Trial]:
    return [trial for trial in trials_of(folder) if trial.role == role]


def extend(folder: Path, *overrides: str) -> None:
    write_extension(folder, *extended(folder, list(overrides)))


def cut(folder: Path, length: int, is_written: bool = True) -> None:
    """Leave a folder as a kill after the journal's line `length` does; `is_written`: its trials have their results."""
    texts = (folder / NAME).read_text().splitlines(keepends=True)[:length]
    (folder / NAME).write_text("".join(texts))
    last = json.loads(texts[-1]) if texts else {}
    new = last.get("trials", []) if last.get("kind") == "chosen" else [last]
    unwritten = set() if is_written else {trial["id"] for trial in new if "id" in trial}
    listed = {line["id"] for line in read_journal(folder) if line["kind"] == "trial"}
    listed |= {trial["id"] for line in lines(folder, "chosen") for trial in line["trials"]}
    listed |= {trial["id"] for trial in json.loads((folder / "trials.json").read_text())["trials"]}
    for path in (folder / "trials").iterdir():
        if path.name not in listed - unwritten:
            shutil.rmtree(path)


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return what sets a clock's steps: each look at the time is so many seconds after the one before."""

    def set_steps(seconds: float) -> None:
        monkeypatch.setattr(time, "monotonic", itertools.count(0, seconds).__next__)

    return set_steps


# --- killed between any two lines of the journal ---


@pytest.mark.parametrize(
    ("sweep", "kinds"),
    [
        ({"samples": 2, "variants": TWO}, ("suggested", "chosen")),
        ({"samples": 6, "search": TPE, "variants": FEW}, ("repeated", "closed", "chosen")),
    ],
    ids=["two variants", "repeats"],
)
def test_a_search_that_is_killed_after_a_decision_ends_the_same(
    sweep: dict[str, Any], kinds: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trials that the journal's last line adds have not begun."""
    monkeypatch.setattr(study, "_MAX_REPEATS", 3)
    whole, killed = search(tmp_path / "whole", **sweep), tmp_path / "killed"
    drive(whole)
    expected = outcome(whole)
    assert {line["kind"] for line in expected["journal"]} >= set(kinds)
    for length, line in enumerate(expected["journal"], 1):
        if line["kind"] in kinds:
            shutil.copytree(whole, killed)
            cut(killed, length, is_written=False)
            drive(killed)
            assert outcome(killed) == expected, (length, line["kind"])
            shutil.rmtree(killed)


def test_a_search_that_is_killed_before_it_writes_that_seeds_end_decides_so_again(tmp_path: Path) -> None:
    points = [{LR: 0.3}, {LR: 0.001}]
    protocol = {"first_experiences": {"k": 1}}
    drive(
        search(
            tmp_path,
            samples=2,
            search_seeds=SEEDS,
            prune_seeds="wilcoxon",
            points_to_evaluate=points,
            protocol=protocol,
        )
    )
    expected = outcome(tmp_path)
    cut(tmp_path, [line["kind"] for line in expected["journal"]].index("worse"))
    drive(tmp_path)
    assert outcome(tmp_path) == expected


def test_a_kill_after_the_choice_leaves_something_to_resume(tmp_path: Path) -> None:
    drive(search(tmp_path, samples=2))
    (line,) = lines(tmp_path, "chosen")
    cut(tmp_path, len(read_journal(tmp_path)), is_written=False)
    assert [trial.id for trial, _ in unfinished_trials(trials_of(tmp_path))] == [each["id"] for each in line["trials"]]
    extend(tmp_path, "sweep.seeds=[0,1]")
    assert has_open_search(tmp_path)
    drive(tmp_path)
    assert {(trial.seed, trial.status().status) for trial in of_role(tmp_path, "reported")} == {
        (0, "done"),
        (1, "done"),
    }


# --- a search that has ended stays as it is ---


def test_a_search_that_its_time_limit_has_ended_stays_ended(tmp_path: Path, ticks: Callable[[float], None]) -> None:
    ticks(1)
    drive(search(tmp_path, samples=4, time_limit=2.5))
    ticks(0)
    expected = outcome(tmp_path)
    (closed,) = lines(tmp_path, "closed")
    assert closed["reason"] == "time_limit" and 0 < len(lines(tmp_path, "suggested")) < 4
    for _ in range(2):
        drive(tmp_path)
        assert outcome(tmp_path) == expected
    extend(tmp_path, "sweep.seeds=[0,1]")
    drive(tmp_path)
    assert len(lines(tmp_path, "suggested")) == len([e for e in expected["journal"] if e["kind"] == "suggested"])
    assert [trial.seed for trial in of_role(tmp_path, "reported")] == [0, 1]
    (found,) = searches_of(tmp_path)
    assert found.closed == "ended by the time limit"
    extend(tmp_path, "sweep.time_limit=9h")
    drive(tmp_path)
    assert len(lines(tmp_path, "suggested")) == 4
    (found,) = searches_of(tmp_path)
    assert not found.closed and found.is_over


def test_a_search_that_only_repeats_says_so_and_stays_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(study, "_MAX_REPEATS", 3)
    drive(search(tmp_path, samples=6, search=TPE, variants=FEW))
    expected = outcome(tmp_path)
    number = len(lines(tmp_path, "suggested"))
    assert number < 6
    text = "100 suggestions in a row repeated earlier points"
    assert f"{text}: {number} configurations (sweep.samples=6)" in caplog.text
    assert text in "\n".join(one_line(*parts).plain for parts in search_lines(searches_of(tmp_path)))
    drive(tmp_path)
    assert outcome(tmp_path) == expected


def test_the_chosen_configuration_is_the_one_that_best_prints(tmp_path: Path) -> None:
    drive(search(tmp_path, samples=3))
    before = best_configs(tmp_path, None, None)
    extend(tmp_path, "sweep.samples=4")
    (found,) = searches_of(tmp_path)
    assert (found.chosen, found.is_over) == (None, False)
    with pytest.raises(UserError, match="no configuration is chosen yet"):
        best_configs(tmp_path, None, None)
    drive(tmp_path)
    (found,) = searches_of(tmp_path)
    assert found.best is not None and len(lines(tmp_path, "chosen")) == 2
    (text,) = best_configs(tmp_path, None, None).values()
    assert f"lr: {found.best.point[LR]}" in text and f"configuration {found.chosen} of 4" in text
    assert before.keys() == best_configs(tmp_path, None, None).keys()


# --- failed trials ---


def failing(*at: tuple[str, int]) -> Callable[[str, int], bool]:
    return lambda trial, experience: any(part in trial and experience == when for part, when in at)


def test_failed_trials_of_a_search_run_again_only_on_demand(tmp_path: Path) -> None:
    whole = search(tmp_path / "whole", samples=3)
    drive(whole)
    broken = search(tmp_path / "broken", samples=3)
    drive(broken, fails=failing(("search", 2)))
    expected = outcome(broken)
    assert [line["number"] for line in lines(broken, "chosen")] == [None] and not of_role(broken, "reported")
    assert not unfinished_trials(trials_of(broken))
    drive(broken)
    assert outcome(broken) == expected
    (_, advice) = resumption_lines(broken, trials_of(broken), [], only_failed=False)
    assert "3 failed trials of the search stay as they are" in advice and "--failed" in advice
    drive(broken, only_failed=True)
    assert {trial.status().status for trial in of_role(broken, "search")} == {"done"}
    assert not of_role(broken, "reported") and has_open_search(broken)
    with pytest.raises(typer.Exit) as ended:
        show_results(broken, Console(file=io.StringIO()), Console(file=io.StringIO()))
    assert ended.value.exit_code == 130
    drive(broken)
    for name in ("search", "reported"):
        values = [[outcome(each)["trials"][trial.id] for trial in of_role(each, name)] for each in (whole, broken)]
        assert values[0] == values[1] != []
    assert lines(broken, "chosen")[-1]["number"] == lines(whole, "chosen")[0]["number"]


def test_failed_trials_run_again_without_the_others(tmp_path: Path) -> None:
    drive(search(tmp_path, samples=2, variants=TWO), fails=failing(("-one-search1", 2)))
    for trial in of_role(tmp_path, "reported"):
        shutil.rmtree(trial.folder)
    number = len(read_journal(tmp_path))
    resumed = drive(tmp_path, only_failed=True)
    assert resumed.next_trial() is None  # as Ray Tune asks while others run
    assert {trial.status().status for trial in of_role(tmp_path, "search")} == {"done"}
    assert [trial.status().status for trial in of_role(tmp_path, "reported")] == ["pending", "pending"]
    assert [line["kind"] for line in read_journal(tmp_path)[number:]] == ["retry"]


def test_a_trial_that_had_passed_a_rung_is_not_stopped_there_when_it_runs_again(tmp_path: Path) -> None:
    points = [{LR: 0.001}, {LR: 0.3}, {LR: 0.2}]  # the first one is the worst at the first rung
    folder = search(tmp_path, samples=3, scheduler="asha", protocol="end_of_stream", points_to_evaluate=points)
    drive(folder, fails=failing(("search0", 1)))
    first, *others = of_role(folder, "search")
    at_first_rung = [values_so_far(each, OBJECTIVE)[1] for each in (first, *others)]
    assert first.status().status == "failed" and at_first_rung[0] < min(at_first_rung[1:])
    drive(folder, only_failed=True)
    assert sum(event["kind"] == "experience" for _, event in first.events()) >= 2
    assert "after experience 1" not in str(first.status().error)


# --- earlier choices ---


def test_a_trial_of_an_earlier_choice_does_not_wait_for_ever(tmp_path: Path) -> None:
    """It is stopped before its reported trial runs; after more samples another configuration is chosen."""
    drive(search(tmp_path, samples=2, points_to_evaluate=[{LR: 0.001}, {LR: 0.002}]))
    shutil.rmtree(of_role(tmp_path, "reported")[0].folder)
    extend(tmp_path, "sweep.samples=4")
    drive(tmp_path)
    (old,) = of_role(tmp_path, "superseded")
    assert old.status().status == "pending"
    assert not unfinished_trials(trials_of(tmp_path)) and has_ended(tmp_path)
    assert "1 trials of an earlier choice, which is no longer reported" in left_out(results_of([tmp_path]))
    assert not any(old.variant in line and "seed" in line for line in left_out(results_of([tmp_path])))
    console = Console(file=io.StringIO(), width=200)
    show_results(tmp_path, console, console)  # exit code 0
    show_status(tmp_path, console)
    assert "5 done of 5 trials" in console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO


def test_trials_of_an_earlier_choice_are_reported_again_if_it_is_chosen_again(tmp_path: Path) -> None:
    drive(search(tmp_path, samples=2, points_to_evaluate=[{LR: 0.001}, {LR: 0.002}]))
    (first,) = of_role(tmp_path, "reported")
    before = (first.folder / "status.json").read_bytes()
    extend(tmp_path, "sweep.samples=4")
    drive(tmp_path)
    assert [trial.id for trial in of_role(tmp_path, "superseded")] == [first.id]
    for trial in of_role(tmp_path, "search")[2:]:
        write_status(trial.folder, "failed", 1, "broken")
    extend(tmp_path, "sweep.seeds=[0,1]")
    drive(tmp_path)
    reported = of_role(tmp_path, "reported")
    assert [(trial.id == first.id, trial.seed) for trial in reported] == [(True, 0), (False, 1)]
    assert (first.folder / "status.json").read_bytes() == before
    (tmp_path / "trials.json").write_bytes(b"\0")  # its list is read from the folders, with the same roles
    assert {trial.id for trial in of_role(tmp_path, "reported")} == {trial.id for trial in reported}


# --- retain add ---


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two finished searches, whose results others begin with."""
    root = tmp_path_factory.mktemp("earlier")
    for seed, name in enumerate("ab"):
        drive(search(root / name, samples=3, space_seed=seed + 1, variants=BOTH))
    yield root


@pytest.mark.parametrize(
    ("sweep", "override"),
    [
        ({"search_seeds": [100, 101]}, "sweep.search_seeds=[101,100]"),
        ({"search_seeds": [100]}, "sweep.search_seeds=[101,100]"),
        ({"points_to_evaluate": [{LR: 0.1}, {LR: 0.2}]}, f"sweep.points_to_evaluate=[{{{LR}: 0.2}},{{{LR}: 0.1}}]"),
        ({"search": TPE, "from": ["{}/a"]}, "sweep.from=[{}/b,{}/a]"),
    ],
)
def test_what_the_search_has_begun_with_stays_first(
    sweep: dict[str, Any], override: str, tmp_path: Path, earlier: Path
) -> None:
    sweep = {key: [each.format(earlier) for each in value] if key == "from" else value for key, value in sweep.items()}
    begin(tmp_path, search_config(**sweep))
    with pytest.raises(UserError, match=r"retain add: sweep\.\w+=.*: must begin with those that the search has"):
        extended(tmp_path, [override.replace("{}", str(earlier))])


@pytest.mark.parametrize("algorithm", [TPE, {"nsga2": {"population": 2}}], ids=["tpe", "nsga2"])
def test_earlier_results_change_suggestions_and_are_read_once(
    algorithm: dict[str, Any], tmp_path: Path, earlier: Path
) -> None:
    """Also those of a folder that is added later; each process that goes on from there suggests the same."""
    sources = tmp_path / "sources"
    shutil.copytree(earlier, sources)
    cold, warm, more = (tmp_path / name for name in ("cold", "warm", "more"))
    drive(search(cold, search=algorithm, samples=3, variants=BOTH))
    drive(search(warm, search=algorithm, samples=3, variants=BOTH, **{"from": [str(sources / "a")]}))
    points = [[line["point"] for line in lines(each, "suggested")] for each in (cold, warm)]
    assert points[0] != points[1]
    shutil.rmtree(sources / "a")
    shutil.copytree(warm, more)
    extend(warm, "sweep.samples=6")
    drive(warm)
    extend(more, "sweep.samples=6", f"sweep.from=[{sources / 'a'},{sources / 'b'}]")
    drive(more)
    points = [[line["point"] for line in lines(each, "suggested")] for each in (warm, more)]
    assert points[0][:3] == points[1][:3] and points[0][3:] != points[1][3:]
    shutil.rmtree(sources)
    expected = outcome(more)
    cut(more, [line["kind"] for line in expected["journal"]].index("earlier", 3) + 3)  # after one more suggestion
    drive(more)
    assert outcome(more) == expected
