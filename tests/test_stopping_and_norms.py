"""Budgets, stopping on old validation data, averaged weights, normalisation, ensembles: each against an oracle."""

import copy
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from avalanche.training.templates import SupervisedTemplate
from test_strategies_avalanche import Bits, Net, Watch, benchmark, learn, network, pair, same, script
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from typer.testing import CliRunner

from retain.platform.cli.app import app
from retain.platform.cli.ensemble import ensembles
from retain.platform.config.schema import Experiment, Seeds
from retain.platform.errors import UserError
from retain.platform.ledger.reader import Trial
from retain.platform.methods.probability_averaging import as_logits, average_probabilities, probabilities
from retain.platform.models.batchnorm import num_groups, recompute_statistics
from retain.platform.models.heads import Classifier
from retain.platform.models.networks import small_cnn
from retain.platform.training.plugin import Plugin
from retain.platform.trial.run import run as run_trial
from retain.strategies import (
    batchnorm_per_experience,
    continual_norm,
    ema,
    forgetting_stop,
    recompute_batchnorm,
    snapshot_ensemble,
    stop_at_budget,
    swa,
    swap_norm,
)

Make = Callable[..., Experiment]


@pytest.mark.parametrize(
    ("module", "settings", "message"),
    [
        (stop_at_budget, {"accuracy": 0.0}, "accuracy=0.0: must be a number in (0, 1] or null"),
        (stop_at_budget, {"accuracy": 1.5}, "accuracy=1.5: must be a number in (0, 1] or null"),
        (stop_at_budget, {"loss": float("nan")}, "loss=nan: must be a finite number or null"),
        (stop_at_budget, {"seconds": 0.0}, "seconds=0.0: must be a finite number above 0 or null"),
        (forgetting_stop, {"tolerance": 1.0}, "tolerance=1.0: must be a number in [0, 1) or null"),
        (forgetting_stop, {"every": 0}, "every=0: must be an integer above 0 or null"),
        (forgetting_stop, {"tolerance": None, "every": 3}, "every=3: is not used"),
        (ema, {"decay": 1.0}, "decay=1.0: must be a number in [0, 1)"),
        (swa, {"start": 1.0}, "start=1.0: must be a number in [0, 1) or null"),
        (swap_norm, {"kind": "batch"}, "kind='batch': must be 'group'"),
        (continual_norm, {"groups": 0}, "groups=0: must be an integer above 0 or null"),
        (batchnorm_per_experience, {"keep": -1}, "keep=-1: must be an integer of at least 0 or null"),
        (snapshot_ensemble, {"members": 0}, "members=0: must be an integer above 0"),
    ],
)
def test_bad_values_are_named(module: ModuleType, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        module.Config(**settings)


PLAIN: dict[str, Callable[[], Plugin]] = {
    "stop_at_budget": lambda: stop_at_budget.StopAtBudgetPlugin(stop_at_budget.Config(), 0),
    "forgetting_stop": lambda: forgetting_stop.ForgettingStopPlugin(forgetting_stop.Config(), 0),
    "ema": lambda: ema.EMAPlugin(ema.Config(), 0),
    "swa": lambda: swa.SWAPlugin(swa.Config(), 0),
    "batchnorm_per_experience": lambda: batchnorm_per_experience.BatchNormPerExperiencePlugin(
        batchnorm_per_experience.Config(), 0
    ),
    "snapshot_ensemble": lambda: snapshot_ensemble.SnapshotEnsemblePlugin(snapshot_ensemble.Config(), 0),
}
_TRAINED = {"stop_at_budget", "forgetting_stop", "swa"}  # the others change predictions only


@pytest.fixture(scope="module")
def naive() -> list[Bits]:
    """Return the bits of plain finetuning."""
    return script([])


@pytest.mark.parametrize("name", PLAIN)
def test_in_a_plain_script(name: str, naive: list[Bits]) -> None:
    """It trains two experiences; if it has `predict`, evaluation uses it."""
    seen: list[bool] = []

    class Look(Plugin):
        """Evaluate like a script, with the plugin placed before this one."""

        def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
            learner.mb_output = learner.model.eval()(x)
            learner.mbatch = [x, torch.zeros(len(x)), torch.zeros(len(x))]
            plugin.after_eval_forward(learner)
            seen.append(bool(torch.isfinite(learner.mb_output).all()))

    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    plugin = PLAIN[name]()
    bits = script([plugin, Look(None)])
    assert seen == [True, True]
    assert same(bits[2], naive[2]) == (name not in _TRAINED)


# Budgets.


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"accuracy": 0.9}, "training accuracy 0.9000"),
        ({"accuracy": 0.91}, ""),
        ({"accuracy": None, "loss": 0.5}, "training loss 0.5000"),
        ({"accuracy": 0.95, "loss": 0.5}, "training loss 0.5000"),
        ({"accuracy": None, "loss": 0.4}, ""),
        ({"accuracy": None}, ""),
    ],
)
def test_which_accuracy_target_is_reached(settings: dict[str, Any], expected: str) -> None:
    assert stop_at_budget.reached(stop_at_budget.Config(**settings), 0.9, 0.5) == expected


class Scores(Plugin):
    """Training accuracy and mean loss of every epoch, computed a second way."""

    def __init__(self) -> None:
        self.epochs: list[list[tuple[float, float]]] = []
        self._rows: list[tuple[int, int, float]] = []

    def before_training_exp(self, learner: Any, **kwargs: Any) -> None:
        self.epochs.append([])

    def after_update(self, learner: Any, **kwargs: Any) -> None:
        hits = sum(int(row.argmax()) == int(y) for row, y in zip(learner.mb_output, learner.mb_y, strict=True))
        self._rows.append((hits, len(learner.mb_y), learner.loss.item()))

    def after_training_epoch(self, learner: Any, **kwargs: Any) -> None:
        hits, rows, losses = (np.array(column) for column in zip(*self._rows, strict=True))
        self.epochs[-1].append((hits.sum() / rows.sum(), losses.mean()))
        self._rows = []


@pytest.mark.parametrize(("settings", "column", "target"), [({"accuracy": 0.95}, 0, 0.95), ({"loss": 0.2}, 1, 0.2)])
def test_a_budget_stops_after_the_first_epoch_that_reaches_it(
    settings: dict[str, Any], column: int, target: float
) -> None:
    full, stopped = Scores(), Scores()
    script([full], epochs=6, only=[0])
    script(
        [stop_at_budget.StopAtBudgetPlugin(stop_at_budget.Config(**({"accuracy": None} | settings)), 0), stopped],
        epochs=6,
    )
    good = [each[column] >= target if column == 0 else each[column] <= target for each in full.epochs[0]]
    assert len(stopped.epochs[0]) == good.index(True) + 1 < 6  # epochs of the first experience
    assert len(stopped.epochs[1]) >= 1


def test_a_budget_of_no_time_allows_one_iteration_per_experience() -> None:
    watch = Watch()
    plugin = stop_at_budget.StopAtBudgetPlugin(stop_at_budget.Config(accuracy=None, seconds=1e-9), 0)
    data, model = benchmark(), Net()
    learner = SupervisedTemplate(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        train_mb_size=16,
        train_epochs=1,  # the stop comes in the last epoch: Avalanche would keep its flag for the next experience
        plugins=[plugin, watch],
        evaluator=None,
    )
    learner.train(data.train_stream, eval_streams=[])
    assert watch.rows == [16, 16]


def test_spent_time_is_part_of_the_state() -> None:
    first, second = (
        stop_at_budget.StopAtBudgetPlugin(stop_at_budget.Config(accuracy=None, seconds=100.0), 0) for _ in range(2)
    )
    first.before_training_exp(None)
    first.after_training_iteration(None)
    spent = first.state_dict()["spent"]
    assert 0 < spent < 50
    second.load_state_dict(first.state_dict() | {"spent": 99.0})
    second.on_resume(None)
    second.after_training_iteration(None)
    assert 99 <= second.state_dict()["spent"] < 149


# Old validation data.


def test_the_drop_by_hand() -> None:
    assert forgetting_stop.drop([0.9, 0.8, 0.1], [0.7, 0.75, 0.9]) == pytest.approx(0.2)
    assert forgetting_stop.drop([0.9, 0.1], [1.0, 0.9]) == pytest.approx(-0.1)
    assert forgetting_stop.drop([0.5], [0.1]) == 0.0


class History(Plugin):
    """Keep the network at the beginning of the second experience and after each of its epochs, or iterations."""

    def __init__(self, iterations: bool) -> None:
        self.iterations, self.bits = iterations, list[Bits]()

    def before_training_exp(self, learner: Any, **kwargs: Any) -> None:
        self.bits = [copy.deepcopy(learner.model.state_dict())]

    def after_training_iteration(self, learner: Any, **kwargs: Any) -> None:
        if self.iterations:
            self.bits.append(copy.deepcopy(learner.model.state_dict()))

    def after_training_epoch(self, learner: Any, **kwargs: Any) -> None:
        if not self.iterations:
            self.bits.append(copy.deepcopy(learner.model.state_dict()))


@pytest.mark.parametrize("every", [None, 1])
@pytest.mark.parametrize("tolerance", [0.0, 0.1, 0.3, 0.99])
def test_the_best_weights_before_the_drop_are_restored(tolerance: float, every: int | None) -> None:
    """A second way: the naive run's full history, scored afterwards."""
    history = History(iterations=every is not None)
    script([history], epochs=4)
    scores = [[_validation_accuracy(bits, number) for number in (0, 1)] for bits in history.bits]
    over = [scores[0][0] - old > tolerance for old, _ in scores]
    stop = over.index(True) if True in over else len(over)
    means = [sum(pair) / 2 for pair in scores[:stop]]
    expected = means.index(max(means)) if True in over else len(over) - 1
    ours = script(
        [forgetting_stop.ForgettingStopPlugin(forgetting_stop.Config(tolerance=tolerance, every=every), 0)], epochs=4
    )
    assert same(ours[2], history.bits[expected])
    assert tolerance == 0.99 or True in over  # this case does stop


@torch.no_grad()
def _validation_accuracy(bits: Bits, number: int) -> float:
    x, y = pair(number, 1)
    return float((network(bits)(x).argmax(1) == y).double().mean())


def test_forgetting_stop_without_validation_data_is_refused() -> None:
    with pytest.raises(UserError, match=re.escape("strategies.forgetting_stop.tolerance=0.1: needs validation data")):
        script([forgetting_stop.ForgettingStopPlugin(forgetting_stop.Config(), 0)], validation=False)


# Averaged weights.


class Averages(Plugin):
    """torch's averages, updated at the same moments."""

    def __init__(self, when: str, fn: Any = None, since: int = 0) -> None:
        self.when, self.fn, self.since = when, fn, since
        self.model: AveragedModel | None = None
        self.plain: list[Bits] = []

    def _add(self, learner: Any) -> None:
        if self.model is None:
            self.model = AveragedModel(learner.model, multi_avg_fn=self.fn, use_buffers=True)
        self.model.update_parameters(learner.model)
        self.plain.append(copy.deepcopy(learner.model.state_dict()))

    def after_update(self, learner: Any, **kwargs: Any) -> None:
        if self.when == "update":
            self._add(learner)

    def after_training_epoch(self, learner: Any, **kwargs: Any) -> None:
        if self.when == "epoch" and learner.clock.train_exp_epochs >= self.since:
            self._add(learner)


def _close(ours: Bits, theirs: Any) -> None:
    counters = [name for name, tensor in ours.items() if not tensor.is_floating_point()]
    for name in ours.keys() - set(counters):
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_ema_is_torchs(decay: float) -> None:
    """0.5: torch's moving average from the second update on; 0.99 is still a plain mean after 15 updates."""
    oracle = Averages("update", get_ema_multi_avg_fn(decay) if decay == 0.5 else None)
    plugin = ema.EMAPlugin(ema.Config(decay=decay), 0)
    bits = script([plugin, oracle], only=[0])[1]
    assert oracle.model is not None and plugin.state_dict()["num_updates"] == 15
    average = plugin.state_dict()["average"]
    _close(average, oracle.model.module.state_dict())
    assert not torch.allclose(average["trunk.0.weight"], bits["trunk.0.weight"], atol=1e-3)


def test_the_average_grows_with_the_head_by_hand() -> None:
    old = {"w": torch.tensor([[1.0], [2.0]]), "n": torch.tensor(3)}
    new = {"w": torch.tensor([[5.0], [6.0], [7.0]]), "n": torch.tensor(9), "b": torch.tensor([4.0])}
    average = ema.grown(old, new)
    assert {name: tensor.tolist() for name, tensor in average.items()} == {"w": [[1], [2], [7]], "n": 3, "b": [4]}
    ema.update(average, new, 0.25)
    assert {name: t.tolist() for name, t in average.items()} == {"w": [[2.0], [3.0], [7.0]], "n": 9, "b": [4]}


def test_the_average_is_evaluated() -> None:
    plugin = ema.EMAPlugin(ema.Config(), 0)
    learner = learn([plugin])
    averaged = copy.deepcopy(learner.model)
    averaged.load_state_dict(plugin.state_dict()["average"])
    x = learner.test_set.inputs.x
    with torch.no_grad():
        assert torch.equal(learner.logits(), averaged.eval()(x))
        assert not torch.equal(learner.logits(), learner.model.eval()(x))


@pytest.mark.parametrize(("start", "since"), [(0.0, 0), (0.5, 2), (0.6, 3)])
def test_swa_is_torchs(start: float, since: int) -> None:
    """The mean of the weights at the ends of the last of five epochs, all after the first `since`."""
    oracle = Averages("epoch", since=since)
    bits = script([swa.SWAPlugin(swa.Config(start=start), 0), oracle], epochs=5, only=[0])[1]
    assert oracle.model is not None and len(oracle.plain) == 5 - since
    _close(bits, oracle.model.module.state_dict())


def test_swa_of_one_point_is_the_last_epoch(naive: list[Bits]) -> None:
    assert same(script([swa.SWAPlugin(swa.Config(start=0.9), 0)])[2], naive[2])


def test_statistics_under_the_averaged_weights() -> None:
    """recompute_batchnorm, listed after swa, equals torch's update_bn with the averaged weights."""
    config = recompute_batchnorm.Config(batch_size=80)  # all data are one mini-batch
    recompute = recompute_batchnorm.RecomputeBatchNormPlugin(config)
    bits = script([swa.SWAPlugin(swa.Config(), 0), recompute], only=[0])[1]
    model = network(script([swa.SWAPlugin(swa.Config(), 0)], only=[0])[1])
    update_bn([pair(0, 0)[0]], model)
    _close(bits, model.state_dict())


# Normalisation.


def _cnn() -> nn.Module:
    config = small_cnn.Config(channels=(8, 64), hidden=16, norm="batch")
    return small_cnn.build(config, (1, 8, 8), 3, torch.Generator().manual_seed(0))


def _batch_norm(channels: int = 8) -> nn.BatchNorm2d:
    """Return a BatchNorm with random weights and statistics."""
    layer, draw = nn.BatchNorm2d(channels, eps=1e-3), torch.Generator().manual_seed(0)
    for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
        assert tensor is not None
        tensor.data = torch.rand(channels, generator=draw) + 0.5
    return layer


def test_numbers_of_groups() -> None:
    wide = [num_groups(nn.BatchNorm2d(channels)) for channels in (1, 3, 4, 32, 48, 64, 512)]
    assert wide == [1, 1, 2, 16, 16, 32, 32]
    assert [num_groups(nn.BatchNorm1d(channels)) for channels in (8, 16, 64, 1024)] == [1, 1, 4, 32]
    assert num_groups(nn.BatchNorm2d(64), 8) == 8


@pytest.mark.parametrize("kind", ["group", "layer", "instance"])
def test_swapped_norm_is_the_functional_one(kind: swap_norm.Kind) -> None:
    layer, x = _batch_norm(), torch.randn(4, 8, 5, 5, generator=torch.Generator().manual_seed(1))
    if kind == "group":  # four groups of two channels
        alike = torch.cat([functional.layer_norm(part, part.shape[1:], eps=1e-3) for part in x.split(2, 1)], 1)
    elif kind == "layer":
        alike = functional.layer_norm(x, x.shape[1:], eps=1e-3)
    else:
        alike = functional.instance_norm(x, eps=1e-3)
    expected = alike * layer.weight[:, None, None] + layer.bias[:, None, None]
    torch.testing.assert_close(swap_norm.as_group_norm(layer, kind)(x), expected)


def test_continual_norm_is_group_norm_then_batch_norm() -> None:
    layer, x = _batch_norm(), torch.randn(4, 8, 5, 5, generator=torch.Generator().manual_seed(1))
    ours = continual_norm.ContinualNorm(layer, 4)
    theirs = nn.Sequential(nn.GroupNorm(4, 8, eps=1e-3, affine=False), copy.deepcopy(layer))
    for model in (ours, theirs):
        model.train()
    for _ in range(2):  # statistics too
        torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))
    assert dict(ours.named_buffers()).keys() == dict(layer.named_buffers()).keys()


ADAPTED: list[tuple[Any, dict[str, Any]]] = [
    (swap_norm, {}),
    (swap_norm, {"kind": "instance"}),
    (continual_norm, {}),
]


@pytest.mark.parametrize(("module", "settings"), ADAPTED)
def test_adapted_networks_keep_weights_and_lose_batch_norm(module: Any, settings: dict[str, Any]) -> None:
    network, before = _cnn(), _cnn()
    with torch.no_grad():
        network.trunk[1].weight.fill_(3.0)  # type: ignore[index, union-attr]
    adapted = module.adapt(module.Config(**settings), network, torch.Generator())
    assert [type(layer) for layer in adapted.modules() if type(layer) is nn.BatchNorm2d] == []
    assert adapted.trunk[1].weight.eq(3.0).all() and adapted.head.num_classes == 3
    assert dict(adapted.named_parameters()).keys() == dict(before.named_parameters()).keys()
    adapted(torch.zeros(2, 1, 8, 8))
    neutral = module.adapt(module.Config(**module.NEUTRAL), before, torch.Generator())
    assert neutral is before and type(neutral.trunk[1]) is nn.BatchNorm2d


@pytest.mark.parametrize(("module", "settings"), ADAPTED)
def test_networks_without_plain_batch_norm_are_refused(module: Any, settings: dict[str, Any]) -> None:
    name, config = module.__name__.rpartition(".")[2], module.Config(**settings)
    with pytest.raises(UserError, match=f"strategies.{name}: the network has no BatchNorm layer"):
        module.adapt(config, nn.Sequential(nn.Linear(2, 2)), torch.Generator())
    odd = nn.Sequential(continual_norm.ContinualNorm(_batch_norm(), 2))
    with pytest.raises(UserError, match=re.escape(f"strategies.{name}: 0 (ContinualNorm) is no plain BatchNorm")):
        module.adapt(config, odd, torch.Generator())


def test_single_values_have_no_instance_norm() -> None:
    with pytest.raises(UserError, match="kind='instance': needs maps"):
        swap_norm.adapt(swap_norm.Config(kind="instance"), Net(), torch.Generator())
    with pytest.raises(UserError, match="batchnorm_per_experience: the network has no BatchNorm"):
        batchnorm_per_experience.check_model(batchnorm_per_experience.Config(), nn.Linear(2, 2))


# Small mini-batches ordered by class harm BatchNorm.


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    """Return scikit-learn's digits, shuffled: x (1797, 64), y."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    return (torch.tensor(data.data, dtype=torch.float32)[order] / 16 - 0.3) / 0.38, torch.tensor(data.target)[order]


def _deep(adapt: Callable[[nn.Module], nn.Module], seed: int) -> nn.Module:
    """Return a network of three hidden layers with BatchNorm, or its replacement."""
    torch.manual_seed(seed)
    layers = [part for _ in range(3) for part in (nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU())]
    return adapt(Classifier(nn.Sequential(*layers), 64, 10, torch.Generator().manual_seed(0)))


def _pass(model: nn.Module, x: Tensor, y: Tensor, order: Tensor, lr: float) -> None:
    """Do one pass over the data in this order, in mini-batches of 16."""
    optimizer = torch.optim.SGD(model.train().parameters(), lr=lr, momentum=0.9)
    for index in order.split(16):
        if len(index) > 1:
            optimizer.zero_grad()
            functional.cross_entropy(model(x[index]), y[index]).backward()
            optimizer.step()


def _group(model: nn.Module) -> nn.Module:
    return swap_norm.adapt(swap_norm.Config(), model, torch.Generator())


def _continual(model: nn.Module) -> nn.Module:
    return continual_norm.adapt(continual_norm.Config(), model, torch.Generator())


def test_ordered_mini_batches_hurt_batch_norm(digits: tuple[Tensor, Tensor]) -> None:
    """A network trained on all classes then sees them one after the other, with a learning rate of 0.

    Its weights do not change, but BatchNorm's running statistics become those of the last classes. GroupNorm has none,
    ContinualNorm loses less (it contains a BatchNorm), and statistics recomputed on mixed mini-batches restore the accuracy.
    """
    x, y = digits
    lost = {"batch": 0.0, "group": 0.0, "continual": 0.0}
    adapted = {"batch": lambda model: model, "group": _group, "continual": _continual}
    for name, seed in [("batch", 0), ("batch", 1), ("group", 0), ("continual", 0), ("continual", 1)]:
        model = _deep(adapted[name], seed)
        for epoch in range(3):
            _pass(model, x[:1400], y[:1400], torch.randperm(1400, generator=torch.Generator().manual_seed(epoch)), 0.01)
        before = _score(model, x, y)
        _pass(model, x[:1400], y[:1400], y[:1400].argsort(stable=True), 0.0)
        lost[name] += before - _score(model, x, y)
        assert before > 0.9
        if name == "batch":
            recompute_statistics(model, iter(x[:1400].split(64)))
            assert abs(_score(model, x, y) - before) < 0.02
    assert lost["batch"] > 0.1
    assert lost["group"] == 0.0
    assert lost["continual"] < 0.8 * lost["batch"]


@torch.no_grad()
def _score(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return float((model.eval()(x[1400:]).argmax(1) == y[1400:]).double().mean())


# Separate BatchNorm for each experience.


def test_surprise_is_a_gaussian_likelihood() -> None:
    """It is -2 times the log-likelihood under independent Gaussians, averaged over positions, up to a constant."""
    draw = torch.Generator().manual_seed(0)
    z, mean, var = (
        torch.randn(5, 3, 4, 4, generator=draw),
        torch.randn(3, generator=draw),
        torch.rand(3, generator=draw),
    )
    gauss = torch.distributions.Normal(mean.view(3, 1, 1), var.sqrt().view(3, 1, 1))
    expected = -2 * gauss.log_prob(z).mean((2, 3)).sum(1) - 3 * np.log(2 * np.pi)
    torch.testing.assert_close(batchnorm_per_experience.surprise(z, mean, var), expected)
    flat = batchnorm_per_experience.surprise(z[:, :, 0, 0], mean, var)
    torch.testing.assert_close(flat, batchnorm_per_experience.surprise(z[:, :, :1, :1], mean, var))


def test_a_class_has_the_batch_norm_of_its_experience() -> None:
    """The outputs of old classes are those of the present network with the old BatchNorm restored."""
    ends: list[Bits] = []

    class Keep(Plugin):
        """What each experience left."""

        def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
            ends.append(copy.deepcopy(learner.model.state_dict()))

    learner = learn(
        [batchnorm_per_experience.BatchNormPerExperiencePlugin(batchnorm_per_experience.Config(), 0), Keep(None)]
    )
    old = copy.deepcopy(learner.model).eval()
    old.load_state_dict(ends[1] | {name: tensor for name, tensor in ends[0].items() if name.startswith("trunk.1.")})
    x = learner.test_set.inputs.x
    with torch.no_grad():
        expected = torch.cat([old(x)[:, :2], learner.model.eval()(x)[:, 2:]], 1)
        assert torch.equal(learner.logits(), expected)
        assert not torch.equal(expected, learner.model(x))


def test_domains_are_identified_by_their_statistics() -> None:
    """Two domains whose first activations are far apart: each sample gets the BatchNorm of its domain."""
    plugin = batchnorm_per_experience.BatchNormPerExperiencePlugin(batchnorm_per_experience.Config(), 0)
    model = Net().eval()

    class Script:
        """The parts of a strategy that the plugin reads."""

        def __init__(self, number: int) -> None:
            self.model = model
            self.experience = type("E", (), {"current_experience": number, "classes_in_this_experience": [0, 1]})

    norm, draw = model.trunk[1], torch.Generator().manual_seed(0)
    domains = [torch.randn(6, 8, generator=draw) + shift for shift in (-4.0, 4.0)]
    expected = []
    for number, x in enumerate(domains):
        plugin.before_train_dataset_adaptation(Script(number))
        with torch.no_grad():
            z = model.trunk[0](x)
            norm.running_mean.copy_(z.mean(0))
            norm.running_var.copy_(z.var(0) + 0.1)
            norm.weight.fill_(number + 1.0)
            expected.append(model(x))
        plugin.after_training_exp(Script(number))
    with torch.no_grad():
        outputs = plugin.predict(Script(1), torch.cat(domains), model)
    torch.testing.assert_close(outputs, torch.cat(expected))


def test_only_the_latest_statistics_are_kept() -> None:
    plugin = batchnorm_per_experience.BatchNormPerExperiencePlugin(
        batchnorm_per_experience.Config(keep=1, affine=False), 0
    )
    plugin.load_state_dict({"banks": {"0": {}, "1": {}}, "classes": {}, "trained": "2"})

    class Script:
        """The beginning of the fourth experience."""

        model = Net()
        experience = type("E", (), {"current_experience": 3, "classes_in_this_experience": [3]})

    plugin.before_train_dataset_adaptation(Script())
    banks = plugin.state_dict()["banks"]
    assert list(banks) == ["2"] and set(banks["2"]) == {"trunk.1.running_mean", "trunk.1.running_var"}


# Ensembles.


def test_average_probabilities_by_hand() -> None:
    old, new = torch.tensor([[0.9, 0.1]]), torch.tensor([[0.2, 0.2, 0.6]])
    torch.testing.assert_close(average_probabilities([old, new]), torch.tensor([[0.55, 0.15, 0.3]]))
    torch.testing.assert_close(average_probabilities([old, new], alone=True), torch.tensor([[0.55, 0.15, 0.6]]))
    torch.testing.assert_close(
        as_logits(average_probabilities([old, new])).softmax(1), average_probabilities([old, new])
    )


def test_probabilities_within_each_task() -> None:
    logits = torch.tensor([[0.0, float(np.log(3.0)), 5.0, 5.0]])
    own = torch.tensor([[True, True, False, False, False], [False, False, True, True, False]])
    torch.testing.assert_close(probabilities(logits, own), torch.tensor([[0.25, 0.75, 0.5, 0.5]]))
    torch.testing.assert_close(probabilities(logits[:, :2], own), torch.tensor([[0.25, 0.75]]))
    torch.testing.assert_close(probabilities(logits).sum(1), torch.ones(1))


@pytest.mark.parametrize("members", [1, 2, 5])
def test_snapshots_are_averaged(members: int) -> None:
    """Against full copies of the network, made at the end of each experience."""
    ends: list[nn.Module] = []

    class Keep(Plugin):
        """What each experience left."""

        def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
            ends.append(copy.deepcopy(learner.model).eval())

    learner = learn(
        [snapshot_ensemble.SnapshotEnsemblePlugin(snapshot_ensemble.Config(members=members), 0), Keep(None)]
    )
    x = learner.test_set.inputs.x
    with torch.no_grad():
        old, new = (model(x).softmax(1) for model in ends)
    assert old.shape[1] == 2 and new.shape[1] == 4
    expected = new if members == 1 else (functional.pad(old, (0, 2)) + new) / 2
    torch.testing.assert_close(learner.logits().softmax(1), expected)


@pytest.fixture(scope="module")
def seeds(make_experiment: Make, quick_folder: Path) -> Iterator[Callable[..., list[Path]]]:
    """Return a function that trains seeds 0 and 1 of a config, once for each config."""
    made: dict[str, list[Path]] = {}

    def train(name: str, class_order: int | None = 0, **settings: Any) -> list[Path]:
        if name not in made:
            made[name] = [quick_folder / f"ensemble-{name}-{seed}" for seed in (0, 1)]
            for seed, folder in enumerate(made[name]):
                config = replace(make_experiment(seed=seed, **settings), seeds=Seeds(class_order=class_order))
                run_trial(config, folder)
        return made[name]

    yield train


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("classes", {"benchmark": "split"}),
        ("domains", {"benchmark": "rotated"}),
        ("predicting", {"benchmark": "split", "strategies": {"replay": {}, "ema": {}}}),
    ],
)
def test_seeds_are_averaged(name: str, settings: dict[str, Any], seeds: Callable[..., list[Path]]) -> None:
    """Each seed's accuracies equal those that its trial recorded, however its strategies predict."""
    folders = seeds(name, **settings)
    (ensemble,) = ensembles(folders)
    for seed, folder in enumerate(folders):
        matrix = Trial(folder).read("matrix")
        assert matrix is not None
        assert ensemble.members[seed] == pytest.approx(matrix["task_agnostic"][-1])
    assert len(ensemble.together) == len(ensemble.experiences) and all(0 <= value <= 1 for value in ensemble.together)


def test_an_ensemble_of_seeds_predicts_with_mean_probabilities(seeds: Callable[..., list[Path]]) -> None:
    """A second way: load networks from the checkpoints, average their softmax outputs, count correct predictions."""
    from retain.platform.config.load import from_dict
    from retain.platform.trial import checkpoint
    from retain.platform.trial.builder import build_trial
    from retain.platform.trial.resolve import resolve_experiment

    folders = seeds("domains", benchmark="rotated")
    ensemble, total = ensembles(folders)[0], 0.0
    for folder in folders:
        config = Trial(folder).read("config")
        state = checkpoint.load_newest_checkpoint(folder / "checkpoints")
        assert config is not None and state is not None
        parts = build_trial(resolve_experiment(from_dict(config)))
        model = parts.network().eval()
        model.load_state_dict(state["learner"]["model"])
        part = parts.stream.experiences[1].test
        with torch.no_grad():
            total = total + model(parts.stream.normalise(part.arrays.x[part.indices])).softmax(1)
    assert isinstance(total, Tensor)
    assert ensemble.together[1] == pytest.approx(float((total.argmax(1) == part.y).double().mean()))


def test_the_command_prints_a_table(seeds: Callable[..., list[Path]]) -> None:
    folders = seeds("classes", benchmark="split")
    ended = CliRunner().invoke(app, ["ensemble", *map(str, folders)])
    assert ended.exit_code == 0, ended.output
    assert all(word in ended.output for word in ("seed 0", "seed 1", "mean", "ensemble", "ACC", "classes"))


def test_seeds_with_different_streams_are_no_ensemble(seeds: Callable[..., list[Path]]) -> None:
    with pytest.raises(UserError, match=re.escape("seeds.class_order=0")):
        ensembles(seeds("own", class_order=None, benchmark="pair"))


def test_one_seed_is_no_ensemble(seeds: Callable[..., list[Path]]) -> None:
    with pytest.raises(UserError, match="no variant has two finished trials"):
        ensembles(seeds("classes", benchmark="split")[:1])
