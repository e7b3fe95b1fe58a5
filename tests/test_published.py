"""Configs with published figures: the section in the file, our stored results, the page; what they need of the platform."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import published
import pytest
import torch

from retain.platform.config.load import from_dict
from retain.platform.config.schema import Published
from retain.platform.errors import UserError
from retain.platform.ledger.reader import trials_of
from retain.platform.ledger.writer import SweepLedger, TrialLedger
from retain.platform.models.heads import initialise
from retain.platform.sweep.plan import plan
from retain.platform.trial.builder import build_trial
from retain.platform.trial.resolve import resolve_experiment

NAMES = published.names()
FILE = {
    "name": "test",
    "benchmark": {"split_digits": {}},
    "model": {"mlp": {"hidden": [8]}},
    "training": {"epochs": 1},
    "wandb": {"mode": "disabled"},
    "sweep": {"seeds": [0, 1, 2, 3, 4], "variants": {"none": {}, "er": {"strategies": {"replay": {"memory": 20}}}}},
    "published": {"source": "somewhere", "note": "a note", "figures": {"none": [0.2, 0.01]}},
}


# The files.


@pytest.mark.parametrize("name", NAMES)
def test_configs_are_whole(name: str) -> None:
    """Figures belong to variants and have a source; at least five seeds, and settings that the strategies accept."""
    config = published.Config.load(name)
    assert config.experiment.name == name
    assert len(config.experiment.sweep.seeds) >= 5
    assert config.published.figures
    assert len(config.published.source) > 20
    trials = plan(config.experiment)
    assert {trial.identity["variant"] for trial in trials} == set(config.digests)
    assert all(trial.config.published is None for trial in trials)
    for trial in trials:
        validation = next(iter(trial.config.benchmark.values()))["validation"]
        assert validation == 0, "the sources train on all samples"


def test_the_page_is_up_to_date() -> None:
    """docs/published.md shows what docs/published.json holds (`python tests/published.py --table`)."""
    assert published.PAGE.read_text().partition(published.MARK)[2] == "\n" + published.page(published.load_results())


def test_results_belong_to_known_variants() -> None:
    for name, results in published.load_results().items():
        config = published.Config.load(name)
        for variant, entry in results.items():
            assert variant in config.digests, f"{name}: {variant}"
            for accuracy, seconds in entry["seeds"].values():
                assert 0 <= accuracy <= 1 < seconds


@pytest.mark.parametrize(
    ("published_section", "message"),
    [
        ({"figures": {"none": [1.2, 0.01]}}, r"^published.figures.none=\[1.2, 0.01\]: must be a value in \[0, 1\]"),
        (
            {"figures": {"none": [0.2, 0.0]}},
            r"^published.figures.none=\[0.2, 0.0\]: must be .* and a tolerance above 0",
        ),
        ({"figures": {"nobody": [0.2, 0.1]}}, r"^published.figures.nobody: is no variant of the sweep"),
        ({"figures": {"none": [0.2]}}, r"^published.figures.none=\[0.2\]: must be a list of 2 values"),
        ({"figure": {}}, r"^published.figure: unknown key. Did you mean 'figures'"),
    ],
)
def test_wrong_sections_are_refused(published_section: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_dict(FILE | {"published": {"source": "s", "figures": {}} | published_section})


def test_a_variant_cannot_change_the_section() -> None:
    changed = FILE | {"sweep": {"variants": {"none": {"published": {"source": "s", "figures": {}}}}}}
    with pytest.raises(UserError, match=r"^sweep.variants.none.published: belongs to the whole sweep"):
        plan(from_dict(changed))


# Our results, stored and shown.


@pytest.fixture
def config() -> published.Config:
    experiment = from_dict(FILE)
    assert experiment.published is not None
    return published.Config("test", experiment, experiment.published, {"none": "aaa", "er": "bbb"})


def identity(variant: str, seed: int) -> dict[str, Any]:
    """Return a trial's identity in its sweep."""
    return {"id": f"{variant}-{seed}", "variant": variant, "stream": "s", "seed": seed, "overrides": {}}


def finish(folder: Path, trial: dict[str, Any], last_row: list[float]) -> None:
    """Write a completed trial to a sweep's folder."""
    with TrialLedger.create(folder / "trials" / trial["id"], "schema: 1\n", trial) as ledger:
        ledger.write("matrix", {"task_agnostic": [[0.5, 0.5], [0.4, 0.4], last_row]})
        ledger.write("summary", {"seconds": 3.0})
        ledger.status("done", experience=2)


def test_trials_are_harvested_once_and_by_settings(config: published.Config, tmp_path: Path) -> None:
    """The mean of the last row, of completed trials with the file's present settings; earlier results are kept."""
    folder = tmp_path / "test" / "one"
    trials = [identity("none", 1), identity("er", 0), identity("none", 2)]
    SweepLedger.create(folder, "schema: 1\n", "test", trials).close()
    finish(folder, trials[0], [0.1, 0.3])
    finish(folder, trials[1], [0.8, 0.9])
    folder.with_suffix(".json").write_text(json.dumps({"none": "aaa", "er": "an older setting"}))
    known = {
        "none": {"settings": "aaa", "seeds": {"0": [0.25, 1.5]}},
        "er": {"settings": "old", "seeds": {"0": [1, 2]}},
    }
    harvested = published.harvest(config, known, tmp_path)
    assert harvested == {"none": {"settings": "aaa", "seeds": {"0": [0.25, 1.5], "1": [0.2, 3.0]}}}
    assert config.missing(harvested) == {(2, 3, 4): ["none"], (0, 1, 2, 3, 4): ["er"]}
    assert published.harvest(config, harvested, tmp_path) == harvested


def test_lines(config: published.Config) -> None:
    """Mean and 95 % interval of t with n - 1 degrees of freedom, the difference, whether it is within the tolerance."""
    assert published.line(config, "none", {})[1:4] == ["20.0", "not run yet", "0 of 5"]
    assert published.line(config, "none", {"0": [0.205, 2.0]}) == [
        *("none", "20.0", "20.5", "1 of 5", "+0.5", "yes (± 1.0)", "2")
    ]
    three = {"0": [0.22, 2.0], "1": [0.24, 2.0], "2": [0.26, 5.0]}  # t = 4.303, sd = 0.02
    half = 4.303 * 0.02 / math.sqrt(3)
    assert published.line(config, "none", three) == [
        *("none", "20.0", f"24.0 ± {100 * half:.1f}", "3 of 5", "+4.0", "**no** (± 1.0)", "3")
    ]
    assert published.line(config, "er", three)[:5] == ["er", "-", f"24.0 ± {100 * half:.1f}", "3 of 5", ""]


@pytest.mark.slow
def test_missing_seeds_are_run(config: published.Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On real Ray: only missing seeds of the variants that lack them run; the second time none."""
    for name, path in (("RUNS", "runs"), ("RESULTS", "published.json"), ("PAGE", "published.md")):
        monkeypatch.setattr(published, name, tmp_path / path)
    monkeypatch.setattr(published.Config, "load", lambda name: config)
    monkeypatch.setattr(published, "names", lambda: ["test"])
    (tmp_path / "published.md").write_text("# Title\n\n" + published.MARK)
    known = {str(seed): [0.9, 2.0] for seed in range(4)}
    results: dict[str, Any] = {
        "test": {"er": {"settings": "bbb", "seeds": known}, "none": {"settings": "aaa", "seeds": dict(known)}}
    }
    published.run(config, results, 1)
    assert published.load_results() == results
    assert config.missing(results["test"]) == {}
    for entry in results["test"].values():
        assert {seed: entry["seeds"][seed] for seed in known} == known
        assert 0.1 < entry["seeds"]["4"][0] < 0.9
    assert (tmp_path / "published.md").read_text() == "# Title\n\n" + published.MARK + "\n" + published.page(results)
    (folder,) = tmp_path.glob("runs/test/*.json")
    assert [trial.seed for trial in trials_of(folder.with_suffix(""))] == [4, 4]
    published.run(config, results, 1)
    assert len(list(tmp_path.glob("runs/test/*.json"))) == 1


# What they needed of the platform.


def test_a_full_head_has_all_outputs_from_the_start() -> None:
    experiment = {key: FILE[key] for key in ("name", "benchmark", "model")}
    assert build_trial(resolve_experiment(from_dict(experiment))).network().head.num_classes == 2
    full = build_trial(resolve_experiment(from_dict(experiment | {"training": {"full_head": True}})))
    assert full.network().head.num_classes == 10
    learner = full.learner(lambda learner: None, lambda text: None)
    assert not any(math.isnan(value) for value in learner.evaluate().task_agnostic)
    before = learner.model.head.bias.detach().clone()
    learner.train_experience(0)
    assert learner.model.head.num_classes == 10
    assert (learner.model.head.bias[2:] < before[2:]).all(), "the loss is over all outputs: absent classes sink"


def test_torchs_initialisation() -> None:
    """The same values as torch's layers sample, from our generator; the global one is not used."""

    def layers() -> torch.nn.Sequential:
        return torch.nn.Sequential(
            torch.nn.Linear(400, 300), torch.nn.Conv2d(16, 32, 3), torch.nn.Linear(10, 5, bias=False)
        )

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        theirs = layers()
    ours = layers()
    state = torch.get_rng_state()
    initialise(ours, "torch", torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), state)
    for parameter, known in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(parameter, known)


def test_the_section_is_plain_data() -> None:
    section = Published(source="s", figures={"none": (0.2, 0.01)})
    assert json.loads(json.dumps(asdict(section))) == {"source": "s", "figures": {"none": [0.2, 0.01]}, "note": ""}
