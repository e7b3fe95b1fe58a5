"""Recomputed BatchNorm statistics: the values, what stays, and the failure that motivates them."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from retain.platform.config.schema import Experiment
from retain.platform.data.streams import Arrays, Part
from retain.platform.errors import UserError
from retain.platform.models.batchnorm import recompute_statistics
from retain.platform.trial.builder import build_trial
from retain.platform.trial.resolve import resolve_experiment
from retain.strategies.recompute_batchnorm import Config, check_model

Make = Callable[..., Experiment]


def network() -> nn.Sequential:
    """Return two BatchNorm layers in sequence, with dropout between."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(12, 4)]
    return nn.Sequential(*layers, nn.BatchNorm1d(4), nn.Linear(4, 2))


def mini_batches(count: int = 3) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    return [torch.rand(8, 1, 4, 4, generator=draw) * (number + 1) for number in range(count)]


def test_the_first_layer_has_the_average_of_the_mini_batches_statistics() -> None:
    model, batches = network(), mini_batches()
    recompute_statistics(model, iter(batches))
    with torch.no_grad():
        maps = [model[0](x).transpose(0, 1).flatten(1) for x in batches]
    torch.testing.assert_close(model[1].running_mean, torch.stack([m.mean(1) for m in maps]).mean(0))
    torch.testing.assert_close(model[1].running_var, torch.stack([m.var(1) for m in maps]).mean(0))


def test_it_equals_torchs_update_bn() -> None:
    """A second way: torch.optim.swa_utils.update_bn, which does not turn dropout off."""
    ours, theirs = network(), network()
    ours[3].p = theirs[3].p = 0.0
    recompute_statistics(ours, iter(mini_batches()))
    torch.optim.swa_utils.update_bn(mini_batches(), theirs)
    for one, other in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("training", [True, False])
def test_nothing_else_changes(training: bool) -> None:
    model = network().train(training)
    model[1].eval()  # like a frozen layer
    before, flags = copy.deepcopy(dict(model.named_parameters())), [m.training for m in model.modules()]
    momenta, state = [model[1].momentum, model[6].momentum], torch.get_rng_state()
    recompute_statistics(model, iter(mini_batches()))
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())
    assert flags == [module.training for module in model.modules()]
    assert momenta == [model[1].momentum, model[6].momentum]
    assert torch.equal(state, torch.get_rng_state())


def test_statistics_stay_without_samples() -> None:
    model = network()
    before = [buffer.clone() for buffer in model.buffers()]
    recompute_statistics(model, iter(()))
    assert all(torch.equal(old, new) for old, new in zip(before, model.buffers(), strict=True))


def test_a_network_without_batchnorm_is_refused() -> None:
    plain = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False))
    with pytest.raises(UserError, match=r"strategies\.recompute_batchnorm: the network has no BatchNorm layer"):
        check_model(Config(), plain)


@pytest.mark.parametrize("settings", [{"batches": -1}, {"batch_size": 1}])
def test_bad_values(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be an integer of at least \d or null"):
        Config(**settings)


def brighter(part: Part) -> Part:
    """Return the same pictures, paler: other statistics in the first layer."""
    return Part(Arrays(part.arrays.x // 3 + 150, part.arrays.y), part.indices)


def accuracy_on_the_pale(make_experiment: Make, strategies: dict[str, Any], seed: int) -> float:
    """Train on digits, then for a few iterations on pale ones; return the accuracy on these."""
    training = {"iterations": [150, 5, 1], "batch_size": 32, "optimizer": {"lr": [0.05, 0.005, 0.005]}}
    parts = build_trial(
        resolve_experiment(make_experiment("rotated", strategies, seed=seed, **training)), planning=True
    )
    first = parts.stream.experiences[0]
    second = replace(first, **{name: brighter(getattr(first, name)) for name in ("train", "validation", "test")})
    parts = replace(parts, stream=replace(parts.stream, experiences=(first, second)))
    learner = parts.learner(lambda learner: None, lambda text: None)
    for number in range(2):
        learner.train_experience(number)
    return learner.evaluate().task_agnostic[1]


def test_it_repairs_statistics_that_lag_behind_after_short_finetuning(make_experiment: Make) -> None:
    """After a few iterations on a new domain the running averages have not converged; 3 seeds."""
    naive = [accuracy_on_the_pale(make_experiment, {}, seed) for seed in range(3)]
    repaired = [accuracy_on_the_pale(make_experiment, {"recompute_batchnorm": {}}, seed) for seed in range(3)]
    assert all(after > before + 0.2 for before, after in zip(naive, repaired, strict=True)), (naive, repaired)
