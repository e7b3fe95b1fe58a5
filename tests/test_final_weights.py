"""Strategies that restore or average weights: the network is the one that the ledger names, and others see that one."""

import copy
import re
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import pytest
import torch
from torch import Tensor

from retain.platform.config.load import from_dict
from retain.platform.errors import UserError
from retain.platform.training.learner import Learner
from retain.platform.trial.builder import build_trial
from retain.platform.trial.resolve import resolve_experiment

Weights = dict[str, Tensor]
CNN = {"small_cnn": {"channels": [4], "hidden": 8, "norm": "batch"}}
MLP = {"mlp": {"hidden": [8]}}
EARLY: dict[str, Any] = {"early_stopping": {"patience": 1}}
FORGETTING: dict[str, Any] = {"forgetting_stop": {"tolerance": 0.2, "every": 2}}
SWA: dict[str, Any] = {"swa": {}}


@dataclass
class Seen:
    """What one experience left: weights by epoch and by iteration (of the experience, from 0), notes, the final weights."""

    epochs: dict[int, Weights] = field(default_factory=dict)
    iterations: dict[int, Weights] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    final: Weights = field(default_factory=dict)
    logits: Tensor = field(default_factory=lambda: torch.empty(0))


def train(strategies: dict[str, Any], model: Any = None, **training: Any) -> list[Seen]:
    """Train two experiences of digits and return what was seen of each."""
    seen = [Seen(), Seen()]

    def weights(learner: Learner) -> Weights:
        return copy.deepcopy(learner.model.state_dict())

    def on_epoch(learner: Learner) -> None:
        seen[number].epochs[learner.clock.train_exp_epochs] = weights(learner)
        seen[number].iterations[learner.clock.train_exp_iterations] = weights(learner)

    def on_iteration(learner: Learner) -> None:
        seen[number].iterations[learner.clock.train_exp_iterations] = weights(learner)

    config = {
        "name": "weights",
        "benchmark": {"split_digits": {"num_experiences": 2, "validation": 0.2}},
        "model": model or MLP,
        "strategies": strategies,
        "training": {"epochs": 4, "batch_size": 64, "optimizer": {"lr": 0.2}} | training,
    }
    builder = build_trial(resolve_experiment(from_dict(config)))
    number = 0
    learner = builder.learner(on_epoch, lambda text: seen[number].notes.append(text), on_iteration)
    for number in range(2):
        torch.manual_seed(number)
        learner.train_experience(number)
        seen[number].final, seen[number].logits = weights(learner), learner.logits()
    return seen


def same(one: Weights, other: Weights) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "settings", [{"patience": 1}, {"patience": 2, "metric": "loss"}, {"patience": 1, "min_delta": 2.0}]
)
def test_early_stopping_leaves_the_epoch_that_the_ledger_names(settings: dict[str, Any]) -> None:
    for each in train({"early_stopping": settings}):
        (note,) = each.notes
        trained, of, kept = map(
            int, re.findall(r"trained (\d+) of (\d+) epochs, kept the weights of epoch (\d+)", note)[0]
        )
        assert (trained, of) == (max(each.epochs), 4)
        assert same(each.final, each.epochs[kept])


@pytest.mark.parametrize("every", [None, 1, 3])
@pytest.mark.parametrize("tolerance", [0.0, 0.3])
def test_forgetting_stop_leaves_the_iteration_that_the_ledger_names(tolerance: float, every: int | None) -> None:
    first, second = train({"forgetting_stop": {"tolerance": tolerance, "every": every}})
    assert first.notes == [] and same(first.final, first.epochs[4])
    (note,) = second.notes
    stopped, kept = map(int, re.findall(r"by iteration (\d+); restored the weights of iteration (\d+)", note)[0])
    assert stopped == max(second.iterations) and kept < stopped
    assert same(second.final, second.iterations[kept])


def test_swa_leaves_the_mean_of_the_epochs_that_the_ledger_names() -> None:
    for each in train(SWA):
        first, last = map(int, re.findall(r"the mean of those after epochs (\d+) to (\d+) of 4", each.notes[0])[0])
        assert (first, last) == (3, 4)
        for name, tensor in each.final.items():
            torch.testing.assert_close(tensor, (each.epochs[3][name] + each.epochs[4][name]) / 2)


@pytest.mark.parametrize(
    ("settings", "stops"),
    [({"accuracy": 0.1}, True), ({"accuracy": 1.0}, False), ({"accuracy": None, "loss": -1e9}, False)],
)
def test_a_stop_is_noted_where_it_shortens_the_training(settings: dict[str, Any], stops: bool) -> None:
    for each in train({"stop_at_budget": settings}):
        assert bool(each.notes) == (max(each.epochs) < 4) == stops


def test_a_budget_that_ends_with_the_last_epoch_stops_nothing() -> None:
    loose = train({"stop_at_budget": {"accuracy": 0.01}}, epochs=2)
    assert all(
        each.notes == ["stop_at_budget: stopped after epoch 1: " + each.notes[0].rpartition(": ")[2]] for each in loose
    )
    last_only = train({"stop_at_budget": {"accuracy": 0.01}}, epochs=[1, 2])
    assert [len(each.notes) for each in last_only] == [0, 1]


@pytest.mark.parametrize(
    ("restores", "uses", "model"),
    [
        (EARLY, {"wa": {}}, MLP),
        (EARLY, {"ewc": {"weight": 10.0}}, MLP),
        (EARLY, {"ncm": {}}, MLP),
        (EARLY, {"recompute_batchnorm": {}}, CNN),
        (EARLY, {"eeil": {"memory": 40, "epochs": 1}}, MLP),
        (EARLY, {"stop_at_budget": {"accuracy": 0.9}}, MLP),
        (FORGETTING, {"wa": {}}, MLP),
        (SWA, {"recompute_batchnorm": {}}, CNN),
    ],
    ids=lambda value: next(iter(value)),
)
def test_the_order_in_the_yaml_does_not_matter(restores: dict[str, Any], uses: dict[str, Any], model: Any) -> None:
    """Weights are restored first, then changed, then used; the ledger's notes are in that order too."""
    one, other = (train(dict(pair), model) for pair in permutations([*restores.items(), *uses.items()]))
    for first, second in zip(one, other, strict=True):
        assert same(first.final, second.final) and torch.equal(first.logits, second.logits)
        assert first.notes == second.notes


def test_statistics_are_recomputed_after_finetuning() -> None:
    """`recompute_batchnorm` promises statistics under the final weights, which `eeil` changes when training has ended."""
    strategies = {"recompute_batchnorm": {}, "eeil": {"memory": 40, "epochs": 1}}
    one, other = (train(dict(pair), CNN) for pair in permutations(strategies.items()))
    assert same(one[1].final, other[1].final)


@pytest.mark.parametrize(
    "pair", permutations([EARLY, FORGETTING, SWA], 2), ids=lambda pair: "+".join(map("".join, pair))
)
def test_only_one_strategy_decides_the_final_weights(pair: tuple[dict[str, Any], ...]) -> None:
    with pytest.raises(UserError, match="both decide which weights an experience ends with; choose one"):
        train({**pair[0], **pair[1]})
