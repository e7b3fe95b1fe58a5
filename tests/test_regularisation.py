"""Regularisation of parameters and features against oracles (by hand, a second way, Avalanche), and in a plain script."""

import copy
import json
import math
import pathlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from avalanche.training.templates import SupervisedTemplate
from test_strategies_avalanche import Net, accuracy, benchmark, naive, pair, same, script  # noqa: F401 - a fixture
from torch import nn

from retain.platform.errors import UserError
from retain.platform.methods import per_sample_gradients, quadratic_penalty
from retain.platform.training.optimization import smoothed_cross_entropy
from retain.platform.training.plugin import Plugin
from retain.platform.trial.checks import check_combination
from retain.platform.trial.resolve import resolve_experiment
from retain.platform.trial.run import run as run_trial
from retain.strategies import ewc, l2_sp, lfl, mas, rwalk, si

Named = dict[str, torch.Tensor]


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return normally distributed numbers from a separate generator."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def mlp(classes: int = 3, seed: int = 0) -> nn.Sequential:
    """Return a network of linear layers."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, classes))


def cnn(classes: int = 3, seed: int = 0) -> nn.Sequential:
    """Return a network with convolution, BatchNorm with updated statistics, dropout."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 3, 2, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.5),
        nn.Flatten(), nn.Linear(27, classes),
    )  # fmt: skip
    net(draws(16, 4, seed=seed))
    return net


def assert_named(ours: Named, theirs: Named, **tolerance: float) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], **tolerance)


# Sums of per-sample gradients, and the penalty.


def by_loop(net: nn.Module, x: torch.Tensor, rows: torch.Tensor, objective: Any, power: int) -> Named:
    """Compute the sums with a backward pass for each sample and value."""
    net = copy.deepcopy(net).eval().requires_grad_()
    sums = {name: torch.zeros_like(parameter) for name, parameter in net.named_parameters()}
    for i in range(len(x)):
        for m in range(objective(net(x[:1]), rows[:1]).shape[1]):
            net.zero_grad()
            objective(net(x[i : i + 1]), rows[i : i + 1])[0, m].backward()
            for name, parameter in net.named_parameters():
                sums[name] += parameter.grad.abs() ** power  # type: ignore[union-attr]
    return sums


def two_values(logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return torch.stack([logits.square().sum(1), (rows * logits.log_softmax(1)).sum(1)], 1)


def by_label(logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return values that torch.func has no rule for."""
    return two_values(logits, rows) * nn.functional.one_hot(logits.argmax(1), 3).sum(1, keepdim=True)


def repeated() -> nn.Sequential:
    """Make a network that runs a layer twice, for which there is no closed form."""
    net = mlp()
    return nn.Sequential(net[0], nn.Linear(5, 4), net[0], net[2])


def tied() -> nn.Sequential:
    """Make a network with two layers of the same weight."""
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Linear(4, 3))
    net[2].weight = net[0].weight
    return net


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("objective", [two_values, by_label])
@pytest.mark.parametrize("make", [mlp, cnn, repeated, tied])
@pytest.mark.parametrize("frozen", [False, True])
def test_gradient_sums_equal_a_loop(
    make: Callable[[], nn.Sequential], objective: Any, power: Any, frozen: bool
) -> None:
    """In closed form, by torch.func and in a loop, frozen or not; mode, flags, statistics and gradients do not change."""
    net, x, rows = make(), draws(9, 4, seed=1), draws(9, 3, seed=2)
    if frozen:
        net[1 if make is cnn else 0].requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    flags = [p.requires_grad for p in net.parameters()]
    ours = per_sample_gradients.gradient_sums(net, x, rows, objective, power)
    assert_named(ours, by_loop(net, x, rows, objective, power), rtol=1e-4, atol=1e-6)
    assert_named(before, net.state_dict(), rtol=0, atol=0)
    assert net.training and flags == [p.requires_grad for p in net.parameters()]
    assert all(p.grad is None for p in net.parameters()) and not any(m._forward_hooks for m in net.modules())


@pytest.mark.parametrize("size", [1, 2**20])
@pytest.mark.parametrize("make", [mlp, cnn])
def test_gradient_sums_do_not_depend_on_chunk_size(
    make: Callable[[], nn.Sequential], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, x, rows = make(), draws(9, 4, seed=1), draws(9, 3, seed=2)
    expected = per_sample_gradients.gradient_sums(net, x, rows, two_values, 2)
    monkeypatch.setattr(per_sample_gradients, "_CHUNK_BYTES", size)
    assert_named(per_sample_gradients.gradient_sums(net, x, rows, two_values, 2), expected)


def test_penalty_by_hand_counts_the_old_rows_only() -> None:
    omega, anchors = {"w": torch.tensor([[1.0, 2.0]])}, {"w": torch.tensor([[0.0, 1.0]])}
    now = {"w": torch.tensor([[3.0, 3.0], [50.0, 50.0]]), "other": torch.ones(1)}
    assert quadratic_penalty.penalty(now, anchors, omega).item() == 1 * 9 + 2 * 4
    assert quadratic_penalty.decayed_sum(omega, {"w": torch.ones(2, 2)}, 0.5)["w"].tolist() == [[1.5, 2.0], [1.0, 1.0]]


def test_the_sum_of_penalties_is_one_penalty() -> None:
    """Its gradient equals that of the sum, with a head that grew and importances of 0."""
    quadratic, terms = quadratic_penalty.QuadraticPenalty(), []
    for seed, classes in enumerate((2, 3, 5)):
        net = mlp(classes, seed)
        omega = {name: draws(*p.shape, seed=seed).relu() for name, p in net.named_parameters()}
        terms.append((quadratic_penalty.parameter_copies(net), omega))
        quadratic.add(net, omega)
    net = mlp(6, seed=9)
    named = dict(net.named_parameters())
    ours = torch.autograd.grad(quadratic.loss(net), list(named.values()))
    total = sum((quadratic_penalty.penalty(named, *term) for term in terms), torch.zeros(()))
    for one, other in zip(ours, torch.autograd.grad(total, list(named.values())), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


# Elastic Weight Consolidation.


class Step(SimpleNamespace):
    """The attributes that a hook reads, with real tensors and modules."""


class Data(torch.utils.data.Dataset[Any]):
    """Samples in the form of an Avalanche dataset."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> Any:
        return self.x[index], int(self.y[index]), 0

    def eval(self) -> "Data":
        return self


def trained_on(net: nn.Module, x: torch.Tensor, y: torch.Tensor, **more: Any) -> Step:
    """Return the attributes of a strategy at the end of an experience with these samples."""
    experience = SimpleNamespace(dataset=Data(x, y), current_experience=0)
    return Step(model=net, experience=experience, device=torch.device("cpu"), loss=torch.zeros(()), **more)


def test_fisher_of_a_linear_softmax_by_hand() -> None:
    """d log p_c / dW = (e_c - p) x^T: F_W = sum_c p_c (e_c - p)^2 x^2 = p (1 - p) x^2 summed over samples."""
    net, x = nn.Sequential(nn.Linear(4, 3)), draws(7, 4, seed=3)
    p, y = net(x).softmax(1).detach(), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    plugin = ewc.EWCPlugin(ewc.Config(num_samples=None), 0)
    importances = plugin.fisher(trained_on(net, x, y))
    exact = p * (1 - p)
    assert_named(importances, {"0.weight": exact.T @ x.square() / 7, "0.bias": exact.mean(0)})
    wrong = (nn.functional.one_hot(y) - p).square()
    empirical = ewc.EWCPlugin(ewc.Config(num_samples=None, fisher="empirical"), 0).fisher(trained_on(net, x, y))
    assert_named(empirical, {"0.weight": wrong.T @ x.square() / 7, "0.bias": wrong.mean(0)})


@pytest.mark.parametrize("make", [mlp, cnn])
def test_exact_fisher_is_the_mean_of_the_sampled_one(make: Callable[[], nn.Sequential]) -> None:
    net, x = make(), draws(5, 4, seed=4)
    exact = ewc.EWCPlugin(ewc.Config(num_samples=None), 0).fisher(trained_on(net, x, torch.zeros(5, dtype=torch.int64)))
    many = x.repeat(400, 1)
    sampled = ewc.EWCPlugin(ewc.Config(num_samples=None, fisher="sampled"), 0)
    drawn = sampled.fisher(trained_on(net, many, torch.zeros(2000, dtype=torch.int64)))
    for name, tensor in exact.items():
        torch.testing.assert_close(drawn[name].sum(), tensor.sum(), rtol=0.1, atol=0)


@pytest.mark.parametrize("fisher", ["exact", "empirical"])
def test_fisher_with_a_given_task_covers_its_classes_only(fisher: Any) -> None:
    """It equals that of a head with the task's classes only; the other rows have no importance."""
    net, x = mlp(4), draws(6, 4, seed=5)
    y = torch.tensor([2, 3, 2, 3, 3, 2])
    mask = torch.tensor([-torch.inf, -torch.inf, 0.0, 0.0])
    config = ewc.Config(num_samples=None, fisher=fisher)
    importances = ewc.EWCPlugin(config, 0).fisher(
        trained_on(net, x, y, mask_other_tasks=lambda logits, tasks: logits + mask)
    )
    own = mlp(2)
    own[0], own[2].weight.data, own[2].bias.data = net[0], net[2].weight.data[2:], net[2].bias.data[2:]
    expected = ewc.EWCPlugin(config, 0).fisher(trained_on(own, x, y - 2))
    torch.testing.assert_close(importances["0.weight"], expected["0.weight"])
    torch.testing.assert_close(importances["2.weight"][2:], expected["2.weight"])
    assert not importances["2.weight"][:2].any() and not importances["2.bias"][:2].any()


@pytest.mark.parametrize("make", [mlp, cnn])
@pytest.mark.parametrize("mode", ["separate", "online"])
def test_ewc_equals_avalanches_with_batches_of_one(mode: Any, make: Callable[..., nn.Sequential]) -> None:
    """Importances after each of three experiences, and the gradient of the penalty."""
    from avalanche.training.plugins import EWCPlugin

    decay = 0.5 if mode == "online" else 1.0
    ours = ewc.EWCPlugin(ewc.Config(mode=mode, decay=decay, fisher="empirical", num_samples=None, weight=3.0), 0)
    theirs = EWCPlugin(3.0, mode, decay if mode == "online" else None)
    for number in range(3):
        net = make(seed=number)
        x, y = draws(8, 4, seed=number), torch.arange(8) % 3
        step = trained_on(net, x, y, optimizer=torch.optim.SGD(net.parameters(), 0.1), train_mb_size=1)
        step._criterion, step.clock = nn.CrossEntropyLoss(), SimpleNamespace(train_exp_counter=number)
        theirs.after_training_exp(step)
        net.zero_grad()
        ours.after_training_exp(step)
    net, gradients = make(seed=9), []
    for plugin in (ours, theirs):
        step = Step(model=net, loss=torch.zeros(()), device=torch.device("cpu"))
        step.clock = SimpleNamespace(train_exp_counter=3)
        plugin.before_backward(step)
        gradients.append(torch.autograd.grad(step.loss, list(net.parameters())))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)
    assert gradients[0][0].any()


# Synaptic Intelligence.


def walk(plugins: list[Any], optimizer_of: Callable[[nn.Module], torch.optim.Optimizer], epochs: int = 2) -> nn.Module:
    """Train in plain Avalanche on two experiences; the network has no normalisation and all outputs from the start."""
    torch.manual_seed(0)
    net, data = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 4)), benchmark()
    learner = SupervisedTemplate(
        model=net, optimizer=optimizer_of(net), train_mb_size=16, train_epochs=epochs, plugins=plugins, evaluator=None
    )
    for experience in data.train_stream:
        learner.train(experience, eval_streams=[])
    return net


def sgd(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)


class Path(Plugin):
    """The path integral of the whole loss's gradient, from the definition."""

    def __init__(self) -> None:
        self.w: Named = {}
        self.points: list[Named] = []

    def before_training_exp(self, learner: Any, **kwargs: Any) -> None:
        self.w = {}
        self.points.append(quadratic_penalty.parameter_copies(learner.model))

    def before_update(self, learner: Any, **kwargs: Any) -> None:
        self.at = quadratic_penalty.parameter_copies(learner.model)

    def after_update(self, learner: Any, **kwargs: Any) -> None:
        for name, p in learner.model.named_parameters():
            self.w[name] = self.w.get(name, 0) - p.grad * (p.detach() - self.at[name])  # type: ignore[operator]


def test_si_by_the_definition() -> None:
    """Both gradients agree in the first experience; Omega of the second is added to that of the first."""
    ours, path = si.SIPlugin(si.Config(weight=0.3, damping=0.01, gradient="total", clip=False, largest=None), 0), Path()
    net = walk([ours, path], sgd)
    first = si.SIPlugin(si.Config(weight=0.3, damping=0.01, clip=False, largest=None), 0)
    path_of_first = Path()
    torch.manual_seed(0)

    class Once(Path):
        """Keep the importances of the first experience."""

        def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
            if len(self.points) == 1:
                self.omega = dict(first.penalty.importances)

    path_of_first = Once()
    walk([first, path_of_first], sgd)
    delta = {name: tensor - path.points[1][name] for name, tensor in quadratic_penalty.parameter_copies(net).items()}
    expected = {name: path_of_first.omega[name] + path.w[name] / (delta[name] ** 2 + 0.01) for name in path.w}
    assert_named(ours.penalty.importances, expected)
    assert_named(ours.penalty.anchors, quadratic_penalty.parameter_copies(net))


def test_si_gradient_of_the_task_leaves_out_the_penalty() -> None:
    """At the same weights both differ by the penalty's gradient only."""
    x, y = draws(6, 4, seed=1), torch.tensor([0, 1, 2, 0, 1, 2])
    gradients = {}
    for gradient in ("task", "total"):
        net = mlp()
        plugin = si.SIPlugin(si.Config(weight=2.0, gradient=gradient), 0)  # type: ignore[arg-type]
        plugin.penalty.anchor(mlp(2, seed=1), {n: torch.ones_like(p) for n, p in mlp(2).named_parameters()})
        step = Step(model=net, device=torch.device("cpu"))
        plugin.before_training_exp(step)
        step.loss = nn.functional.cross_entropy(net(x), y)
        expected = torch.autograd.grad(step.loss, list(net.parameters()), retain_graph=True)
        plugin.before_backward(step)
        step.loss.backward()
        plugin.after_backward(step)
        for parameter in net.parameters():
            parameter.data -= 1  # so that w = g
        plugin.after_update(step)
        gradients[gradient] = plugin.path
        if gradient == "task":
            for one, other in zip(plugin.path.values(), expected, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(gradients["task"]["0.weight"], gradients["total"]["0.weight"])
    torch.testing.assert_close(gradients["task"]["2.bias"][2:], gradients["total"]["2.bias"][2:])  # the new row


@pytest.mark.parametrize("eps", [0.1, 1e-3])
def test_si_equals_avalanches(eps: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Avalanche's bound of 0.001 acts for the smaller eps; the factor 1/2 is in the weight.

    On a CPU Avalanche keeps views instead of copies, so parameters never seem to move: here they are copies, as on a GPU.
    """
    from avalanche.training.plugins import SynapticIntelligencePlugin

    def extract(model: nn.Module, target: Any, excluded: set[str]) -> None:
        for name, parameter in model.named_parameters():
            target[name].data = parameter.detach().clone().flatten()

    monkeypatch.setattr(SynapticIntelligencePlugin, "extract_weights", staticmethod(extract))
    theirs = SynapticIntelligencePlugin(4.0, eps=eps)
    config = si.Config(weight=2.0, damping=eps, gradient="total", clip=False, largest=0.001)
    nets = [walk([plugin], sgd) for plugin in (theirs, si.SIPlugin(config, 0))]
    for one, other in zip(*(net.parameters() for net in nets), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    assert not torch.allclose(nets[0][0].weight, walk([], sgd)[0].weight)  # type: ignore[index]


def test_si_importances_are_bounded_if_requested() -> None:
    old, path, moved = {"w": torch.tensor([1.0])}, {"w": torch.tensor([[-3.0], [8.0]])}, {"w": torch.ones(2, 1)}
    old = {"w": torch.tensor([[1.0]])}
    importances = [
        si.importances(old, path, moved, si.Config(damping=1.0, clip=clip, largest=largest))["w"].flatten().tolist()
        for clip, largest in ((False, None), (True, None), (True, 2.0))
    ]
    assert importances == [[-0.5, 4.0], [0.0, 4.0], [0.0, 2.0]]


# Memory Aware Synapses.


def test_mas_of_a_linear_network_by_hand() -> None:
    """d ||W x + b||^2 / dW = 2 f x^T, and its size is 2 |f| |x|^T."""
    net, x = nn.Sequential(nn.Linear(4, 3)), draws(7, 4, seed=3)
    f = net(x).detach().abs()
    importances = mas.MASPlugin(mas.Config(num_samples=None), 0).importances(trained_on(net, x, torch.zeros(7)))
    assert_named(importances, {"0.weight": 2 * f.T @ x.abs() / 7, "0.bias": 2 * f.mean(0)})


def test_mas_with_a_given_task_covers_its_outputs_only() -> None:
    net, x = mlp(4), draws(6, 4, seed=5)
    mask = torch.tensor([-torch.inf, 0.0, 0.0, -torch.inf])
    step = trained_on(net, x, torch.ones(6), mask_other_tasks=lambda logits, tasks: logits + mask)
    importances = mas.MASPlugin(mas.Config(num_samples=None), 0).importances(step)
    own = mlp(2)
    own[0], own[2].weight.data, own[2].bias.data = net[0], net[2].weight.data[1:3], net[2].bias.data[1:3]
    expected = mas.MASPlugin(mas.Config(num_samples=None), 0).importances(trained_on(own, x, torch.ones(6)))
    torch.testing.assert_close(importances["0.weight"], expected["0.weight"])
    torch.testing.assert_close(importances["2.weight"][1:3], expected["2.weight"])
    assert not importances["2.bias"][[0, 3]].any()


def test_mas_equals_avalanches_with_batches_of_one() -> None:
    """Importances after three experiences, with alpha; the network has no BatchNorm, whose statistics theirs would train."""
    from avalanche.training.plugins import MASPlugin

    ours, theirs = mas.MASPlugin(mas.Config(alpha=0.3, num_samples=None, largest=None), 0), MASPlugin(alpha=0.3)
    for number in range(3):
        net, x = mlp(seed=number), draws(8, 4, seed=number)
        step = trained_on(net, x, torch.arange(8) % 3, train_mb_size=1)
        step.optimizer, step.clock = torch.optim.SGD(net.parameters(), 0.1), SimpleNamespace(train_exp_counter=number)
        theirs.after_training_exp(step)
        ours.after_training_exp(step)
    assert_named(ours.penalty.importances, {name: each.data for name, each in theirs.importance.items()})  # type: ignore[union-attr]
    added = mas.mix_importances({"w": torch.ones(1, 2)}, {"w": torch.ones(2, 2)}, None)["w"].tolist()
    assert added == [[2.0, 2.0], [1.0, 1.0]]


# Riemannian Walk.


def test_rwalk_importances_by_hand() -> None:
    fisher = {"a": torch.tensor([1.0, 4.0]), "b": torch.tensor([2.0])}
    scores = {"a": torch.tensor([-3.0, 5.0]), "b": torch.tensor([10.0])}
    assert_named(rwalk.importances(fisher, scores), {"a": torch.tensor([0.25, 1.5]), "b": torch.tensor([1.5])})
    nothing = {name: torch.zeros_like(tensor) for name, tensor in fisher.items()}
    assert_named(rwalk.importances(nothing, nothing), nothing)


def test_rwalk_equals_avalanches() -> None:
    """80 samples make 5 mini-batches, 10 in an experience of two epochs: an interval of 5 is never cut off."""
    from avalanche.training.plugins import RWalkPlugin

    config = rwalk.Config(weight=0.7, alpha=0.6, interval=5, damping=torch.finfo(torch.float32).eps)
    ours, theirs = rwalk.RWalkPlugin(config, 0), RWalkPlugin(0.7, 0.6, 5)
    nets = [walk([plugin], sgd) for plugin in (ours, theirs)]
    for one, other in zip(*(net.parameters() for net in nets), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(nets[0][0].weight, walk([], sgd)[0].weight, atol=1e-2)  # type: ignore[index]
    importances = {name: each.data for name, each in theirs.exp_importance.items()}  # type: ignore[union-attr]
    assert_named(ours.fisher, importances, rtol=1e-2, atol=1e-5)


def test_rwalk_scores_an_incomplete_interval() -> None:
    """An interval longer than the experience is one interval."""
    plugins = [rwalk.RWalkPlugin(rwalk.Config(interval=interval), 0) for interval in (20, 10)]
    nets = [walk([plugin], sgd) for plugin in plugins]
    assert torch.equal(nets[0][0].weight, nets[1][0].weight)  # type: ignore[index]


# L2-SP and Less-Forgetting Learning.


def after(net: nn.Module, plugin: Plugin, num_trained: int, **more: Any) -> float:
    """Return the term that the plugin adds in an experience that began with `net`, after each parameter moved by 2."""
    step = Step(model=net, device=torch.device("cpu"), loss=torch.zeros(()), **more)
    step.experience = SimpleNamespace(classes_in_this_experience=[0, 1])
    for _ in range(num_trained):
        plugin.before_train_dataset_adaptation(step)
        plugin.after_training_exp(step)
    plugin.before_train_dataset_adaptation(step)
    plugin.before_training_exp(step)
    for parameter in net.parameters():
        parameter.data += 2
    plugin.before_backward(step)
    return float(step.loss)


@pytest.mark.parametrize(
    ("reference", "num_trained", "held"),
    [("experience", 0, 0), ("experience", 1, 43), ("pretrained", 0, 25), ("pretrained", 2, 25)],
)
def test_l2_sp_by_hand(reference: Any, num_trained: int, held: int) -> None:
    """A trunk of 25 parameters and a head of 18, each 2 away."""
    plugin = l2_sp.L2SPPlugin(l2_sp.Config(weight=0.5, reference=reference), 0)
    assert after(mlp(), plugin, num_trained) == pytest.approx(0.5 * 4 * held)


def test_l2_sp_needs_a_previous_experience() -> None:
    with pytest.raises(UserError, match="strategies.l2_sp.reference='experience'"):
        l2_sp.check_stream(l2_sp.Config(), 10, 1)
    l2_sp.check_stream(l2_sp.Config(reference="pretrained"), 10, 1)
    l2_sp.check_stream(l2_sp.Config(weight=0.0), 10, 1)


def test_lfl_equals_avalanches() -> None:
    from avalanche.training.plugins import LFLPlugin

    new, old = draws(5, 7, seed=1), draws(5, 7, seed=2)
    assert lfl.feature_distance(new, old).item() == pytest.approx(float(LFLPlugin(1.0)._euclidean_loss(new, old)))


class Features(Plugin):
    """Measure how far features of the new data moved in the second experience; keep the head's rows before and after."""

    def __init__(self) -> None:
        self.rows: list[torch.Tensor] = []

    def before_train_dataset_adaptation(self, learner: Any, **kwargs: Any) -> None:
        self.rows.append(learner.model.classifier.classifier.weight.detach().clone())
        self.old = copy.deepcopy(learner.model.trunk).eval()

    def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
        self.rows.append(learner.model.classifier.classifier.weight.detach().clone())
        x = pair(1, 0)[0]
        self.distance = float((copy.deepcopy(learner.model.trunk)(x) - self.old(x)).square().mean().detach())


def test_lfl_holds_features_and_old_boundaries() -> None:
    """In an Avalanche script with momentum and weight decay: the old rows keep their bits, new ones learn."""
    distances = {}
    for name, plugins in {"naive": [], "lfl": [lfl.LFLPlugin(lfl.Config(weight=10.0), 0)]}.items():
        watch = Features()
        bits = script([*plugins, watch], epochs=6)
        assert not torch.equal(watch.rows[0], watch.rows[1][:2])  # the first experience trains the head
        assert torch.equal(watch.rows[2], watch.rows[3][:2]) == (name == "lfl")
        distances[name] = watch.distance
        assert accuracy(bits[2], 1) > 0.9
    assert distances["lfl"] < distances["naive"] / 2


# Label smoothing: training.label_smoothing.


def test_smoothed_cross_entropy_equals_torchs() -> None:
    logits, y = draws(6, 5, seed=1).requires_grad_(), torch.tensor([0, 1, 2, 3, 4, 0])
    ours, theirs = smoothed_cross_entropy(logits, y, 0.1), nn.functional.cross_entropy(logits, y, label_smoothing=0.1)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (ours, theirs)))


def test_labels_are_smoothed_over_the_tasks_classes_only() -> None:
    """As if the head had no other classes; without NaN in the gradient."""
    logits, y = draws(4, 6, seed=2).requires_grad_(), torch.tensor([2, 3, 3, 2])
    masked = logits.masked_fill(torch.tensor([1, 1, 0, 0, 1, 1]) > 0, -torch.inf)
    ours = smoothed_cross_entropy(masked, y, 0.2)
    theirs = nn.functional.cross_entropy(logits[:, 2:4], y - 2, label_smoothing=0.2)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (ours, theirs)))


def test_label_smoothing_is_a_setting_of_training(make_experiment: Any, tmp_path: pathlib.Path) -> None:
    """0 gives the naive curve, other values change the weights; invalid values and losses that do not fit are refused."""
    matrices = {}
    for smoothing in (None, 0.0, 0.1):
        more = {} if smoothing is None else {"label_smoothing": smoothing}
        config = make_experiment("pair", **more)
        matrices[smoothing] = run_trial(config, tmp_path / str(smoothing)).matrices["task_agnostic"]
    losses = [
        [event["loss"] for event in map(json.loads, (tmp_path / str(each) / "metrics.jsonl").open()) if "loss" in event]
        for each in (None, 0.0, 0.1)
    ]
    assert losses[0] and losses[0] == losses[1] != losses[2]
    with pytest.raises(UserError, match="training.label_smoothing=1.0: must be a number in"):
        make_experiment(label_smoothing=1.0)
    refused = resolve_experiment(make_experiment(strategies={"er_ace": {}}, label_smoothing=0.1))
    with pytest.raises(UserError, match="training.label_smoothing=0.1: is not used with strategies.er_ace"):
        check_combination(refused)


# What is refused.


@pytest.mark.parametrize(
    ("module", "settings", "message"),
    [
        (ewc, {"weight": -1.0}, "weight=-1.0: must be a finite number of at least 0"),
        (ewc, {"weight": math.inf}, "weight=inf: must be a finite number of at least 0"),
        (ewc, {"mode": "offline"}, "mode='offline': must be 'separate' or 'online'"),
        (ewc, {"mode": "online", "decay": 1.5}, "decay=1.5: must be a number in [0, 1]"),
        (ewc, {"decay": 0.5}, "decay=0.5: is not used with mode='separate'"),
        (ewc, {"fisher": "true"}, "fisher='true': must be 'exact'"),
        (ewc, {"num_samples": 0}, "num_samples=0: must be an integer above 0"),
        (si, {"weight": -1.0}, "weight=-1.0: must be a finite number of at least 0"),
        (si, {"damping": 0.0}, "damping=0.0: must be a finite number above 0"),
        (si, {"gradient": "loss"}, "gradient='loss': must be 'task' or 'total'"),
        (si, {"largest": 0.0}, "largest=0.0: must be a number above 0 or null"),
        (mas, {"weight": -1.0}, "weight=-1.0: must be a finite number of at least 0"),
        (mas, {"alpha": 1.1}, "alpha=1.1: must be a number in [0, 1]"),
        (mas, {"num_samples": 0}, "num_samples=0: must be an integer above 0"),
        (mas, {"largest": 0.0}, "largest=0.0: must be a number above 0 or null"),
        (rwalk, {"weight": -1.0}, "weight=-1.0: must be a finite number of at least 0"),
        (rwalk, {"alpha": 0.0}, "alpha=0.0: must be a number in (0, 1]"),
        (rwalk, {"interval": 0}, "interval=0: must be an integer above 0"),
        (rwalk, {"damping": 0.0}, "damping=0.0: must be a finite number above 0"),
        (l2_sp, {"weight": -1.0}, "weight=-1.0: must be a finite number of at least 0"),
        (l2_sp, {"reference": "start"}, "reference='start': must be 'experience' or 'pretrained'"),
        (lfl, {"weight": -1.0}, "weight=-1.0: must be a finite number of at least 0"),
    ],
)
def test_bad_values_are_named(module: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        module.Config(**settings)
    assert str(caught.value).startswith(message)


# In a plain Avalanche script.

PLAIN: dict[str, Callable[[], Plugin]] = {
    "ewc": lambda: ewc.EWCPlugin(ewc.Config(weight=30.0), 0),
    "ewc online": lambda: ewc.EWCPlugin(ewc.Config(mode="online", fisher="sampled", num_samples=20), 0),
    "si": lambda: si.SIPlugin(si.Config(weight=5.0), 0),
    "mas": lambda: mas.MASPlugin(mas.Config(), 0),
    "rwalk": lambda: rwalk.RWalkPlugin(rwalk.Config(), 0),
    "l2_sp": lambda: l2_sp.L2SPPlugin(l2_sp.Config(), 0),
    "lfl": lambda: lfl.LFLPlugin(lfl.Config(), 0),
}


@pytest.mark.parametrize("name", PLAIN)
def test_in_a_plain_script(name: str, naive: Any) -> None:  # noqa: F811
    """Two experiences; the same bits twice, other bits than without it; the first experience is trained as usual."""
    one, other = script([PLAIN[name]()]), script([PLAIN[name]()])
    assert same(one[2], other[2]) and not same(one[2], naive[2])
    assert all(torch.isfinite(tensor).all() for tensor in one[2].values())
