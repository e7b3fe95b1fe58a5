"""Strategies with a memory against oracles: Avalanche's functions, a second way, or by hand."""

import copy
from collections.abc import Callable
from dataclasses import replace as changed
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from avalanche.training.plugins import AGEMPlugin, GEMPlugin
from avalanche.training.regularization import ACECriterion
from avalanche.training.storage_policy import HerdingSelectionStrategy
from test_strategies_avalanche import N, Watch, accuracy, learn, pair, same, script
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss, one_hot

from retain.platform.config.load import load_config
from retain.platform.config.schema import Experiment
from retain.platform.errors import UserError
from retain.platform.methods import herding, sample_selection
from retain.platform.methods.gradient_projection import nonnegative_quadratic
from retain.platform.methods.replay_memory import quotas
from retain.platform.methods.reservoir_memory import ReservoirPlugin, reservoir_slots
from retain.platform.models.heads import reset_weights
from retain.platform.seeding import generator
from retain.platform.training.plugin import Plugin
from retain.platform.trial.builder import build_trial
from retain.platform.trial.resolve import resolve_experiment
from retain.strategies import agem, der, er_ace, gdumb, gem, replay

MODULES = (agem, der, er_ace, gdumb, gem, replay)
Make = Callable[..., Experiment]


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Return normally distributed numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def small_net(seed: int = 0) -> nn.Module:
    """Return a network with BatchNorm."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))


# Bad values.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("der.memory=-1", "strategies.der.memory=-1: must be an integer of at least 0"),
        ("der.alpha=-0.1", "strategies.der.alpha=-0.1: must be a finite number of at least 0"),
        ("der.beta=.inf", "strategies.der.beta=inf: must be a finite number of at least 0"),
        ("der.batch_size=0", "strategies.der.batch_size=0: must be an integer above 0 or null"),
        ("er_ace.memory=-1", "strategies.er_ace.memory=-1: must be an integer of at least 0"),
        ("er_ace.batch_size=0", "strategies.er_ace.batch_size=0: must be an integer above 0 or null"),
        ("agem.memory=-1", "strategies.agem.memory=-1: must be an integer of at least 0"),
        ("agem.sample_size=0", "strategies.agem.sample_size=0: must be an integer above 0"),
        ("gem.memory=-1", "strategies.gem.memory=-1: must be an integer of at least 0"),
        ("gem.strength=-1", "strategies.gem.strength=-1: must be a finite number of at least 0"),
        ("gdumb.memory=-1", "strategies.gdumb.memory=-1: must be an integer of at least 0"),
        ("gdumb.memory=9", "strategies.gdumb.memory=9: must be at least 10"),
        ("replay={policy: herding, memory: 9}", "strategies.replay.memory=9: must be at least 10"),
        ("replay.selection=best", "strategies.replay.selection='best': must be 'random' or 'mir'"),
        (
            "replay={selection: mir, candidates: 0}",
            "strategies.replay.candidates=0: must be an integer above 0 or null",
        ),
        ("replay.candidates=5", "strategies.replay.candidates=5: is not used with selection='random'"),
        ("replay={selection: mir, candidates: 4, batch_size: 4}", "candidates=4: must be more than are replayed"),
    ],
)
def test_bad_values_are_refused_with_the_path_of_the_key(settings: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        build_trial(resolve_experiment(load_config("quickstart", ["strategies={}", f"strategies.{settings}"])))
    assert message in str(error.value)


# Sample selection: herding, GSS, MIR, algorithm R.


@pytest.mark.parametrize(("num", "width", "seed"), [(1, 3, 0), (40, 5, 1), (60, 16, 2)])
def test_herding_is_avalanches(num: int, width: int, seed: int) -> None:
    features = normal(num, width, seed=seed).double()
    theirs = HerdingSelectionStrategy.__new__(HerdingSelectionStrategy).make_sorted_indices_from_features(features)
    assert herding.herding(features, num + 5).tolist() == theirs
    assert (
        herding.herding(features.float(), 7).tolist() == theirs[:7]
    )  # a shorter order is the beginning of a longer one
    assert herding.herding(features, 0).tolist() == []


def test_a_new_sample_is_stored_with_the_probabilities_of_algorithm_r() -> None:
    """Each sample is in memory equally often for any division into mini-batches; no slot is empty."""
    memory, total, trials = 4, 11, 4000
    for sizes in ((11,), (3, 8), (1,) * 11):
        counts = torch.zeros(total)
        for seed in range(trials // len(sizes)):
            held, met = torch.full((memory,), -1), 0
            for number, size in enumerate(sizes):
                rows, chosen = reservoir_slots(met, size, memory, generator(seed, number))
                assert len(set(chosen.tolist())) == len(chosen)
                held[chosen] = met + rows
                met += size
            assert (held >= 0).all()
            counts[held] += 1
        share, trials_made = memory / total, trials // len(sizes)
        assert ((counts / trials_made - share).abs() < 5 * (share * (1 - share) / trials_made) ** 0.5).all(), sizes


def test_the_last_of_several_samples_for_one_slot_stays() -> None:
    """A second way: one by one with the same numbers."""
    rows, chosen = reservoir_slots(2, 50, 3, generator(5))
    u = torch.rand(50, generator=generator(5), dtype=torch.float64).tolist()
    held: dict[int, int] = {}
    for row, value in enumerate(u):
        place = 2 + row if 2 + row < 3 else int(value * (3 + row))
        if place < 3:
            held[place] = row
    assert dict(zip(chosen.tolist(), rows.tolist(), strict=True)) == held and len(held) == 3


def test_gss_compares_gradients_of_the_head() -> None:
    """The product of two cosines equals the cosine of the gradients from autograd."""
    features, y, head = normal(6, 4), torch.tensor([0, 1, 2, 0, 1, 2]), nn.Linear(4, 3)
    gradients = []
    for row, label in zip(features, y, strict=True):
        gradient = torch.autograd.grad(cross_entropy(head(row[None]), label[None]), list(head.parameters()))
        gradients.append(torch.cat([each.flatten() for each in gradient]))
    expected = nn.functional.normalize(torch.stack(gradients)) @ nn.functional.normalize(torch.stack(gradients)).T
    residuals = (head(features).softmax(1) - one_hot(y, 3)).detach()
    # one in memory, one new: its score is 1 + their cosine
    for i, j in product(range(6), repeat=2):
        scores = torch.tensor([0.5, torch.nan], dtype=torch.float64)
        sample_selection.gss_greedy(residuals[[i, j]], features[[i, j]], scores, 2, generator(0))
        assert scores[0] == 0.5 and scores[1].item() == pytest.approx(1 + expected[i, j].item(), abs=1e-5)


def test_gss_replaces_in_proportion_to_the_scores() -> None:
    """One slot, whose sample has score C, and a new sample with the opposite gradient and score c = 1 + cosine."""
    residuals, features = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.2, 0.0]])
    c = 1 - (0.2 + 1) / (2 * 1.04) ** 0.5
    for held, trials in ((0.5, 2000), (0.05, 2000)):
        taken = 0
        for seed in range(trials):
            scores = torch.tensor([held, torch.nan], dtype=torch.float64)
            taken += int(sample_selection.gss_greedy(residuals, features, scores, 1, generator(seed))[0])
        assert taken / trials == pytest.approx(held / (held + c), abs=0.04)


def test_gss_stores_dissimilar_samples() -> None:
    """Of similar samples the first ones stay. A few with the opposite gradient are stored."""
    residuals, features = torch.tensor([[1.0, -1.0]]).repeat(60, 1), torch.ones(60, 2)
    scores = torch.full((60,), torch.nan, dtype=torch.float64)
    scores[:10] = 1.5
    alike = sample_selection.gss_greedy(residuals, features, scores.clone(), 10, generator(0))
    assert alike.tolist() == list(range(10))
    residuals[50:] *= -1
    mixed = sample_selection.gss_greedy(residuals, features, scores, 10, generator(0))
    assert (mixed >= 50).sum() >= 2 and (mixed < 10).any() and not ((mixed >= 10) & (mixed < 50)).any()
    assert (mixed.diff() > 0).all() and scores[mixed].isfinite().all()


def test_mir_is_the_difference_after_a_step() -> None:
    """A second way: a copy of the network takes the step with torch's SGD; the network itself is unchanged."""
    model, lr = small_net(), 0.3
    x, y, t = normal(8, 6), torch.arange(8) % 3, torch.zeros(8, dtype=torch.int64)
    new, old = (x[:4], y[:4], t[:4]), (x[4:], y[4:], t[4:])
    before = copy.deepcopy(model.state_dict())

    def losses(logits: Tensor, y: Tensor, t: Tensor) -> Tensor:
        return cross_entropy(logits, y, reduction="none")

    grown = sample_selection.interference(model, losses, new, old, lr)
    assert same(before, model.state_dict()) and all(p.grad is None for p in model.parameters())
    stepped = copy.deepcopy(model)
    optimizer = torch.optim.SGD(stepped.parameters(), lr=lr)
    cross_entropy(stepped(new[0]), new[1]).backward()
    optimizer.step()
    expected = losses(stepped(old[0]), old[1], old[2]) - losses(model(old[0]), old[1], old[2])
    torch.testing.assert_close(grown, expected.detach(), atol=1e-6, rtol=1e-5)
    assert grown.abs().max() > 0.01


class Draws(replay.ReplayPlugin):
    """Keep the sampled indices."""

    def draw(self, learner: Any) -> Tensor:
        self.last = super().draw(learner)
        return self.last


def test_mir_replays_the_worst_of_the_candidates() -> None:
    config = replay.Config(memory=30, batch_size=4, selection="mir", candidates=12)
    plugin = Draws(config, 0)
    seen: list[int] = []

    class Look(Plugin):
        """Sample again, at random and by hand, before the step."""

        def before_training_iteration(self, learner: Any, **kwargs: Any) -> None:
            if not len(plugin.memory):
                return
            drawn = plugin.memory.sample(learner, 12)
            x, y, _ = plugin.memory.samples(learner, drawn)
            new = [part[:-4] for part in learner.mbatch]
            twin = copy.deepcopy(learner.model)
            loss = [cross_entropy(twin(x), y, reduction="none")]
            cross_entropy(twin(new[0]), new[1]).backward()
            with torch.no_grad():
                for parameter in twin.parameters():
                    parameter -= learner.optimizer.param_groups[0]["lr"] * parameter.grad
            loss.append(cross_entropy(twin(x), y, reduction="none"))
            worst = drawn[(loss[1] - loss[0]).argsort(descending=True)[:4]]
            assert set(worst.tolist()) == set(plugin.last.tolist())
            seen.append(len(set(worst.tolist()) - set(drawn[:4].tolist())))

    learn([plugin, Look(None)])
    assert len(seen) == 4 * 5 and sum(seen) > 20  # and not always the first four


@pytest.mark.parametrize("policy", ["herding", "gss"])
def test_policies_fill_the_memory(policy: str) -> None:
    plugin = replay.ReplayPlugin(replay.Config(memory=14, policy=policy), 0)
    learner = learn([plugin])
    columns = plugin.memory.columns
    counts = torch.bincount(columns["y"], minlength=4).tolist()
    assert sum(counts) == 14 and (policy == "gss" or counts == quotas(14, 4))
    if policy == "herding":  # for the last experience's classes: Avalanche's order with the present network
        for label in (2, 3):
            x = pair(1, 0)[0][(label - 2) * N : (label - 1) * N]
            with torch.no_grad():
                features = nn.functional.normalize(learner.model.eval().trunk(x), dim=1).double()
            first = HerdingSelectionStrategy.__new__(HerdingSelectionStrategy).make_sorted_indices_from_features(
                features
            )
            expected = x[sorted(first[: quotas(14, 4)[label]])]
            torch.testing.assert_close(columns["x"][columns["y"] == label], expected)
    else:
        assert columns["score"].isfinite().all()


# DER.


def test_matching_by_hand() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0], [0.0, -1.0, 5.0]])
    stored = torch.tensor([[0.0, torch.nan], [1.0, 1.0]])
    assert der.stored_logit_loss(logits, stored).item() == pytest.approx((1 + 1 + 4) / 3)
    assert der.stored_logit_loss(logits, logits[:, :2] + 2).item() == pytest.approx(4)
    stored = normal(2, 3)
    torch.testing.assert_close(der.stored_logit_loss(logits, stored), mse_loss(logits, stored))
    logits.requires_grad_()
    der.stored_logit_loss(logits, torch.tensor([[0.0, torch.nan], [1.0, -torch.inf]])).backward()
    assert logits.grad is not None and torch.equal(logits.grad, torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]))
    assert der.pad_outputs(stored, 5).isnan().sum() == 4


class Spy(Plugin):
    """Recompute the loss with a copy of the network, and keep the seen samples."""

    def __init__(self, plugin: Any, loss: Callable[[Any, Any, Any], Tensor]) -> None:
        self.plugin, self.loss = plugin, loss
        self.seen: dict[tuple[float, ...], list[Tensor]] = {}
        self.num_checked = 0

    def before_backward(self, learner: Any, **kwargs: Any) -> None:
        expected = self.loss(self.plugin, learner, copy.deepcopy(learner.model))
        torch.testing.assert_close(learner.loss.squeeze(), expected)
        self.num_checked += int(len(self.plugin) > 0)
        for x, logits in zip(learner.mb_x, learner.mb_output, strict=True):
            self.seen.setdefault(tuple(x.tolist()), []).append(logits.detach().clone())


def der_loss(plugin: Any, learner: Any, twin: nn.Module) -> Tensor:
    """Return Mammoth's three terms."""
    loss = cross_entropy(twin(learner.mb_x), learner.mb_y)
    if len(plugin):
        first, second = plugin.draw(learner, "logits"), plugin.draw(learner, "labels")
        stored, held = plugin.columns["logits"][first], twin(plugin.columns["x"][first])
        known = ~stored.isnan()
        loss = loss + 0.3 * ((held[:, : stored.shape[1]] - stored)[known] ** 2).mean()
        loss = loss + 0.7 * cross_entropy(twin(plugin.columns["x"][second]), plugin.columns["y"][second])
    return loss


def test_der_is_the_sum_of_three_terms_and_stores_seen_samples() -> None:
    plugin = der.DERPlugin(der.Config(memory=12, alpha=0.3, beta=0.7, batch_size=5), 0)
    spy = Spy(plugin, der_loss)
    learn([plugin, spy])
    assert spy.num_checked == 2 * 4 * 5 - 1 and len(plugin) == 12  # all iterations but the first
    widths = set()
    for x, y, logits in zip(*(plugin.columns[name] for name in ("x", "y", "logits")), strict=True):
        own = logits[~logits.isnan()]
        widths.add(len(own))
        assert any(torch.equal(own, each) for each in spy.seen[tuple(x.tolist())])
        assert len(own) == (4 if y > 1 else 2)
    assert widths == {2, 4}
    assert plugin.num_seen == 2 * 4 * 2 * N


def test_der_without_weights_is_naive() -> None:
    learner = learn([der.DERPlugin(der.Config(alpha=0.0, beta=0.0), 0)])
    assert same(learner.model.state_dict(), learn([]).model.state_dict())


def test_a_reservoir_resumes_from_its_state() -> None:
    """The state is a copy: later insertions do not change it."""
    config = er_ace.Config(memory=5)
    one, other = ReservoirPlugin(config), ReservoirPlugin(config)
    clock = SimpleNamespace(train_exp_iterations=0)
    learner = SimpleNamespace(experience=SimpleNamespace(current_experience=0), clock=clock, device="cpu", mbatch=[])

    def fill(plugin: ReservoirPlugin[er_ace.Config], iteration: int) -> None:
        clock.train_exp_iterations = iteration
        learner.mbatch = [normal(3, 2, seed=iteration), torch.full((3,), iteration)]
        plugin.before_training_iteration(learner)
        plugin.after_training_iteration(learner)

    fill(one, 0)
    state = one.state_dict()
    assert {name: len(column) for name, column in state.items() if name != "num_met"} == {"x": 3, "y": 3, "t": 3}
    saved = copy.deepcopy(state)
    other.load_state_dict(state)
    for iteration in range(1, 6):
        fill(one, iteration)
        fill(other, iteration)
    assert same(one.columns, other.columns) and len(one) == 5
    assert set(one.columns["y"].tolist()) != {0, 1}
    again = ReservoirPlugin(config)
    again.load_state_dict(saved)
    assert len(again) == 3


# ER-ACE.


def ace_loss(plugin: Any, learner: Any, twin: nn.Module) -> Tensor:
    """Return Avalanche's criterion, which halves the sum."""
    if not (learner.experience.current_experience and len(plugin)):
        return cross_entropy(twin(learner.mb_x), learner.mb_y)
    index = plugin.draw(learner)
    remembered = twin(plugin.columns["x"][index]), plugin.columns["y"][index]
    loss: Tensor = 2 * ACECriterion()(twin(learner.mb_x), learner.mb_y, *remembered)
    return loss


def test_er_ace_is_avalanches() -> None:
    plugin = er_ace.ERACEPlugin(er_ace.Config(memory=12, batch_size=5), 0)
    spy = Spy(plugin, ace_loss)
    learner = learn([plugin, spy])
    assert spy.num_checked == 2 * 4 * 5 - 1
    assert isinstance(learner._criterion, nn.CrossEntropyLoss)  # restored


def test_asymmetric_by_hand() -> None:
    logits, y = torch.tensor([[0.0, 3.0, 1.0], [2.0, 9.0, 0.0]]), torch.tensor([0, 2])
    expected = cross_entropy(logits[:, [0, 2]], torch.tensor([0, 1]))
    torch.testing.assert_close(er_ace.asymmetric(logits, y), expected)
    logits.requires_grad_()
    er_ace.asymmetric(logits, y).backward()
    assert logits.grad is not None and logits.grad[:, 1].tolist() == [0, 0]


# A-GEM and GEM.


@pytest.mark.parametrize("seed", range(8))
def test_agem_projects_as_avalanches(seed: int) -> None:
    """Both have the same gradients in the same parameters, one of which has none."""
    theirs, ours = small_net(), small_net()
    plugin = AGEMPlugin(1, 1)
    plugin.buffers = [None]  # type: ignore[list-item]
    total = sum(p.numel() for p in theirs.parameters())
    plugin.reference_gradients, gradient = normal(total, seed=seed), normal(total, seed=100 + seed)
    own = agem.AGEMPlugin(agem.Config(memory=1, sample_size=1))
    own._reference = plugin.reference_gradients.clone()
    for model in (theirs, ours):
        parts = gradient.split([p.numel() for p in model.parameters()])
        for parameter, part in zip(model.parameters(), parts, strict=True):
            parameter.grad = part.view_as(parameter).clone()
        model[1].bias.grad = None  # type: ignore[union-attr]
    plugin.after_backward(SimpleNamespace(model=theirs, device="cpu"))
    own.after_backward(SimpleNamespace(model=ours))
    for one, other in zip(theirs.parameters(), ours.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        if one.grad is not None and other.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, atol=1e-6, rtol=1e-5)


def test_agem_by_hand() -> None:
    g, r = torch.tensor([1.0, 1.0]), torch.tensor([-2.0, 0.0])
    assert agem.project_gradient(g, r).tolist() == [0, 1]
    assert torch.equal(agem.project_gradient(g, -r), g) and torch.equal(agem.project_gradient(g, torch.zeros(2)), g)


@pytest.mark.parametrize("strength", [0.0, 0.5])
@pytest.mark.parametrize("seed", range(6))
def test_gem_solves_avalanches_quadratic_programme(seed: int, strength: float) -> None:
    """quadprog's solution, also if two past gradients are nearly equal and if there are more gradients than parameters."""
    num, size = [(1, 30), (3, 30), (10, 30), (5, 4), (20, 40), (4, 9)][seed]
    references, gradient = normal(num, size, seed=seed), normal(size, seed=50 + seed)
    if num > 3:
        references[1] = references[0] + 1e-3 * normal(size, seed=7)
    plugin = GEMPlugin(1, strength)
    plugin.G = references
    violated = bool((references @ gradient < 0).any())
    expected = plugin.solve_quadprog(gradient) if violated else gradient
    torch.testing.assert_close(gem.project_gradient(gradient, references, strength), expected, atol=1e-4, rtol=1e-4)


def test_gem_by_hand_and_where_nothing_is_violated() -> None:
    g, rows = torch.tensor([1.0, 1.0]), torch.tensor([[-1.0, 0.0], [0.0, 1.0]])
    torch.testing.assert_close(gem.project_gradient(g, rows, 0.0), torch.tensor([1e-3 / 1.001, 1.0]))
    assert gem.project_gradient(g, rows.abs(), 0.5) is g


def test_least_squares_with_bounds_against_all_active_sets() -> None:
    for seed in range(20):
        root, vector = normal(5, 5, seed=seed).double(), normal(5, seed=99 + seed).double()
        matrix = root @ root.T + 1e-3 * torch.eye(5, dtype=torch.float64)
        best, least = None, torch.inf
        for free in product([False, True], repeat=5):
            chosen, solution = torch.tensor(free), torch.zeros(5, dtype=torch.float64)
            if chosen.any():
                solution[chosen] = torch.linalg.solve(matrix[chosen][:, chosen], -vector[chosen])
            value = float(solution @ matrix @ solution / 2 + vector @ solution)
            if (solution >= 0).all() and value < least:
                best, least = solution, value
        torch.testing.assert_close(nonnegative_quadratic(matrix, vector), best)


@pytest.mark.parametrize(
    "make",
    [lambda: agem.AGEMPlugin(agem.Config(memory=8, sample_size=6), 0), lambda: gem.GEMPlugin(gem.Config(memory=8), 0)],
)
def test_no_step_opposes_the_memorys_gradient(make: Callable[[], Any]) -> None:
    """The reference is the gradient of the memory's samples, and the gradient of the step does not oppose it."""
    plugin, turned = make(), []

    class Look(Plugin):
        """Compute the reference with `backward`, and read the gradient that the optimizer gets."""

        def before_training_iteration(self, learner: Any, **kwargs: Any) -> None:
            if not len(plugin.memory):
                return
            twin = copy.deepcopy(learner.model)
            index = torch.arange(8) if isinstance(plugin, gem.GEMPlugin) else plugin.memory.sample(learner, 6)
            x, y, _ = plugin.memory.samples(learner, index)
            cross_entropy(twin(x), y).backward()
            self.wanted = torch.cat([p.grad.flatten() for p in twin.parameters()])
            torch.testing.assert_close(plugin._reference.flatten(), self.wanted)

        def before_backward(self, learner: Any, **kwargs: Any) -> None:
            gradients = torch.autograd.grad(learner.loss, list(learner.model.parameters()), retain_graph=True)
            self.plain = torch.cat([gradient.flatten() for gradient in gradients])

        def before_update(self, learner: Any, **kwargs: Any) -> None:
            if len(plugin.memory):
                followed = torch.cat([p.grad.flatten() for p in learner.model.parameters()])
                against = bool(self.plain @ self.wanted < 0)
                turned.append(against)
                assert torch.equal(followed, self.plain) != against
                slack = 0.05 if isinstance(plugin, gem.GEMPlugin) else 1e-4  # GEM's dual has a ridge of 1e-3
                assert followed @ self.wanted >= -slack * followed.norm() * self.wanted.norm()
                assert followed @ self.wanted >= self.plain @ self.wanted

    learn([plugin, Look(None)])
    assert len(turned) == 4 * 5 and any(turned)
    assert torch.bincount(plugin.memory.columns["y"] // 2).tolist() == [8, 8]


# GDumb.


def test_gdumb_trains_the_initial_network_on_a_balanced_memory() -> None:
    plugin, watch, starts = gdumb.GDumbPlugin(gdumb.Config(memory=18), 0), Watch(), []

    class Look(Plugin):
        """Keep the network and the data at the start of an experience."""

        def before_training_exp(self, learner: Any, **kwargs: Any) -> None:
            starts.append(copy.deepcopy(learner.model.state_dict()))
            labels = torch.tensor(list(learner.adapted_dataset.targets))
            assert torch.bincount(labels).tolist() == quotas(18, len(labels.unique()))
            own = {tuple(x.tolist()) for x in torch.cat([pair(0, 0)[0], pair(1, 0)[0]])}
            assert {tuple(x.tolist()) for x, *_ in learner.adapted_dataset} <= own

    learner = learn([plugin, watch, Look(None)])
    assert watch.labels == [{0, 1}, {0, 1, 2, 3}] and sum(watch.rows) == 2 * 4 * 18
    for name, tensor in starts[1].items():
        first = starts[0][name]
        assert torch.equal(tensor[: len(first)] if first.ndim else tensor, first), name
    assert min(learner.evaluate().task_agnostic) > 0.8


def test_reset_samples_rows_that_were_added_later() -> None:
    model = nn.Linear(4, 3)
    initial = {"weight": torch.ones(2, 4), "bias": torch.ones(2)}
    reset_weights(model, initial, generator(0))
    assert torch.equal(model.weight[:2], initial["weight"]) and model.bias.tolist() == [1, 1, 0]
    assert (model.weight[2].abs() <= 0.5).all() and len(model.weight[2].unique()) == 4


# In a plain Avalanche script, on streams of tasks, augmented and in low precision.

PLAIN: list[
    tuple[str, Callable[[], Plugin], float]
] = [  # name, plugin, least accuracy on the first experience at the end
    ("der", lambda: der.DERPlugin(der.Config(memory=20), 0), 0.7),
    ("er_ace", lambda: er_ace.ERACEPlugin(er_ace.Config(memory=20), 0), 0.9),
    ("agem", lambda: agem.AGEMPlugin(agem.Config(memory=20), 0), 0.0),  # outputs of old classes are still pushed down
    ("gem", lambda: gem.GEMPlugin(gem.Config(memory=20), 0), 0.6),
    ("gdumb", lambda: gdumb.GDumbPlugin(gdumb.Config(memory=40), 0), 0.7),
    ("herding", lambda: replay.ReplayPlugin(replay.Config(memory=20, policy="herding"), 0), 0.9),
    ("gss", lambda: replay.ReplayPlugin(replay.Config(memory=20, policy="gss", selection="mir", batch_size=4), 0), 0.6),
]


@pytest.fixture(scope="module")
def naive() -> list[dict[str, Tensor]]:
    """Plain finetuning forgets."""
    bits = script([], epochs=5)
    assert accuracy(bits[2], 0) < 0.6
    return bits


@pytest.mark.parametrize(("make", "least"), [case[1:] for case in PLAIN], ids=[case[0] for case in PLAIN])
def test_in_a_plain_avalanche_script(naive: list[dict[str, Tensor]], make: Callable[[], Plugin], least: float) -> None:
    one, other = script([make()], epochs=5), script([make()], epochs=5)
    assert same(one[2], other[2]) and not same(one[2], naive[2])
    assert accuracy(one[2], 0) >= least


@pytest.mark.parametrize("make", [make for _, make, _ in PLAIN], ids=[name for name, _, _ in PLAIN])
def test_in_a_plain_avalanche_script_without_task_labels(make: Callable[[], Plugin]) -> None:
    assert len(script([make()], task_labels=False, epochs=1)) == 3


@pytest.mark.parametrize("kind", ["tasks", "augmented", "bfloat16"])
@pytest.mark.parametrize("name", ["der", "er_ace", "agem", "gem", "gdumb", "replay"])
def test_it_learns_tasks_augmented_pictures_and_in_low_precision(name: str, kind: str, make_experiment: Make) -> None:
    """A non-finite loss would end the trial."""
    training = {"tasks": {}, "augmented": {"augmentation": "digits"}, "bfloat16": {"precision": "bfloat16"}}[kind]
    settings = {"replay": {"policy": "gss", "selection": "mir", "batch_size": 8}}.get(name, {})
    config = make_experiment("pair", strategies={name: settings}, optimizer={"lr": 0.1}, **training)
    if kind == "tasks":
        config = changed(config, benchmark={"task_incremental": {"data": "digits", "num_experiences": 5}})
    parts = build_trial(resolve_experiment(config))
    learner = parts.learner(lambda learner: None, lambda text: None)
    for number in range(len(parts.stream.experiences)):
        learner.train_experience(number)
    row = learner.evaluate()
    assert sum(row.task_aware) / len(row.task_aware) > (0.6 if kind == "tasks" else 0.3)
