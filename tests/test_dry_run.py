"""A dry run: it ends at its limit of time whatever a config does, refuses what a sweep refuses, and estimates the cost."""

import time
from pathlib import Path

import pytest

from retain import load_config
from retain.platform.cli.tables import duration_range, estimate_lines
from retain.platform.config.schema import Experiment
from retain.platform.errors import UserError
from retain.platform.sweep.estimate import LIMIT, DryRun, dry_run
from retain.platform.sweep.plan import plan

LONG = 1000.0  # seconds that no test needs
BENCHMARK = '''
import time
from dataclasses import dataclass

@dataclass(frozen=True)
class Config:
    """A benchmark whose data take an hour to prepare."""

def build(config, seed, folders, name="slow"):
    time.sleep(3600)
'''
STRATEGY = '''
import time
from dataclasses import dataclass
from retain import Plugin

@dataclass(frozen=True)
class Config:
    """A strategy that takes `seconds` in each iteration."""
    seconds: float = 0.0

class Waits(Plugin):
    def state_dict(self):
        return {}
    def before_forward(self, learner, **kwargs):
        time.sleep(self.config.seconds)

def build(config, seed):
    waits = Waits()
    waits.config = config
    return waits
'''


@pytest.fixture
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with the user's modules, on the module search path."""
    (tmp_path / "slow_modules").mkdir()
    for name, text in (("benchmark", BENCHMARK), ("strategy", STRATEGY)):
        (tmp_path / "slow_modules" / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def config(*overrides: str) -> Experiment:
    """Return two trials of one epoch: naive and another seed."""
    quick = ("training.epochs=1", "benchmark.split_digits.num_experiences=2", "model.mlp.hidden=[8]")
    return load_config(
        "quickstart", [*quick, "sweep.streams={}", "sweep.variants={}", "sweep.seeds=[0, 1]", *overrides]
    )


def run(experiment: Experiment, seconds: float) -> DryRun:
    """Run it with so much time left."""
    return dry_run(experiment, plan(experiment), time.monotonic() - LIMIT + seconds)


@pytest.mark.parametrize(
    "override",
    [
        pytest.param("benchmark={slow_modules.benchmark: {}}", id="data"),
        pytest.param("strategies={slow_modules.strategy: {seconds: 3600}}", id="training"),
    ],
)
def test_it_ends_at_its_limit_whatever_a_config_does(users: Path, override: str) -> None:
    """Without the limit it would take an hour."""
    result = run(config(override), 1.5)
    assert result.estimate is None and not result.problems


def test_data_that_take_too_long_leave_the_trials_unchecked(users: Path) -> None:
    result = run(config("benchmark={slow_modules.benchmark: {}}"), 1.5)
    assert not result.checked
    assert "retain prepare" in estimate_lines(result, 2, "runs")[0]


def test_it_refuses_what_a_sweep_refuses() -> None:
    with pytest.raises(UserError, match=r"\(split_digits, quickstart\): .*freezing.layers"):
        run(config("strategies={freezing: {layers: nothing}}"), LONG)


def test_every_kind_of_trial_is_measured_with_its_strategies(users: Path) -> None:
    """Seeds and learning rates make no kinds. A waiting trial has 46 iterations; one trial runs at a time."""
    waits, fast = "{strategies: {slow_modules.strategy: {seconds: 0.1}}}", "{training: {optimizer: {lr: 0.1}}}"
    overrides = (f"sweep.variants={{naive: {{}}, waits: {waits}, fast: {fast}}}", "ray.max_concurrent=1")
    result = run(config(*overrides), LONG)
    assert result.checked and result.estimate is not None
    assert (result.estimate.num_measured, result.estimate.num_kinds) == (2, 2)
    waiting = 2 * 46 * 0.1
    assert 0.75 * waiting < result.estimate.low < result.estimate.high
    assert result.estimate.disk > 6 * 2 * (64 * 8 + 8 * 10) * 4


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (8.9, 61.2, "8 to 62 s"),
        (130, 1500, "2 to 25 min"),
        (3599, 7201, "0.9 to 2.1 h"),
        (7000, 30000, "1.9 to 8.4 h"),
        (90000, 200000, "25 to 56 h"),
        (200000, 300000, "55 to 84 h"),
        (200000, 600000, "2.3 to 7 days"),
        (2.0, 2.0, "2 s"),
    ],
)
def test_a_range_of_durations_is_rounded_outwards(low: float, high: float, text: str) -> None:
    assert duration_range(low, high) == text
