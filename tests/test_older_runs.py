"""Runs of older versions (tests/runs) are read, reported, resumed; renamed keys are refused in users' files."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from retain import load_config, report, resume, run
from retain.platform.config.load import from_dict
from retain.platform.config.renamed import RENAMED, translate
from retain.platform.errors import UserError
from retain.platform.ledger.documents import VIEWS
from retain.platform.ledger.reader import Trial, run_config, trials_of
from retain.platform.reporting.results import results_of
from retain.platform.sweep.plan import plan

RUNS = Path(__file__).parent / "runs"
VERSIONS = ("before_renames", "present")  # that wrote a stopped trial, and the same one uninterrupted
SWEEPS = sorted(path.relative_to(RUNS).as_posix() for path in RUNS.glob("*/sweep"))
OLD_NAMES = ("drawn", "budget", "old_validation", "timeout")
Copy = Callable[[str], Path]


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    """A copy of a run that may be written to."""

    def make(name: str) -> Path:
        return Path(shutil.copytree(RUNS / name, tmp_path / name))

    return make


def keys(data: Any) -> set[str]:
    """All keys of nested mappings, dotted ones in parts."""
    if not isinstance(data, dict):
        return set()
    return {part for key in data for part in str(key).split(".")}.union(*map(keys, data.values()))


def matrices(folder: Path) -> dict[str, Any]:
    data = json.loads((folder / "matrix.json").read_text())
    return {view: np.array(data[view], dtype=float) for view in VIEWS}


def test_there_are_runs_of_each_format() -> None:
    assert {path.split("/")[0] for path in SWEEPS} >= {"schema_1", "before_renames"}


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_is_read_and_reported(name: str, copy: Copy) -> None:
    folder = copy(name)
    assert [trial.damage() for trial in trials_of(folder)] == [None] * 4
    results = results_of([folder])
    assert len(results) == 4
    for result, trial in zip(results, trials_of(folder), strict=True):
        assert result.problem == ""
        for view, matrix in matrices(trial.folder).items():
            np.testing.assert_array_equal(result.views[view], matrix)
    page = report([folder]).read_text()
    assert all(f"seed{trial.seed}" in page and trial.variant in page for trial in trials_of(folder))


@pytest.mark.parametrize("name", SWEEPS)
def test_a_config_has_todays_keys(name: str) -> None:
    """Plans and trials of an old sweep are ones of today."""
    folder = RUNS / name
    experiment = from_dict(run_config(folder))
    assert [planned.identity["seed"] for planned in plan(experiment)] == [trial.seed for trial in trials_of(folder)]
    for trial in trials_of(folder):
        config = from_dict(trial.config())
        assert not keys({"strategies": dict(config.strategies), "benchmark": dict(config.benchmark)}) & set(OLD_NAMES)


def test_the_old_names_stand_in_the_files() -> None:
    raw = yaml.safe_load((RUNS / "before_renames/sweep/experiment.yaml").read_text())
    assert set(OLD_NAMES) <= keys(raw)
    assert not set(OLD_NAMES[:3]) & (keys(translate(raw)) - set(raw["sweep"]["variants"]))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_finished_trial_is_read_and_reported(version: str, copy: Copy) -> None:
    folder = copy(f"{version}/whole")
    (result,) = results_of([folder])
    assert result.problem == "" and result.config["model"] == {"mlp": result.config["model"]["mlp"]}
    for view, matrix in matrices(folder).items():
        np.testing.assert_array_equal(result.views[view], matrix)
    assert "rotated_digits" in report([folder]).read_text()


@pytest.mark.parametrize("how", ["resume", "run"])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_stopped_trial_is_resumed_to_the_bit(version: str, how: str, copy: Copy) -> None:
    """From a checkpoint in the middle of its second experience, by `retain resume` and by `run` with today's config."""
    folder = copy(f"{version}/stopped")
    files = {name: (folder / name).read_bytes() for name in ("config.yaml", "trial.json")}
    assert Trial(folder).status().status == "stopped"
    if how == "resume":
        resume(folder)
    else:
        run(from_dict(Trial(folder).config()), folder)
    assert Trial(folder).status().status == "done"
    assert {name: (folder / name).read_bytes() for name in files} == files
    whole = RUNS / version / "whole"
    exact = json.loads((whole / "environment.json").read_text())["processor"] and _same_kind(folder, whole)
    for view, matrix in matrices(whole).items():
        np.testing.assert_allclose(matrices(folder)[view], matrix, rtol=0, atol=0 if exact else 0.02)


def _same_kind(*folders: Path) -> bool:
    """Whether runs were made with the same packages on the same kind of machine: bits are promised there only."""
    environments = [json.loads((folder / "environment.json").read_text()) for folder in folders]
    return len({json.dumps([e["packages"], e["processor"], e["threads"]], sort_keys=True) for e in environments}) == 1


def test_another_config_is_no_resume(copy: Copy) -> None:
    folder = copy("before_renames/stopped")
    data = Trial(folder).config()
    data["training"]["optimizer"]["lr"] = 0.01
    with pytest.raises(UserError, match="is occupied"):
        run(from_dict(data), folder)


def test_a_pending_trial_of_an_old_sweep_is_written_as_it_was_listed(copy: Copy) -> None:
    """The driver was killed before it had written the folder: it is planned anew from the old experiment."""
    from retain.platform.sweep.run import write_missing_trials

    folder = copy("before_renames/sweep")
    trial = trials_of(folder)[2]
    identity, config = dict(trial.identity), from_dict(trial.config())
    shutil.rmtree(trial.folder)
    write_missing_trials(from_dict(run_config(folder)), folder)
    (written,) = [t for t in trials_of(folder) if t.id == trial.id]
    assert written.damage() is None and from_dict(written.config()) == config
    assert Trial(written.folder).identity == {key: value for key, value in identity.items() if key != "folder"}


@pytest.mark.parametrize(
    ("override", "new"),
    [
        ("ray.timeout=5m", "ray.hang_timeout"),
        ("strategies.budget.accuracy=0.5", "strategies.stop_at_budget"),
        ("strategies.old_validation={}", "strategies.forgetting_stop"),
        ("benchmark={rotated_digits: {drawn: 3}}", "benchmark.rotated_digits.num_random_angles"),
        ("benchmark={rotated: {data: digits, drawn: 3}}", "benchmark.rotated.num_random_angles"),
        ("model={small_cnn: {batch_norm: true}}", "model.small_cnn.norm"),
        (
            "probes={evaluate_on: {streams: [{permuted_digits: {}}, {rotated_digits: {drawn: 3}}]}}",
            r"streams\[1\].rotated_digits.num_random_angles",
        ),
        ("sweep.variants={old: {strategies: {budget: {}}}}", "strategies.stop_at_budget"),
        ("sweep.space={strategies.budget.accuracy: {grid: [0.5]}}", "strategies.stop_at_budget"),
    ],
)
def test_a_renamed_key_is_refused_with_its_new_name(override: str, new: str) -> None:
    with pytest.raises(UserError, match=rf"It was renamed to {new}\."):
        plan(load_config("quickstart", [override, "sweep.streams={}"]))


def test_translation_keeps_the_order_and_everything_else() -> None:
    old = {
        "strategies": {"replay": {"memory": 3}, "budget": {"accuracy": 0.5}, "mine.budget": {"drawn": 1}},
        "benchmark": {"rotated_mnist": {"drawn": 3, "validation": 0.1}},
        "ray": {"timeout": "5m", "address": None},
        "model": {"small_cnn": {"batch_norm": True, "hidden": 8}},
        "probes": {"evaluate_on": {"streams": [{"rotated_digits": {"drawn": None}}, {"permuted_digits": {}}]}},
        "sweep": {
            "variants": {"budget": {"strategies": {"old_validation": {}}}},
            "streams": {"drawn": {"benchmark": {"rotated": {"drawn": 2}}}},
            "space": {
                "strategies.budget.accuracy": {"grid": [0.5]},
                "benchmark.rotated.drawn": {"grid": [2]},
                "strategies": {"choice": [{"budget": {}}, {"ewc": {}}]},
            },
            "samples": 1,
        },
    }
    new = translate(old)
    assert list(new["strategies"]) == ["replay", "stop_at_budget", "mine.budget"]
    assert new["strategies"]["mine.budget"] == {"drawn": 1}
    assert new["benchmark"] == {"rotated_mnist": {"num_random_angles": 3, "validation": 0.1}}
    assert new["model"] == {"small_cnn": {"norm": "batch", "hidden": 8}}
    assert translate({"model": {"small_cnn": {"batch_norm": False}}}) == {"model": {"small_cnn": {"norm": None}}}
    assert new["probes"]["evaluate_on"]["streams"] == [
        {"rotated_digits": {"num_random_angles": None}},
        {"permuted_digits": {}},
    ]
    assert new["ray"] == {"hang_timeout": "5m", "address": None}
    assert new["sweep"] == {
        "variants": {"budget": {"strategies": {"forgetting_stop": {}}}},
        "streams": {"drawn": {"benchmark": {"rotated": {"num_random_angles": 2}}}},
        "space": {
            "strategies.stop_at_budget.accuracy": {"grid": [0.5]},
            "benchmark.rotated.num_random_angles": {"grid": [2]},
            "strategies": {"choice": [{"stop_at_budget": {}}, {"ewc": {}}]},
        },
        "samples": 1,
    }
    assert translate(new) == new and set(RENAMED.values()) >= {"hang_timeout"}
