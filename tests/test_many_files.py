"""Folders with thousands of trials and files: repeated reads cost the same for many as for few."""

import io
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import many_files as many
import pytest
from rich.console import Console

from retain.platform.cli.progress import ProgressDisplay
from retain.platform.ledger.reader import Trial, trials_of
from retain.platform.ledger.writer import SweepLedger, TrialLedger
from retain.platform.reporting.html_report import report
from retain.platform.reporting.polling import PollSchedule
from retain.platform.reporting.projector import ProjectorSettings, project

NUM_TRIALS = 1200
BOUND = 600  # trials that a poll may touch when nothing has changed: the running ones, and 500 more
CONFIG = "schema: 1\nname: many\n"


class Opened:
    """The files that this thread has opened, from an audit hook (which can never be removed)."""

    def __init__(self) -> None:
        self.paths: list[str] | None = None
        self.thread = threading.get_ident()
        sys.addaudithook(self._heard)

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" or isinstance(arguments[0], int):  # a descriptor: its path was heard of before
            return
        if self.paths is not None and threading.get_ident() == self.thread:
            self.paths.append(str(arguments[0]))

    def during(self, action: Callable[[], object]) -> list[str]:
        self.paths = []
        action()
        paths, self.paths = self.paths, None
        return paths


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the user's settings, and W&B services of other tests."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def opened() -> Opened:
    return Opened()


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a sweep in which all trials but four are done."""
    folder: Path = tmp_path_factory.mktemp("many") / "sweep"
    many.build(folder, NUM_TRIALS)
    return folder


@pytest.fixture
def stat_calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Yield the paths of all `os.stat` calls."""
    paths: list[str] = []
    stat = os.stat

    def counted(path: Any, *args: Any, **options: Any) -> os.stat_result:
        paths.append(str(path))
        return stat(path, *args, **options)

    monkeypatch.setattr(os, "stat", counted)
    yield paths


def append_experience(trial: Trial) -> None:
    with TrialLedger.open(trial.folder) as ledger:
        ledger.append("experience", 3, 100, {"task_agnostic": [0.5, 0.5, 0.5, None, None], "task_aware": [None] * 5})


def test_the_display_reads_only_what_has_changed(sweep: Path, opened: Opened, stat_calls: list[str]) -> None:
    watch = many.watch_of(sweep)
    watch.look(last=True)
    assert watch.num_ended() == NUM_TRIALS - 4
    stat_calls.clear()
    assert opened.during(watch.look) == []
    assert 4 * 4 <= len(stat_calls) <= 4 * BOUND
    running = trials_of(sweep)[-1]
    append_experience(running)
    assert {Path(path).name for path in opened.during(watch.look)} == {"status.json", "metrics.jsonl"}
    assert watch.displays[running.id].accuracy == 0.5


def test_the_projector_reads_only_what_has_changed(sweep: Path, opened: Opened, stat_calls: list[str]) -> None:
    projector = many.projector_of(sweep)
    projector._sinks = []
    projector.look(last=True)
    for _ in range(NUM_TRIALS // 400 + 1):
        projector.look()
    stat_calls.clear()
    assert opened.during(projector.look) == []
    assert 4 * 4 <= len(stat_calls) <= 4 * BOUND
    running = trials_of(sweep)[-1]
    append_experience(running)
    assert [Path(path).parent.name for path in opened.during(projector.look)] == [running.id]


def test_tensorboard_does_not_read_completed_trials_again(tmp_path: Path, opened: Opened) -> None:
    """If most of a sweep is done, the last poll reads nothing again."""
    folder = tmp_path / "some"
    many.build(folder, 34)
    settings = ProjectorSettings(mode="disabled", tensorboard=True)
    assert project(folder, settings) == 34
    read = opened.during(lambda: project(folder, settings))
    assert sum(path.endswith("metrics.jsonl") for path in read) <= 34 + 4  # a digest of each; the running ones again


def test_each_poll_covers_all_running_trials_and_the_next_pending_ones(tmp_path: Path) -> None:
    trials = [Trial(tmp_path / str(i), {"id": str(i), "variant": "v", "stream": "s", "seed": i}) for i in range(5000)]
    rounds = PollSchedule(trials)
    for trial in trials[:2000]:
        rounds.mark(trial, "done")
    rounds.mark(trials[4321], "running")
    polls = [rounds.next() for _ in range(13)]
    assert all(trials[4321] in polled and trials[2000] in polled and len(polled) <= 501 for polled in polls)
    assert {trial.id for polled in polls for trial in polled} == {trial.id for trial in trials}  # each one is polled
    rounds.mark(trials[4321], "done")
    assert rounds.next().count(trials[4321]) == 0
    rounds.mark(trials[4321], "running")  # it failed, and was resumed
    assert trials[4321] in rounds.next()


def test_unrelated_files_in_a_trial_folder_cost_nothing(tmp_path: Path, opened: Opened) -> None:
    SweepLedger.create(
        tmp_path / "s", CONFIG, "s", [{"id": "one", "variant": "v", "stream": "s", "seed": 0, "overrides": {}}]
    ).close()
    (trial,) = trials_of(tmp_path / "s")
    many.write(trial.folder, CONFIG, trial.identity, done=True)
    project(tmp_path / "s", ProjectorSettings(mode="offline"))
    before = opened.during(lambda: project(tmp_path / "s", ProjectorSettings(mode="offline")))
    for folder in (trial.folder / "checkpoints", tmp_path / "s" / "wandb"):
        folder.mkdir(exist_ok=True)
        for number in range(10_000):
            (folder / f"stray-{number}").touch()
    (trial.folder / "notes.txt").write_text("")
    after = opened.during(lambda: project(tmp_path / "s", ProjectorSettings(mode="offline")))
    here = str(tmp_path)
    assert len([path for path in after if here in path]) <= len([path for path in before if here in path])
    assert not any("stray" in path for path in after)
    assert project(tmp_path / "s", ProjectorSettings(mode="offline")) == 0
    assert "stray" not in report([tmp_path / "s"]).read_text()


@pytest.mark.parametrize("terminal", [True, False])
def test_the_display_follows_a_trial_whose_metrics_are_truncated(tmp_path: Path, terminal: bool) -> None:
    """A resumed trial truncates its metrics: the display must not continue from its old position."""
    identity = {"id": "one", "variant": "v", "stream": "s", "seed": 0}
    folder, out = tmp_path / "trial", io.StringIO()
    with TrialLedger.create(folder, CONFIG, identity) as ledger:
        ledger.status("running")
        ledger.append("experience", 1, 1, {"task_agnostic": [0.9, None], "task_aware": [None, None]})
        length = ledger.flush()
        ledger.append("experience", 2, 2, {"task_agnostic": [0.2, 0.4], "task_aware": [None, None]})
    watch = ProgressDisplay(folder, Console(file=out, force_terminal=terminal, width=100))
    watch.begin()
    with TrialLedger.open(folder) as ledger:
        watch.look()
        ledger.truncate(length)
        ledger.append("note", 1, 1, {"text": "of another length " * 9})
        watch.look()
        ledger.append("experience", 2, 2, {"task_agnostic": [0.2, 0.4], "task_aware": [None, None]})
        ledger.append("experience", 3, 3, {"task_agnostic": [0.3, 0.6, 0.9], "task_aware": [None] * 3})
        ledger.status("done", experience=3)
    watch.look(last=True)
    if terminal:
        assert watch.latest[0].accuracy == pytest.approx(0.6)
    else:
        assert out.getvalue() == "1/1 done: s / v / seed 0, accuracy 60.0 %\n"


def test_a_resumed_sweep_does_not_report_completed_trials_again(sweep: Path) -> None:
    out = io.StringIO()
    with ProgressDisplay(sweep, Console(file=out, force_terminal=False, width=100)):
        pass
    assert out.getvalue() == ""
