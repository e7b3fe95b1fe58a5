"""Every file of a run folder, damaged in every way: the file is reported, no number is wrong, and resuming repairs it."""

import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from retain.platform.config.load import from_dict, to_dict
from retain.platform.config.schema import Experiment
from retain.platform.contract.outcome import assert_same, outcome
from retain.platform.errors import UserError
from retain.platform.ledger.reader import Trial, run_config, trials_of, unfinished_trials
from retain.platform.ledger.writer import SweepLedger, TrialLedger, mark_for_repair, write_status
from retain.platform.reporting.html_report import report
from retain.platform.reporting.results import results_of
from retain.platform.sweep import run as sweep_run
from retain.platform.sweep.plan import plan
from retain.platform.sweep.run import resume
from retain.platform.trial.run import run as run_trial

NOTHING = {".lock", "trial.log", "report.html"}  # nothing reads their content
Make = Callable[..., Experiment]


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "a bit in the middle": lambda data: flipped(data, len(data) // 2),
    "a bit in the first byte": lambda data: flipped(data, 0),
    "the last byte but one": lambda data: flipped(data, len(data) - 2),
    "cut to half": lambda data: data[: len(data) // 2],
    "emptied": lambda data: b"",
}


@pytest.fixture(scope="module")
def sweep(make_experiment: Make, quick_folder: Path) -> Path:
    """Run a sweep of two trials, both done; no test changes it."""
    base = make_experiment("pair", {"replay": {"memory": 20}})
    config = from_dict(to_dict(base) | {"wandb": {"mode": "disabled"}})
    folder = quick_folder / "integrity" / "sweep"
    names = [{"id": f"00{seed}", "variant": "v", "stream": "s", "seed": seed, "overrides": {}} for seed in (0, 1)]
    text = yaml.safe_dump(to_dict(config), sort_keys=False)
    with SweepLedger.create(folder, text, "test", names) as ledger:
        for trial in ledger.trials():
            own = replace(config, seed=trial.seed)
            TrialLedger.create(trial.folder, yaml.safe_dump(to_dict(own), sort_keys=False), trial.identity).close()
            run_trial(own, trial.folder, identity=trial.identity)
    return folder


@pytest.fixture
def copied(sweep: Path, quick_folder: Path) -> Iterator[Callable[[], Path]]:
    """Return a function that makes new copies of the sweep."""
    place = quick_folder / "integrity" / "copy"

    def copy() -> Path:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(sweep, place)
        return place

    yield copy
    shutil.rmtree(place, ignore_errors=True)


def files_of(folder: Path) -> list[str]:
    """Return the files with content, by their paths in the folder."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.name not in NOTHING)


def damage(path: Path, how: str) -> None:
    path.write_bytes(DAMAGE[how](path.read_bytes()))


def numbers(folder: Path) -> dict[str, list[Any]]:
    """Return what a comparison reads of each of a sweep's trials; nothing for a trial that it cannot read."""
    results = results_of([folder])
    return {result.trial.id: [result.views[view].tolist() for view in result.views] for result in results}


def all_problems(folder: Path) -> str:
    """Return all messages when a sweep is read."""
    problems = [result.problem for result in results_of([folder])] + [
        str(why) for _, why in unfinished_trials(trials_of(folder))
    ]
    try:
        run_config(folder)
    except UserError as error:
        problems.append(str(error))
    return "\n".join(problems)


@pytest.mark.parametrize("how", DAMAGE)
def test_no_damaged_file_of_a_sweep_gives_a_wrong_number(
    copied: Callable[[], Path], sweep: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    right, folder = str(numbers(sweep)), copied()
    names = files_of(folder)
    assert {"trials.json", "experiment.yaml", "trials/000/trial.json", "trials/001/metrics.jsonl"} <= set(names)
    assert any("checkpoints" in name for name in names)
    for name in names:
        whole = (folder / name).read_bytes()
        damage(folder / name, how)
        caplog.clear()
        read = numbers(folder)
        assert all(str(values) in right for values in read.values() if values), name
        if "checkpoints" not in name:  # only resuming reads them
            assert Path(name).name in all_problems(folder) + caplog.text, (name, how)
        if name not in ("trials.json", "experiment.yaml") and "checkpoints" not in name:
            assert sum(bool(values) for values in read.values()) == 1, "the other trial is compared"
        (folder / name).write_bytes(whole)
    assert str(numbers(folder)) == right


@pytest.mark.parametrize("how", DAMAGE)
def test_resuming_repairs_every_file_of_a_trial(
    copied: Callable[[], Path], sweep: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    right = outcome(sweep / "trials" / "001")
    for name in files_of(sweep / "trials" / "001"):
        folder = copied() / "trials" / "001"
        damage(folder / name, how)
        if name.startswith("checkpoints"):  # they matter only to a stopped trial
            write_status(folder, "stopped", 2, None)
        caplog.clear()
        if name in ("trial.json", "config.yaml"):
            with pytest.raises(UserError, match=name):
                resume(folder)
            continue
        if not name.startswith("checkpoints"):
            assert Path(name).name in str(Trial(folder).damage())
        resume(folder)
        assert_same(outcome(folder), right)
        assert Trial(folder).damage() is None and Trial(folder).status().status == "done"
        if name.startswith("checkpoints/000002"):
            assert "000002 is passed over" in caplog.text


@pytest.mark.parametrize("how", DAMAGE)
def test_redundant_files_of_a_sweep_are_repaired(copied: Callable[[], Path], how: str) -> None:
    folder = copied()
    for name in ("trials.json", "trials/001/trial.json"):
        whole = (folder / name).read_bytes()
        damage(folder / name, how)
        with SweepLedger.open(folder) as ledger:
            for trial, why in unfinished_trials(ledger.trials()):
                assert name in str(why)
                mark_for_repair(trial, str(why))
        assert (folder / name).read_bytes() == whole


def test_a_stopped_trial_with_damaged_events_resumes_from_before_the_damage(
    copied: Callable[[], Path], sweep: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = copied() / "trials" / "001"
    write_status(folder, "stopped", 2, None)
    (folder / "summary.json").unlink()
    damage(folder / "metrics.jsonl", "the last byte but one")
    caplog.set_level(logging.WARNING)
    resume(folder)
    assert "metrics.jsonl" in caplog.text
    assert_same(outcome(folder), outcome(sweep / "trials" / "001"))


def test_the_report_names_unreadable_files(copied: Callable[[], Path]) -> None:
    folder = copied()
    damage(folder / "trials" / "001" / "config.yaml", "a bit in the middle")
    page = report([folder]).read_text()
    assert "seed 1</b>: unreadable: " in page and "config.yaml has changed since it was written" in page
    assert "1 of 2 finished" in page


def test_swapped_trial_folders_are_detected(copied: Callable[[], Path]) -> None:
    folder = copied()
    (folder / "trials" / "000").rename(folder / "x")
    (folder / "trials" / "001").rename(folder / "trials" / "000")
    (folder / "x").rename(folder / "trials" / "001")
    assert numbers(folder) == {"000": [], "001": []}
    assert all_problems(folder).count("trial.json is damaged: the sweep's trials.json names another trial") >= 2


def test_resuming_a_sweep_creates_the_missing_trial_folders(make_experiment: Make, quick_folder: Path) -> None:
    """Killed after its list was written; the first trial has a folder, the second only the lock."""
    config = from_dict(to_dict(make_experiment("pair")) | {"sweep": {"seeds": [0, 1, 2]}})
    planned = plan(config)
    folder = quick_folder / "integrity" / "unwritten"
    with SweepLedger.create(
        folder, yaml.safe_dump(to_dict(config), sort_keys=False), "test", [trial.identity for trial in planned]
    ) as ledger:
        first, second, third = ledger.trials()
        sweep_run.write_pending_trial(first.folder, planned[0])
        before = (first.folder / "trial.json").stat().st_ino
        second.folder.mkdir()
        (second.folder / ".lock").touch()
        sweep_run.write_missing_trials(config, folder)
        assert [trial.config()["seed"] for trial in ledger.trials()] == [0, 1, 2]
        assert (first.folder / "trial.json").stat().st_ino == before
        assert [Trial(trial.folder).identity["id"] for trial in (first, second, third)] == [
            trial.id for trial in ledger.trials()
        ]
