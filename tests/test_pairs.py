"""Every pair of strategies is refused before the start, or both take effect; pairs.yaml lists the refused ones."""

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from retain.platform import seeding
from retain.platform.config import registry
from retain.platform.config.schema import Experiment
from retain.platform.contract.outcome import Outcome, same
from retain.platform.contract.trials import Trials
from retain.platform.errors import UserError
from retain.platform.ledger.documents import VIEWS
from retain.platform.trial.builder import build_trial
from retain.platform.trial.checks import check_combination, conflict
from retain.platform.trial.resolve import resolve_experiment

Make = Callable[..., Experiment]
Pair = tuple[str, str]
NAMES = registry.names("strategies")
LISTED: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "pairs.yaml").read_text())
REFUSED = {(first, second) for first, others in LISTED["refused"].items() for second in others}


def by_pair(section: str) -> dict[Pair, Any]:
    """Return a section of pairs.yaml by pair."""
    return {(names[0], names[1]): value for key, value in LISTED[section].items() if (names := key.split(", "))}


REFUSED_WHEN_BUILT, NO_EFFECT, STREAM = by_pair("refused_when_built"), by_pair("no_effect"), by_pair("streams")
RUN = [pair for pair in combinations(NAMES, 2) if pair not in REFUSED and pair not in REFUSED_WHEN_BUILT]


def sampled() -> list[Any]:
    """Return the pairs that run; all are slow except one for each strategy, and every fourth of NO_EFFECT."""
    order = sorted(NAMES, key=lambda name: seeding.derive(2, name))
    quick = {tuple(sorted((name, order[(place + 1) % len(order)]))) for place, name in enumerate(order)}
    quick |= set(sorted(NO_EFFECT)[::4])
    marks: Callable[[Pair], Any] = lambda pair: () if pair in quick else (pytest.mark.slow,)  # noqa: E731
    return [pytest.param(*pair, marks=marks(pair)) for pair in RUN]


def settings_of(*names: str) -> dict[str, Any]:
    """Return the strategies with settings with which they act within a few epochs."""
    return {name: LISTED["settings"].get(name, {}) for name in names}


@pytest.fixture(scope="module")
def runs(quick_folder: Path) -> Trials:
    folder = quick_folder / "pairs"
    folder.mkdir()
    return Trials(folder)


def test_exactly_the_listed_pairs_are_refused(make_experiment: Make) -> None:
    parts = {name: resolve_experiment(make_experiment("pair", {name: {}})).strategies[0] for name in NAMES}
    refused = {pair for pair in combinations(NAMES, 2) if conflict(parts[pair[0]], parts[pair[1]])}
    assert refused == REFUSED
    for first, second in combinations(NAMES, 2):
        assert bool(conflict(parts[second], parts[first])) == ((first, second) in REFUSED)


@pytest.mark.parametrize("pair", sorted(REFUSED)[::12])
def test_a_refusal_names_both_and_the_reason(pair: Pair, make_experiment: Make) -> None:
    for first, second in (pair, pair[::-1]):
        with pytest.raises(UserError, match=f"^strategies: {first} and {second} cannot run together: .{{15,}}"):
            check_combination(resolve_experiment(make_experiment("pair", {first: {}, second: {}})))


@pytest.mark.parametrize("pair", REFUSED_WHEN_BUILT)
def test_a_pair_without_what_one_needs_is_refused_when_it_is_built(pair: Pair, make_experiment: Make) -> None:
    for first, second in (pair, pair[::-1]):
        with pytest.raises(UserError, match=REFUSED_WHEN_BUILT[pair]):
            build_trial(resolve_experiment(make_experiment("pair", {first: {}, second: {}})), planning=True)


def test_pairs_are_listed_once_and_in_order() -> None:
    assert all(first < second for first, second in [*REFUSED, *REFUSED_WHEN_BUILT, *NO_EFFECT, *STREAM])
    assert not REFUSED & {*REFUSED_WHEN_BUILT, *NO_EFFECT, *STREAM}
    assert all(set(reasons) < set(pair) for pair, reasons in NO_EFFECT.items())


def differ(one: Outcome, other: Outcome) -> bool:
    """Return whether weights or predictions differ."""
    if not same(one.weights, other.weights):
        return True
    return any(not np.array_equal(one.matrices[v], other.matrices[v], equal_nan=True) for v in VIEWS)


@pytest.mark.parametrize(("first", "second"), sampled())
def test_both_strategies_of_a_pair_take_effect(first: str, second: str, runs: Trials, make_experiment: Make) -> None:
    """Without either of them the network or its predictions are others; if one has no effect, pairs.yaml says why."""
    pair = (first, second)
    training = {"epochs": 6, "optimizer": {"lr": 0.2}}
    config = make_experiment(STREAM.get(pair, "pair"), settings_of(*pair), **training)
    together = runs(config)
    for name, other in (pair, pair[::-1]):
        without = runs(replace(config, strategies=settings_of(other)))
        assert differ(together, without) == (name not in NO_EFFECT.get(pair, {})), name
