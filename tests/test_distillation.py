"""Strategies that distil: formulas against oracles, what they do not change, the same bits with cached and recomputed outputs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from avalanche.training.losses import ICaRLLossPlugin
from avalanche.training.regularization import LearningWithoutForgetting
from avalanche.training.templates import SupervisedTemplate
from test_strategies_avalanche import Bits, benchmark, same
from torch import Tensor, nn

from retain.platform.config.schema import Experiment, Optimizer, Training
from retain.platform.data.streams import Stream
from retain.platform.errors import UserError
from retain.platform.methods import logit_distillation
from retain.platform.methods.layer_distillation import growth
from retain.platform.models.cosine_head import CosineHead
from retain.platform.models.features import FEATURES
from retain.platform.models.heads import Classifier
from retain.platform.training.avalanche_learner import AvalancheLearner as Learner
from retain.platform.training.plugin import Plugin
from retain.platform.trial.builder import build_trial
from retain.platform.trial.resolve import resolve_experiment, strategy_builder
from retain.strategies import (
    attention_distillation,
    cosine_head,
    feature_distillation,
    local_similarity,
    lucir,
    lwf,
    lwf_mc,
    podnet,
    replay,
)

Make = Callable[..., Experiment]


def draws(*shape: int, seed: int = 0) -> Tensor:
    """Return normally distributed numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class CNN(nn.Sequential):
    """Pictures of 16 pixels -> 4 maps of 2 x 2, pooled from 4 x 4 -> 16 features."""

    def __init__(self) -> None:
        super().__init__(
            nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
        )


def network(kind: str = "mlp", adapt: Callable[[nn.Module], nn.Module] = lambda model: model) -> nn.Module:
    """Return a network for the tiny stream, changed by `adapt` if given."""
    draw = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Flatten(), CNN() if kind == "cnn" else nn.Sequential(nn.Linear(16, 16), nn.ReLU()))
    return adapt(Classifier(trunk, 16, 2, draw))


def learn(
    stream: Stream, model: nn.Module, plugins: Sequence[Plugin], cls: type[Learner] = Learner, **training: Any
) -> Learner:
    """Train on the stream, two epochs per experience."""
    settings = {"epochs": 2, "batch_size": 16, "optimizer": Optimizer(lr=0.1, clip=None)} | training
    learner = cls(model=model, stream=stream, training=Training(**settings), plugins=plugins)
    for number in range(len(stream.experiences)):
        learner.train_experience(number)
    return learner


class Terms(Plugin):
    """Call a function as (learner, what is added to the loss) around the next strategy's `before_backward`."""

    def __init__(self, plugin: Plugin, look: Callable[[Any, Tensor], None]) -> None:
        self.plugin, self.look = plugin, look

    def before_backward(self, learner: Any, **kwargs: Any) -> None:
        before = learner.loss
        self.plugin.before_backward(learner)
        self.look(learner, (learner.loss - before).detach())
        learner.loss = before


# Bad values, and what does not fit the network.


@pytest.mark.parametrize(
    ("module", "settings", "message"),
    [
        (lwf_mc, {"weight": -1.0}, "weight=-1.0: must be a finite number of at least 0"),
        (feature_distillation, {"weight": math.inf}, "weight=inf: must be a finite number of at least 0"),
        (feature_distillation, {"layers": ()}, "layers=[]: must be a list of at least one item"),
        (feature_distillation, {"loss": "l1"}, "loss='l1': must be 'cosine' or 'mse'"),
        (attention_distillation, {"weight": -1.0}, "weight=-1.0: must be a finite number of at least 0"),
        (attention_distillation, {"kind": "cam"}, "kind='cam': must be 'activation' or 'gradcam'"),
        (
            attention_distillation,
            {"layers": ("",)},
            "layers=['']: must be a list of at least one item, each item a string that is not empty",
        ),
        (podnet, {"spatial_weight": -1.0}, "spatial_weight=-1.0: must be a finite number of at least 0"),
        (podnet, {"flat_weight": math.nan}, "flat_weight=nan: must be a finite number of at least 0"),
        (podnet, {"layers": ()}, "layers=[]: must be a list of at least one item"),
        (lucir, {"weight": -1.0}, "weight=-1.0: must be a finite number of at least 0"),
        (lucir, {"margin_weight": -1.0}, "margin_weight=-1.0: must be a finite number of at least 0"),
        (lucir, {"margin": 2.5}, "margin=2.5: must be a number in (0, 2]"),
        (lucir, {"negatives": 0}, "negatives=0: must be an integer above 0"),
        (lucir, {"scale": 0.0}, "scale=0.0: must be a finite number above 0"),
        (cosine_head, {"scale": 0.0}, "scale=0.0: must be a finite number above 0"),
        (local_similarity, {"proxies": 0}, "proxies=0: must be an integer above 0"),
        (local_similarity, {"margin": -0.1}, "margin=-0.1: must be a number in [0, 2]"),
        (local_similarity, {"scale": math.inf}, "scale=inf: must be a finite number above 0"),
    ],
)
def test_bad_values_are_named(module: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        module.Config(**settings)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("module", "layers", "kind", "message"),
    [
        (feature_distillation, ("trnk.*",), "mlp", "feature_distillation.layers=['trnk.*']: 'trnk.*' fits no layer"),
        (podnet, ("conv",), "cnn", "podnet.layers=['conv']: 'conv' fits no layer"),
        (
            podnet,
            ("trunk.1.0", "trunk.1.1"),
            "cnn",
            "podnet.layers=['trunk.1.0', 'trunk.1.1']: ['trunk.1.0'] hold no conv",
        ),
        (podnet, None, "mlp", "podnet.layers=null: this network has no block with convolutions"),
        (attention_distillation, None, "mlp", "attention_distillation.layers=null: this network has no block"),
    ],
)
def test_layers_are_checked_against_the_network(module: Any, layers: Any, kind: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        module.check_model(module.Config(layers=layers), network(kind))
    assert str(caught.value).startswith(f"strategies.{message}")
    module.check_model(module.Config(), network("cnn"))


@pytest.mark.parametrize("module", [podnet, attention_distillation])
def test_a_layer_that_flattens_its_maps_is_refused_when_it_runs(module: Any, tiny_stream: Any) -> None:
    plugin = strategy_builder(module, "")(module.Config(layers=("trunk",)), 0)
    with pytest.raises(UserError, match=r"'trunk' gives \[16\] for a sample, no maps"):
        learn(tiny_stream(), network("cnn"), [plugin])


@pytest.mark.parametrize("module", [cosine_head, lucir, local_similarity])
def test_a_network_without_a_linear_head_is_refused(module: Any) -> None:
    name = module.__name__.rpartition(".")[2]
    with pytest.raises(UserError, match=f"strategies.{name}: needs a network with a linear layer called `head`"):
        module.adapt(module.Config(), nn.Sequential(nn.Linear(2, 2)), torch.Generator())


# Learning without Forgetting.


def test_heads_are_distilled_separately_as_in_avalanches_multi_head() -> None:
    student, teacher = draws(2, 16, 5)
    heads = [torch.tensor([0, 1]), torch.tensor([2, 3, 4])]
    theirs = LearningWithoutForgetting(alpha=1, temperature=3.0)
    expected = 9 * sum(theirs._distillation_loss(student, teacher, own) for own in heads)
    torch.testing.assert_close(logit_distillation.distillation_loss_by_task(student, teacher, heads, 3.0), expected)


@pytest.mark.parametrize("scenario", ["task", "class"])
def test_each_old_task_has_a_separate_softmax(scenario: str, tiny_stream: Any) -> None:
    plugin = lwf.LwFPlugin(lwf.Config(weight=0.5), 0)
    seen: list[int] = []

    def look(learner: Any, added: Tensor) -> None:
        number = learner.experience.current_experience
        if number:
            teacher, student = plugin.teacher.softened(learner).logits, learner.mb_output[:, : 2 * number]
            heads = (
                [[2 * old, 2 * old + 1] for old in range(number)] if scenario == "task" else [list(range(2 * number))]
            )
            parts = [logit_distillation.distillation_loss(student[:, own], teacher[:, own], 2.0, "kl") for own in heads]
            torch.testing.assert_close(added, 0.5 * torch.stack(parts).sum().detach(), rtol=1e-4, atol=1e-6)
            seen.append(number)

    class Whole(Terms):
        """Forward the strategy's other hooks too."""

        def before_train_dataset_adaptation(self, learner: Any, **kwargs: Any) -> None:
            plugin.before_train_dataset_adaptation(learner)

        def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
            plugin.after_training_exp(learner)

    learn(replace(tiny_stream(), scenario=scenario), network(), [Whole(plugin, look)])
    assert set(seen) == {1, 2}


def test_a_list_of_weights_is_one_for_each_experience(make_experiment: Make, tiny_stream: Any) -> None:
    one, listed, other = (
        learn(tiny_stream(), network(), [lwf.LwFPlugin(lwf.Config(weight=weight), 0)]).model.state_dict()
        for weight in (2.0, (7.0, 2.0, 2.0), (7.0, 2.0, 1.0))
    )
    assert same(one, listed) and not same(one, other)
    alpha = [0, 0.5, 4 / 3, 2.25, 3.2]  # a list in the YAML: Avalanche's values, divided by T^2
    config = make_experiment(strategies={"lwf": {"weight": [each / 4 for each in alpha]}})
    (plugin,) = build_trial(resolve_experiment(config)).plugins()
    assert plugin.config.weight == tuple(each / 4 for each in alpha)


# LwF.MC.


def test_lwf_mc_is_avalanches_icarl_loss() -> None:
    logits, teacher = draws(16, 5), draws(16, 3, seed=1)
    y = torch.randint(5, (16,), generator=torch.Generator().manual_seed(2))  # also old classes: samples of a memory
    theirs = ICaRLLossPlugin()
    theirs.old_logits, theirs.old_classes = teacher, [0, 1, 2]
    ours = lwf_mc.classification(logits, y, torch.tensor([3, 4])) + lwf_mc.distillation(logits, teacher)
    torch.testing.assert_close(ours, theirs(logits, y))


def test_lwf_mc_by_hand_where_other_tasks_classes_are_masked() -> None:
    logits = torch.tensor([[0.0, -torch.inf], [-torch.inf, math.log(3)]], requires_grad=True)
    loss = lwf_mc.classification(logits, torch.tensor([0, 1]), torch.tensor([0, 1]))
    assert loss.item() == pytest.approx((math.log(2) + math.log(4 / 3)) / 4, abs=1e-6)
    loss.backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.tensor([[-0.5, 0.0], [0.0, -0.25]]) / 4)


def test_lwf_mc_replaces_the_criterion_while_it_trains(tiny_stream: Any) -> None:
    plugin = lwf_mc.LwFMCPlugin(lwf_mc.Config(weight=2.0), 0)
    losses: list[tuple[float, float]] = []

    class Look(Plugin):
        """Compare the loss with the formula."""

        def before_backward(self, learner: Any, **kwargs: Any) -> None:
            number, logits = learner.experience.current_experience, learner.mb_output
            new = torch.tensor([2 * number, 2 * number + 1])
            expected = lwf_mc.classification(logits, learner.mb_y, new)
            if number:
                teacher = plugin.teacher.outputs_for(learner.mb_x)["logits"]
                assert teacher.shape[1] == 2 * number
                expected = expected + 2.0 * lwf_mc.distillation(logits, teacher)
            losses.append((learner.loss.item(), expected.item()))

    learner = learn(tiny_stream(), network(), [plugin, Look(None)])
    ours, expected = torch.tensor(losses).T
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)
    assert isinstance(learner._criterion, nn.CrossEntropyLoss)


# Cosine head.


def test_cosines_by_hand() -> None:
    head = CosineHead(torch.tensor([[2.0, 0.0], [3.0, 3.0], [0.0, -1.0]]), 4.0)
    logits = head(torch.tensor([[5.0, 0.0]]))
    torch.testing.assert_close(logits, torch.tensor([[4.0, 4 / math.sqrt(2), 0.0]]))


def test_a_cosine_head_grows_and_shrinks_like_the_linear_one() -> None:
    head = CosineHead(draws(3, 8), 10.0, learned=False)
    assert [name for name, _ in head.named_parameters()] == ["weight"]
    old = head.weight.detach().clone()
    head.grow(5, torch.Generator().manual_seed(0))
    assert (
        head.num_classes == 5 and torch.equal(head.weight[:3], old) and head.weight[3:].abs().max() < 1 / math.sqrt(8)
    )
    head.grow(4, torch.Generator())
    assert head.num_classes == 5
    head.shrink(3)
    assert torch.equal(head.weight, old)


def test_the_cosine_head_takes_the_rows_of_the_linear_one() -> None:
    linear, x = network(), draws(7, 16)
    features, rows = linear.features(x), linear.head.weight.detach().clone()  # type: ignore[operator, union-attr]
    adapted = cosine_head.adapt(cosine_head.Config(scale=3.0), linear, torch.Generator())
    expected = 3 * nn.functional.cosine_similarity(features.unsqueeze(1), rows.unsqueeze(0), dim=2)
    torch.testing.assert_close(adapted(x), expected)


# PODNet's head and loss.


def test_local_similarity_follows_its_formula() -> None:
    features, proxies = draws(5, 6), draws(3, 4, 6, seed=1)
    for b in range(5):
        for c in range(3):
            cosines = [float(nn.functional.cosine_similarity(features[b], proxies[c, k], dim=0)) for k in range(4)]
            total = sum(map(math.exp, cosines))
            expected = sum(math.exp(value) / total * value for value in cosines)
            assert local_similarity.similarity(features, proxies)[b, c].item() == pytest.approx(expected, abs=1e-6)


def test_with_one_proxy_the_outputs_are_the_cosine_heads() -> None:
    head = local_similarity.ProxyHead(8, local_similarity.Config(proxies=1, scale=4.0))
    head.grow(3, torch.Generator().manual_seed(0))
    plain = CosineHead(head.proxies[:, 0], 4.0)
    torch.testing.assert_close(head(draws(7, 8)), plain(draws(7, 8)))


def test_nca_by_hand() -> None:
    """The sum leaves out the sample's class, each sample's loss is at least 0, and without other classes it is 0."""
    logits = torch.tensor([[1.0, 2.0, 3.0], [9.0, 0.0, 0.0], [-torch.inf, 5.0, -torch.inf]], requires_grad=True)
    loss = local_similarity.nca(logits, torch.tensor([0, 0, 1]), torch.tensor(0.5))
    expected = (math.log(math.exp(2) + math.exp(3)) - (1 - 0.5)) / 3  # the second one's logit is far larger
    assert loss.item() == pytest.approx(expected)
    loss.backward()
    shares = torch.tensor([2.0, 3.0]).softmax(0) / 3
    assert logits.grad is not None and torch.equal(logits.grad[1:], torch.zeros(2, 3))
    torch.testing.assert_close(logits.grad[0], torch.tensor([-1 / 3, *shares]))


def test_nca_without_a_margin_is_minus_the_log_odds_of_the_softmax() -> None:
    """A second way: p / (1 - p) are the odds of the softmax; torch has its cross-entropy."""
    logits, y = draws(20, 6), torch.arange(20) % 6
    nll = nn.functional.cross_entropy(logits, y, reduction="none").double()
    odds = nll + (1 - (-nll).exp()).log()
    expected = odds.clamp(min=0).mean()
    torch.testing.assert_close(local_similarity.nca(logits, y, torch.tensor(0.0)).double(), expected, rtol=1e-4, atol=0)


def test_a_head_of_proxies_grows_and_shrinks_like_the_linear_one() -> None:
    head = local_similarity.ProxyHead(8, local_similarity.Config(proxies=4))
    head.grow(3, torch.Generator().manual_seed(1))
    old = head.proxies.detach().clone()
    head.grow(5, torch.Generator().manual_seed(0))
    assert head.num_classes == 5 and torch.equal(head.proxies[:3], old) and head.proxies.shape == (5, 4, 8)
    head.grow(4, torch.Generator())
    assert head.num_classes == 5
    head.shrink(3)
    assert torch.equal(head.proxies, old)


def test_the_network_and_its_scale_are_trained_with_nca(tiny_stream: Any) -> None:
    config = local_similarity.Config(proxies=3)
    losses: list[float] = []

    class Look(Plugin):
        """Compare the loss with the formula."""

        def before_backward(self, learner: Any, **kwargs: Any) -> None:
            head, y = learner.model.head, learner.mb_y
            features = learner.model.features(learner.mb_x)
            logits = head.scale * local_similarity.similarity(features, head.proxies)
            rivals = torch.stack([row[torch.arange(len(row)) != label] for row, label in zip(logits, y, strict=True)])
            behind = rivals.exp().sum(1).log() - logits[torch.arange(len(y)), y] + 0.6 * head.scale
            torch.testing.assert_close(learner.loss, behind.relu().mean())
            [ours] = torch.autograd.grad(learner.loss, head.scale, retain_graph=True)
            num_behind = (behind > 0).sum()  # each of them would reduce the scale by the margin
            [whole] = torch.autograd.grad(behind.relu().mean(), head.scale)
            torch.testing.assert_close(ours, whole - 0.6 * num_behind / len(y))
            losses.append(learner.loss.item())

    model = network(adapt=lambda model: local_similarity.adapt(config, model, torch.Generator().manual_seed(0)))
    learner = learn(tiny_stream(), model, [local_similarity.LocalSimilarityPlugin(config, 0), Look(None)], epochs=4)
    assert losses[0] > 1 and min(losses) < losses[0] / 4
    assert learner.model.head.scale.item() != 10.0 and learner.model.head.num_classes == len(tiny_stream().class_names)
    assert isinstance(learner._criterion, nn.CrossEntropyLoss)


# Feature distillation.


def test_cosine_is_torchs_embedding_loss_and_mse_is_by_hand() -> None:
    student, teacher = draws(2, 9, 6)
    theirs = nn.functional.cosine_embedding_loss(student, teacher, torch.ones(9))
    torch.testing.assert_close(feature_distillation.feature_distillation(student, teacher, "cosine"), theirs)
    one, other = torch.tensor([[[1.0], [2.0]]]), torch.tensor([[[0.0], [4.0]]])
    assert feature_distillation.feature_distillation(one, other, "mse").item() == (1 + 4) / 2
    assert feature_distillation.feature_distillation(one, -one, "cosine").item() == pytest.approx(2)


def test_layers_are_averaged_and_weighted(tiny_stream: Any) -> None:
    """A second way: the test keeps the teacher and computes the layers in separate passes."""
    plugin = feature_distillation.FeatureDistillationPlugin(
        feature_distillation.Config(weight=3.0, layers=("trunk.1.0", "features")), 0
    )
    seen: list[float] = []

    class Look(Plugin):
        """Compare the loss with the formula."""

        def before_backward(self, learner: Any, **kwargs: Any) -> None:
            if plugin.teacher.model is None:
                return
            layers = []
            for model in (learner.model, plugin.teacher.model):
                first = model.trunk[1][0](learner.mb_x.flatten(1))
                layers.append((first, model.features(learner.mb_x)))
            parts = [1 - nn.functional.cosine_similarity(s, t).mean() for s, t in zip(*layers, strict=True)]
            loss = learner._criterion(learner.mb_output, learner.mb_y) + 3.0 * (parts[0] + parts[1]) / 2
            torch.testing.assert_close(learner.loss.squeeze(), loss, rtol=1e-4, atol=1e-6)
            seen.append(loss.item())

    learn(tiny_stream(), network(), [plugin, Look(None)])
    assert len(seen) == 2 * 2 * 3


# LUCIR.


def test_margin_ranking_is_torchs_over_old_samples_and_their_hardest_new_classes() -> None:
    """FACIL's implementation: select, repeat, MarginRankingLoss."""
    cosines, num_old = draws(20, 7).tanh(), 4
    y = torch.arange(20) % 7
    old = y < num_old
    truth = cosines[old].gather(1, y[old].unsqueeze(1)).repeat(1, 2)
    hardest = cosines[old, num_old:].topk(2, dim=1).values
    theirs = nn.MarginRankingLoss(margin=0.5)(truth.flatten(), hardest.flatten(), torch.ones(2 * int(old.sum())))
    torch.testing.assert_close(lucir.margin_ranking(cosines, y, num_old, 0.5, 2), theirs)


def test_margin_ranking_by_hand() -> None:
    cosines = torch.tensor([[0.6, 0.5, 0.3], [0.9, 0.8, 0.0]])
    assert lucir.margin_ranking(cosines, torch.tensor([0, 1]), 1, 0.5, 1).item() == pytest.approx(0.4)
    assert lucir.margin_ranking(cosines, torch.tensor([0, 1]), 1, 0.5, 9).item() == pytest.approx((0.4 + 0.2) / 2)
    assert lucir.margin_ranking(cosines, torch.tensor([1, 2]), 1, 0.5, 2).item() == 0  # no old sample
    assert lucir.margin_ranking(cosines, torch.tensor([0, 1]), 3, 0.5, 2).item() == 0  # no new class


def test_margin_ranking_ignores_masked_classes() -> None:
    logits = torch.tensor([[0.6, 0.5, 0.3]], requires_grad=True)
    masked = logits.masked_fill(torch.tensor([[False, True, True]]), -torch.inf)
    loss = lucir.margin_ranking(masked, torch.tensor([0]), 1, 0.5, 2)
    loss.backward()
    assert loss.item() == 0 and logits.grad is not None and torch.equal(logits.grad, torch.zeros(1, 3))


def cosines(config: lucir.Config) -> nn.Module:
    """Return our network as `lucir` adapts it."""
    return network(adapt=lambda model: lucir.adapt(config, model, torch.Generator()))


def test_lucir_without_weights_is_the_cosine_head(tiny_stream: Any) -> None:
    config = lucir.Config(weight=0.0, margin_weight=0.0, scale=7.0)
    ours = learn(tiny_stream(), cosines(config), [lucir.LucirPlugin(config, 0)])
    head = network(adapt=lambda model: cosine_head.adapt(cosine_head.Config(scale=7.0), model, torch.Generator()))
    plain = learn(tiny_stream(), head, [cosine_head.CosineHeadPlugin(cosine_head.Config(scale=7.0), 0)])
    assert same(ours.model.state_dict(), plain.model.state_dict())
    assert ours.model.head.scale.item() != 7.0


def test_lucirs_loss_is_the_formula_with_a_memory(tiny_stream: Any) -> None:
    config = lucir.Config(weight=2.0, margin_weight=3.0)
    plugin = lucir.LucirPlugin(config, 0)
    margins: list[float] = []

    class Look(Plugin):
        """Compare the loss with the formula, in separate passes."""

        def before_backward(self, learner: Any, **kwargs: Any) -> None:
            if plugin.teacher.model is None:
                return
            old, x = plugin.teacher.model, learner.mb_x
            num_old = 2 * learner.experience.current_experience
            turned = 1 - nn.functional.cosine_similarity(learner.model.features(x), old.features(x)).mean()  # type: ignore[operator]
            bare = learner.mb_output / learner.model.head.scale
            margin = lucir.margin_ranking(bare, learner.mb_y, num_old, 0.5, 2)
            loss = learner._criterion(learner.mb_output, learner.mb_y)
            expected = loss + 2.0 * math.sqrt(num_old / 2) * turned + 3.0 * margin
            torch.testing.assert_close(learner.loss.squeeze(), expected, rtol=1e-4, atol=1e-5)
            margins.append(margin.item())

    learn(tiny_stream(), cosines(config), [replay.ReplayPlugin(replay.Config(memory=10), 0), plugin, Look(None)])
    assert len(margins) == 12 and max(margins) > 0


@pytest.mark.parametrize("weight", [5.0, 0.0])
def test_old_classes_weights_are_fixed_while_the_constraint_acts(weight: float, tiny_stream: Any) -> None:
    """With momentum and weight decay, to the bit."""
    config = lucir.Config(weight=weight)
    rows: list[Tensor] = []

    class Look(Plugin):
        """Keep the head's rows."""

        def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
            rows.append(learner.model.head.weight.detach().clone())

    optimizer = Optimizer(lr=0.1, momentum=0.9, weight_decay=0.1, clip=None)
    learn(tiny_stream(), cosines(config), [lucir.LucirPlugin(config, 0), Look(None)], optimizer=optimizer)
    fixed = [torch.equal(rows[1][:2], rows[0]), torch.equal(rows[2][:4], rows[1])]
    assert fixed == [weight > 0] * 2 and [len(each) for each in rows] == [2, 4, 6]


# PODNet.


def test_pooled_by_hand() -> None:
    maps = torch.tensor([[[[1.0, 2.0], [0.0, -1.0]]]])
    sums = torch.tensor([[1.0 + 4, 0 + 1, 1 + 0, 4 + 1]])  # over the width, then over the height
    torch.testing.assert_close(podnet.pooled(maps), sums / math.sqrt(25 + 1 + 1 + 25))


def test_podnets_loss_is_the_formula(tiny_stream: Any) -> None:
    """A second way: position by position in Python, with torch's embedding loss for the features."""
    plugin = podnet.PODNetPlugin(podnet.Config(spatial_weight=2.0, flat_weight=3.0), 0)
    seen: list[int] = []

    def pool(maps: Tensor) -> list[list[float]]:
        vectors = []
        for channels in maps.tolist():
            rows = [sum(value**2 for value in row) for channel in channels for row in channel]
            columns = [
                sum(value**2 for value in column) for channel in channels for column in zip(*channel, strict=True)
            ]
            norm = math.sqrt(sum(value**2 for value in rows + columns))
            vectors.append([value / norm for value in rows + columns])
        return vectors

    class Look(Plugin):
        """Compare the loss with the formula."""

        def before_backward(self, learner: Any, **kwargs: Any) -> None:
            if plugin.teacher.model is None or seen.count(learner.experience.current_experience) == 2:
                return
            pair = (learner.model, plugin.teacher.model)
            vectors = [pool(model.trunk[1][1](learner.mb_x)) for model in pair]
            spatial = sum(map(math.dist, *vectors)) / len(learner.mb_x)
            features = [model.features(learner.mb_x) for model in pair]
            flat = nn.functional.cosine_embedding_loss(*features, torch.ones(len(learner.mb_x)))
            number = learner.experience.current_experience
            loss = learner._criterion(learner.mb_output, learner.mb_y)
            expected = loss + math.sqrt((2 * number + 2) / 2) * (2.0 * spatial + 3.0 * flat)
            torch.testing.assert_close(learner.loss.squeeze(), expected, rtol=1e-4, atol=1e-5)
            seen.append(number)

    learn(tiny_stream(), network("cnn"), [plugin, Look(None)])
    assert seen == [1, 1, 2, 2]


def test_growth_by_hand() -> None:
    strategy = SimpleNamespace(experience=SimpleNamespace(classes_in_this_experience=[4, 5]))
    assert growth(8, strategy) == 2.0


# Attention distillation.


def test_activation_map_by_hand() -> None:
    maps = torch.tensor([[[[1.0, 2.0]], [[2.0, -2.0]]]])
    torch.testing.assert_close(attention_distillation.activation_map(maps), torch.tensor([[5.0, 8.0]]) / math.sqrt(89))


def test_grad_cam_is_cam_where_the_head_stands_on_pooled_maps() -> None:
    """Zhou 2016: with mean pooling and a linear head, the maps weighted with the class's row (Selvaraju 2017, 3.1)."""
    torch.manual_seed(0)
    convolution, head = nn.Conv2d(1, 5, 3), nn.Linear(5, 3)
    maps = convolution(draws(8, 1, 6, 6))
    logits, classes = head(maps.mean((2, 3))), torch.arange(8) % 3
    ours = attention_distillation.gradcam_maps(logits, classes, {"a": maps})["a"]
    cam = torch.einsum("bk,bkhw->bhw", head.weight[classes], maps).relu().flatten(1)
    torch.testing.assert_close(ours, nn.functional.normalize(cam))
    (slope,) = torch.autograd.grad(ours.sum(), convolution.weight)  # the maps get gradients; FACIL's do not
    assert slope.abs().max() > 0


@pytest.mark.parametrize(("kind", "order"), [("activation", 2), ("gradcam", 1)])
def test_attentions_loss_is_the_formula(kind: Any, order: int, tiny_stream: Any) -> None:
    config = attention_distillation.Config(weight=2.0, kind=kind)
    plugin = attention_distillation.AttentionDistillationPlugin(config, 0)
    added: list[float] = []

    def maps_of(model: Any, x: Tensor, classes: Tensor) -> Tensor:
        maps = model.trunk[1][1](x)
        if kind == "activation":
            return attention_distillation.activation_map(maps)
        logits = model.head(model.trunk[1][4](model.trunk[1][3](model.trunk[1][2](maps))))
        return attention_distillation.gradcam_maps(logits, classes, {"": maps})[""]

    class Look(Plugin):
        """Compare the loss with the formula."""

        def before_backward(self, learner: Any, **kwargs: Any) -> None:
            if plugin.teacher.model is None:
                return
            x = learner.mb_x.clone().requires_grad_()
            classes = plugin.teacher.model(x).argmax(1)
            student, teacher = (maps_of(model, x, classes) for model in (learner.model, plugin.teacher.model))
            loss = learner._criterion(learner.mb_output, learner.mb_y)
            expected = loss + 2.0 * torch.linalg.vector_norm(student - teacher, order, dim=1).mean()
            torch.testing.assert_close(learner.loss.squeeze(), expected, rtol=1e-4, atol=1e-5)
            added.append((learner.loss - loss).item())

    learn(tiny_stream(), network("cnn"), [plugin, Look(None)])
    assert len(added) == 12 and max(added) > 0.01


def test_grad_cam_uses_the_last_block_by_default() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(12, 2))
    config = attention_distillation.Config
    assert attention_distillation.selected_layers(config(kind="gradcam"), model) == ["1"]
    assert attention_distillation.selected_layers(config(), model) == ["0", "1"]
    assert attention_distillation.selected_layers(config(kind="gradcam", layers=("0", "1")), model) == ["0", "1"]


# All of them.

ALL: dict[str, tuple[str, Callable[[], Plugin]]] = {
    "lwf": ("mlp", lambda: lwf.LwFPlugin(lwf.Config(), 0)),
    "lwf_mc": ("mlp", lambda: lwf_mc.LwFMCPlugin(lwf_mc.Config(), 0)),
    "features": ("mlp", lambda: feature_distillation.FeatureDistillationPlugin(feature_distillation.Config(), 0)),
    "mse": (
        "cnn",
        lambda: feature_distillation.FeatureDistillationPlugin(
            feature_distillation.Config(layers=("trunk.1.1",), loss="mse"), 0
        ),
    ),
    "activation": (
        "cnn",
        lambda: attention_distillation.AttentionDistillationPlugin(attention_distillation.Config(), 0),
    ),
    "gradcam": (
        "cnn",
        lambda: attention_distillation.AttentionDistillationPlugin(attention_distillation.Config(kind="gradcam"), 0),
    ),
    "podnet": ("cnn", lambda: podnet.PODNetPlugin(podnet.Config(), 0)),
    "lucir": ("cosine", lambda: lucir.LucirPlugin(lucir.Config(), 0)),
}


class _Augmenting(Learner):
    """A learner that reports augmentation, so that nothing may be cached."""

    augments = True


def _bits(name: str, config: Experiment, cls: type[Learner]) -> Bits:
    """Return the network's bits after two experiences of a trial with the strategy."""
    parts, (_, make) = build_trial(resolve_experiment(config)), ALL[name]
    model = lucir.adapt(lucir.Config(), parts.network(), torch.Generator()) if name == "lucir" else parts.network()
    learner = cls(model=model, stream=parts.stream, training=config.training, plugins=[make()])
    for number in (0, 1):
        learner.train_experience(number)
    bits: Bits = learner.model.state_dict()
    return bits


@pytest.mark.parametrize(
    ("name", "network_for", "batch_size"),
    [
        ("lwf", "", 32),  # 262 and 258 samples: the last mini-batches have 6 and 2
        ("lwf", "podnet", 32),
        ("features", "", 32),
        ("lucir", "", 10),
        ("activation", "podnet", 32),
        ("gradcam", "podnet", 32),
        ("podnet", "podnet", 32),
    ],
)
def test_cached_teacher_outputs_have_the_bits_of_recomputed_ones(
    name: str, network_for: str, batch_size: int, make_experiment: Make
) -> None:
    config = make_experiment(network_for=network_for, batch_size=batch_size)
    assert same(_bits(name, config, Learner), _bits(name, config, _Augmenting))


class Fixed(nn.Module):
    """A network for Avalanche's loop: pictures of 8 numbers, a trunk with or without maps, a head of fixed size."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        maps = nn.Sequential(nn.Unflatten(1, (1, 2, 4)), nn.Conv2d(1, 2, 3, padding=1), nn.Tanh(), nn.Flatten())
        self.trunk = nn.Sequential(nn.Identity(), maps if kind == "cnn" else nn.Sequential(nn.Linear(8, 16), nn.Tanh()))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x))  # type: ignore[no-any-return]


def script(kind: str, plugins: Sequence[Plugin], only: Sequence[int] = (0, 1)) -> list[Bits]:
    """Train in plain Avalanche; return the network's bits after each experience."""
    torch.manual_seed(0)
    model: nn.Module = Fixed(kind)
    model = lucir.adapt(lucir.Config(), model, torch.Generator()) if kind == "cosine" else model
    learner = SupervisedTemplate(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        train_mb_size=16,
        train_epochs=2,
        plugins=list(plugins),
        evaluator=None,
    )
    weights, data = [], benchmark()
    for number in only:
        learner.train(data.train_stream[number], eval_streams=[])
        weights.append({name: tensor.clone() for name, tensor in learner.model.state_dict().items()})
    return weights


@pytest.mark.parametrize("name", ALL)
def test_in_a_plain_avalanche_script(name: str) -> None:
    """It acts from the second experience on (lwf_mc from the first), gives the same bits twice, and leaves no hook."""
    kind, make = ALL[name]
    plugin = make()
    one, other, plain = script(kind, [plugin]), script(kind, [make()]), script(kind, [])
    assert same(one[1], other[1]) and not same(one[1], plain[1])
    assert same(one[0], plain[0]) == (name != "lwf_mc")
    assert all(value.isfinite().all() for value in one[1].values())


def test_lucir_preserves_feature_directions(tiny_stream: Any) -> None:
    """As promised, features turn less with a larger weight."""
    x = tiny_stream().experiences[0].train.arrays.x.float().sub(102).div(77)
    turned = []
    for weight in (0.01, 3.0):
        features: list[Tensor] = []

        class Look(Plugin):
            """Keep the features."""

            @torch.no_grad()
            def after_training_exp(self, learner: Any, _kept: list[Tensor] = features, **kwargs: Any) -> None:
                _kept.append(learner.model.features(x))

        config = lucir.Config(weight=weight)
        learn(tiny_stream(), cosines(config), [lucir.LucirPlugin(config, 0), Look(None)], epochs=10)
        turned.append(1 - nn.functional.cosine_similarity(features[0], features[2]).mean().item())
    assert turned[1] < turned[0] / 2


def test_features_are_the_input_of_the_head() -> None:
    assert lucir.LucirPlugin(lucir.Config(), 0).layers(network()) == [FEATURES]
