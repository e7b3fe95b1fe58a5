"""Every file of a run's folder, damaged in every way: it is told by its name, no number is wrong, and resuming repairs it."""

import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from bits import assert_same, outcome

from retain.platform.config.load import from_dict, to_dict
from retain.platform.config.schema import Experiment
from retain.platform.errors import UserError
from retain.platform.ledger.reader import Trial, run_config, trials_of, unfinished_trials
from retain.platform.ledger.writer import SweepLedger, TrialLedger, mark_for_repair, write_status
from retain.platform.reporting.html_report import report
from retain.platform.reporting.results import results_of
from retain.platform.sweep import run as sweep_run
from retain.platform.sweep.plan import plan
from retain.platform.sweep.run import resume
from retain.platform.trial.run import run as run_trial

NOTHING = {".lock", "trial.log", "report.html"}  # they say nothing that anybody reads back
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
    """A sweep of two trials, both done; its first one stays as it is."""
    base = make_experiment("pair", {"replay": {"memory": 20}})
    config = from_dict(to_dict(base) | {"wandb": {"mode": "disabled"}})
    folder = quick_folder / "integrity" / "sweep"
    names = [{"id": f"00{seed}", "variant": "v", "stream": "s", "seed": seed, "overrides": {}} for seed in (0, 1)]
    text = yaml.safe_dump(to_dict(config), sort_keys=False)
    with SweepLedger.create(folder, text, "test", names) as ledger:
        for one in ledger.trials():
            own = replace(config, seed=one.seed)
            TrialLedger.create(one.folder, yaml.safe_dump(to_dict(own), sort_keys=False), one.identity).close()
            run_trial(own, one.folder, identity=one.identity)
    return folder


@pytest.fixture
def copied(sweep: Path, quick_folder: Path) -> Iterator[Callable[[], Path]]:
    """Makes fresh copies of the sweep."""
    place = quick_folder / "integrity" / "copy"

    def copy() -> Path:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(sweep, place)
        return place

    yield copy
    shutil.rmtree(place, ignore_errors=True)


def files_of(folder: Path) -> list[str]:
    """The files that hold something, by their paths in the folder."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.name not in NOTHING)


def damage(path: Path, how: str) -> None:
    path.write_bytes(DAMAGE[how](path.read_bytes()))


def numbers(folder: Path) -> dict[str, list[Any]]:
    """What a comparison takes from each of a sweep's trials; nothing for one that it cannot read."""
    found = results_of([folder])
    return {one.trial.id: [one.views[view].tolist() for view in one.views] for one in found}


def told(folder: Path) -> str:
    """All that is said when a sweep is looked at."""
    problems = [one.problem for one in results_of([folder])] + [
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
        found = numbers(folder)
        assert all(str(values) in right for values in found.values() if values), name
        if "checkpoints" not in name:  # read by nobody but who goes on from them
            assert Path(name).name in told(folder) + caplog.text, (name, how)
        if name not in ("trials.json", "experiment.yaml") and "checkpoints" not in name:
            assert sum(bool(values) for values in found.values()) == 1, "the other trial is compared"
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
        if name.startswith("checkpoints"):  # they matter to a trial that was stopped
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
def test_what_a_sweep_knows_twice_is_repaired(copied: Callable[[], Path], how: str) -> None:
    folder = copied()
    for name in ("trials.json", "trials/001/trial.json"):
        whole = (folder / name).read_bytes()
        damage(folder / name, how)
        with SweepLedger.open(folder) as ledger:
            for one, why in unfinished_trials(ledger.trials()):
                assert name in str(why)
                mark_for_repair(one, str(why))
        assert (folder / name).read_bytes() == whole


def test_a_stopped_trial_with_damaged_events_starts_from_before_the_damage(
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


def test_the_report_names_what_is_unreadable(copied: Callable[[], Path]) -> None:
    folder = copied()
    damage(folder / "trials" / "001" / "config.yaml", "a bit in the middle")
    page = report([folder]).read_text()
    assert "seed 1</b>: unreadable: " in page and "config.yaml has changed since it was written" in page
    assert "1 of 2 finished" in page


def test_folders_that_were_swapped_are_not_taken_for_one_another(copied: Callable[[], Path]) -> None:
    folder = copied()
    (folder / "trials" / "000").rename(folder / "x")
    (folder / "trials" / "001").rename(folder / "trials" / "000")
    (folder / "x").rename(folder / "trials" / "001")
    assert numbers(folder) == {"000": [], "001": []}
    assert told(folder).count("trial.json is damaged: the sweep's trials.json names another trial") >= 2


def test_a_sweep_that_was_killed_before_its_trials_had_folders_gets_them(
    make_experiment: Make, quick_folder: Path
) -> None:
    """Killed after its list was written; the first trial has a folder, of the second there is only the lock."""
    config = from_dict(to_dict(make_experiment("pair")) | {"sweep": {"seeds": [0, 1, 2]}})
    planned = plan(config)
    folder = quick_folder / "integrity" / "unwritten"
    with SweepLedger.create(
        folder, yaml.safe_dump(to_dict(config), sort_keys=False), "test", [one.identity for one in planned]
    ) as ledger:
        first, second, third = ledger.trials()
        sweep_run._write_pending(first.folder, planned[0])
        before = (first.folder / "trial.json").stat().st_ino
        second.folder.mkdir()
        (second.folder / ".lock").touch()
        sweep_run._write_missing(config, folder)
        assert [one.config()["seed"] for one in ledger.trials()] == [0, 1, 2]
        assert (first.folder / "trial.json").stat().st_ino == before
        assert [Trial(one.folder).identity["id"] for one in (first, second, third)] == [
            one.id for one in ledger.trials()
        ]
