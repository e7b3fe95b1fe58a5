"""Searches on Ray, from the command line: what is reported; workers and sweeps that are killed or stopped, and resumed.

Processes, signals and clusters are real. With one trial at a time a search must decide as one in this process does, wherever it
is struck, so nothing depends on when.
"""

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from helpers import sweeps
from helpers.processes import wait_until
from helpers.search_driver import SPACE, begin, drive, outcome, search_config

from retain.platform.cli.best import best_configs
from retain.platform.cli.status import request_stop
from retain.platform.config.load import load_config
from retain.platform.ledger.journal import read_journal
from retain.platform.ledger.reader import Trial, trials_of
from retain.platform.trial.resolve import resolve_experiment

ASHA = {"asha": {"grace_period": 1, "reduction_factor": 2}}


@dataclass
class Ended:
    """A command that has ended, and the folder of its sweep."""

    folder: Path
    code: int
    output: str


def write(home: Path, max_concurrent: int, **sweep: Any) -> dict[str, Any]:
    """Write config.yaml with a search of tiny trials; return the config."""
    config = search_config(search={"tpe": {"startup": 2}}, scheduler=ASHA, **sweep)
    config |= {"wandb": {"mode": "disabled"}, "ray": {"max_concurrent": max_concurrent}}
    (home / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return config


def processes_of(home: Path) -> list[str]:
    """Return the living processes with this home folder, as everything that the sweep has started has."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("HOME") == str(home) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline())[:80])
    return found


def search_trials(folder: Path) -> list[Trial]:
    return [trial for trial in trials_of(folder) if trial.role == "search"]


def running(folder: Path) -> list[int]:
    """Return the processes of search trials that run now."""
    trials = search_trials(folder) if (folder / "trials.json").exists() else []
    environments = [each.read("environment") for each in trials if each.status().status == "running"]
    return [int(each["pid"]) for each in environments if each]


def suggested(folder: Path) -> int:
    return sum(line["kind"] == "suggested" for line in read_journal(folder))


# --- a whole search, with two workers ---


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """Run a search of two variants to its end, two trials at a time, with one more variant that has no space."""
    home = tmp_path_factory.mktemp("home")
    variants = {
        "naive": {"space": SPACE},
        "replay": {"strategies": {"replay": {"memory": 20}}, "space": SPACE},
        "fixed": {},
    }
    # one good point, then poor ones: in whatever order the trials report, one of the poor ones comes after a better one
    points = [{"training.optimizer.lr": lr} for lr in (0.1, 0.001, 0.0011, 0.0012)]
    write(home, 2, seeds=[0, 1], samples=4, variants=variants, protocol="end_of_stream", points_to_evaluate=points)
    return Ended(home / "out", *sweeps.ended(sweeps.retain(home, "sweep", "config.yaml", "--output", "out")))


def test_the_reported_trials_are_those_of_the_chosen_configurations(whole: Ended) -> None:
    assert whole.code == 0, whole.output
    lines = read_journal(whole.folder)
    chosen = {line["variant"]: line for line in lines if line["kind"] == "chosen"}
    assert chosen.keys() == {"naive", "replay"}
    reported = [trial for trial in trials_of(whole.folder) if trial.role == "reported"]
    assert sorted((trial.variant, trial.seed) for trial in reported) == [
        (variant, seed) for variant in ("fixed", "naive", "replay") for seed in (0, 1)
    ]
    for trial in reported:
        assert trial.status().status == "done"
        if trial.variant in chosen:
            assert trial.identity["configuration"] == chosen[trial.variant]["number"]
            point = chosen[trial.variant]["point"]
            assert trial.config()["training"]["optimizer"]["lr"] == point["training.optimizer.lr"]


def test_every_configuration_ran_once_and_the_best_complete_one_is_chosen(whole: Ended) -> None:
    for variant in ("naive", "replay"):
        trials = [trial for trial in search_trials(whole.folder) if trial.identity["searched"] == variant]
        assert [trial.identity["configuration"] for trial in trials] == [0, 1, 2, 3]
        assert {trial.status().status for trial in trials} <= {"done", "pruned"}
        values = {
            trial.identity["configuration"]: (trial.read("summary") or {})["validation"]["task_agnostic"][
                "average_accuracy"
            ]
            for trial in trials
            if trial.status().status == "done"
        }
        (choice,) = [e for e in read_journal(whole.folder) if e["kind"] == "chosen" and e["variant"] == variant]
        assert choice["number"] == max(values, key=lambda number: values[number])


def test_stopped_trials_keep_their_checkpoints(whole: Ended) -> None:
    pruned = [trial for trial in search_trials(whole.folder) if trial.status().status == "pruned"]
    assert pruned
    for trial in pruned:
        assert "stopped early by asha after experience" in str(trial.status().error)
        assert sweeps.newest(trial.folder)
        assert trial.read("summary") is None


def test_the_terminal_names_choices_and_protocol(whole: Ended) -> None:
    assert "search of naive on split_digits: 4 configurations" in whole.output
    assert "protocol end_of_stream: chosen after the whole stream" in whole.output
    assert "Traceback" not in whole.output


def test_no_process_is_left(whole: Ended) -> None:
    wait_until(lambda: not processes_of(whole.folder.parent), "the end of Ray")


def test_best_prints_configs_that_can_be_run(whole: Ended) -> None:
    home = whole.folder.parent
    code, output = sweeps.ended(sweeps.retain(home, "best", "out", "--variant", "replay"))
    assert code == 0, output
    (home / "best.yaml").write_text(output)
    config = resolve_experiment(load_config(home / "best.yaml")).experiment
    (choice,) = [e for e in read_journal(whole.folder) if e["kind"] == "chosen" and e["variant"] == "replay"]
    assert config.training.optimizer.lr == choice["point"]["training.optimizer.lr"]
    assert list(config.strategies) == ["replay"] and config.sweep.seeds == (0, 1)
    names = ["split_digits-naive.yaml", "split_digits-replay.yaml"]
    assert sorted(best_configs(whole.folder, None, None)) == names
    assert list(best_configs(whole.folder, "naive", "split_digits")) == names[:1]


# --- one trial at a time, struck ---


def alone(home: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Run the same search in this process, without Ray; return what it has decided and measured."""
    begin(home / "alone", config)
    drive(home / "alone")
    return outcome(home / "alone")


@pytest.mark.slow  # test_search.py kills the same searches without Ray
def test_killed_workers_and_sweeps_change_no_decision(tmp_path: Path) -> None:
    """SIGKILL of a worker during a search trial, which Ray starts again; then of the sweep with all of its processes."""
    config = write(tmp_path, 1, samples=4, protocol="end_of_stream")
    folder = tmp_path / "out"
    process = sweeps.retain(tmp_path, "sweep", "config.yaml", "--output", "out")
    sweeps.wait_for(process, lambda: bool(running(folder)))
    killed = running(folder)[0]
    os.kill(killed, signal.SIGKILL)
    sweeps.wait_for(process, lambda: suggested(folder) >= 3)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert "chosen" not in {line["kind"] for line in read_journal(folder)}, "the search was not over"
    code, output = sweeps.ended(sweeps.retain(tmp_path, "resume", "out"))
    assert code == 0, output
    pids = {(trial.read("environment") or {}).get("pid") for trial in search_trials(folder)[1:]}
    assert killed not in pids
    assert outcome(folder) == alone(tmp_path, config)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["retain stop", "SIGTERM", "Ctrl-C"])
def test_a_search_that_is_stopped_continues_with_the_same_decisions(how: str, tmp_path: Path) -> None:
    config = write(tmp_path, 1, samples=5, protocol="end_of_stream")
    folder = tmp_path / "out"
    process = sweeps.retain(tmp_path, "sweep", "config.yaml", "--output", "out")
    sweeps.wait_for(
        process, lambda: bool((folder / "journal.jsonl").exists() and suggested(folder) >= 2 and running(folder))
    )
    strikes: dict[str, Callable[[], object]] = {
        "retain stop": lambda: request_stop(folder),
        "SIGTERM": lambda: process.send_signal(signal.SIGTERM),
        "Ctrl-C": lambda: os.killpg(process.pid, signal.SIGINT),
    }
    strikes[how]()
    code, output = sweeps.ended(process)
    assert code == (130 if how == "Ctrl-C" else 143), output
    assert f"Continue with: retain resume {folder}" in output and "Traceback" not in output
    assert suggested(folder) < 5, "no configuration was begun after the stop"
    wait_until(lambda: not processes_of(tmp_path), "the end of Ray")
    code, output = sweeps.ended(sweeps.retain(tmp_path, "resume", "out"))
    assert code == 0, output
    assert outcome(folder) == alone(tmp_path, config)
