"""Class-incremental methods with a memory: their formulas against oracles, and each in a plain Avalanche script."""

import copy
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from avalanche.models import NCMClassifier
from avalanche.training.losses import ICaRLLossPlugin
from test_strategies_avalanche import N, Watch, accuracy, learn, pair, same, script
from torch import nn
from torch.nn import functional

from retain.platform.errors import UserError
from retain.platform.methods import seen_classes
from retain.platform.methods.bias_correction import correct_logits, fit_correction
from retain.platform.methods.herding import herding, herding_ranks, negative_distances, unit_class_means
from retain.platform.seeding import generator
from retain.platform.training.plugin import Plugin
from retain.platform.trial.checks import check_settings_fit
from retain.strategies import bic, eeil, freezing, head_init, icarl, lwf, replay, ss_il, wa


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return normally distributed numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("module", "settings", "message"),
    [
        (icarl, {"memory": 0}, "memory=0: must be an integer above 0"),
        (icarl, {"batch_size": 0}, "batch_size=0: must be an integer above 0 or null"),
        (icarl, {"temperature": 0.0}, "temperature=0.0: must be a finite number above 0"),
        (icarl, {"temperature": math.inf}, "temperature=inf: must be a finite number above 0"),
        (bic, {"memory": -1}, "memory=-1: must be an integer of at least 0"),
        (bic, {"held_out": 1.0}, "held_out=1.0: must be a number in (0, 1)"),
        (bic, {"batch_size": 0}, "batch_size=0: must be an integer above 0 or null"),
        (bic, {"weight": 1.5}, "weight=1.5: must be a number in [0, 1] or null"),
        (bic, {"temperature": -1.0}, "temperature=-1.0: must be a finite number above 0"),
        (eeil, {"memory": -1}, "memory=-1: must be an integer of at least 0"),
        (eeil, {"batch_size": 0}, "batch_size=0: must be an integer above 0 or null"),
        (eeil, {"weight": -1.0}, "weight=-1.0: must be a finite number of at least 0"),
        (eeil, {"temperature": 0.0}, "temperature=0.0: must be a finite number above 0"),
        (eeil, {"epochs": -1}, "epochs=-1: must be an integer of at least 0"),
        (eeil, {"lr_factor": 0.0}, "lr_factor=0.0: must be a finite number above 0"),
        (ss_il, {"memory": -1}, "memory=-1: must be an integer of at least 0"),
        (ss_il, {"batch_size": 0}, "batch_size=0: must be an integer above 0 or null"),
        (ss_il, {"weight": math.nan}, "weight=nan: must be a finite number of at least 0"),
        (ss_il, {"temperature": 0.0}, "temperature=0.0: must be a finite number above 0"),
        (head_init, {"rows": "ones"}, "rows='ones': must be 'random'"),
    ],
)
def test_bad_values_are_named(module: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        module.Config(**settings)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("module", [icarl, eeil, ss_il])
def test_a_memory_smaller_than_the_classes_is_refused(module: Any) -> None:
    name = module.__name__.rpartition(".")[2]
    with pytest.raises(UserError, match=f"strategies.{name}.memory=3: must be at least 4"):
        check_settings_fit(module, module.Config(memory=3), f"strategies.{name}", 4, 2)
    check_settings_fit(module, module.Config(memory=4), "", 4, 2)


def test_a_memory_for_each_class_is_never_too_small() -> None:
    check_settings_fit(icarl, icarl.Config(memory=1, per_class=True), "", 100, 10)


def test_each_part_of_bics_memory_must_hold_the_classes() -> None:
    with pytest.raises(UserError, match="strategies.bic.memory=200: must be at least 21.*: 20 held out, 180 replayed"):
        bic.check_stream(bic.Config(memory=200), 21, 2)
    with pytest.raises(UserError, match="strategies.bic.memory=200"):
        bic.check_stream(bic.Config(memory=200, held_out=0.95), 20, 2)
    bic.check_stream(bic.Config(memory=200), 20, 2)
    bic.check_stream(bic.Config(memory=0), 20, 2)


# The seen classes, and the memory that is filled by herding.


def test_seen_classes_by_hand() -> None:
    """Growing classes, one that is repeated, and a domain without new ones."""
    seen = seen_classes.SeenClasses()
    results = []
    for classes in ([1, 0], [3, 0], [0, 1, 3], [2]):
        strategy = SimpleNamespace(experience=SimpleNamespace(classes_in_this_experience=classes))
        results.append((seen.new_classes(strategy), seen.absent_classes(strategy)))
        seen.add(strategy)
    assert results == [([0, 1], []), ([3], [1]), ([], []), ([2], [0, 1, 3])]
    assert seen.groups == [[0, 1], [3], [], [2]] and seen.all == [0, 1, 3, 2]


def test_ranks_are_the_herding_orders_of_the_classes() -> None:
    features, y = normal(30, 5), torch.arange(3).repeat(10)
    ranks = herding_ranks(features, y, 4)
    for label in range(3):
        own = (y == label).nonzero().flatten()
        scaled = features[own] / features[own].norm(dim=1, keepdim=True)
        assert ranks[own[herding(scaled, 4)]].tolist() == [0, 1, 2, 3]
    assert ranks.isfinite().sum() == 12


@pytest.mark.parametrize("per_class", [False, True])
def test_memory_keeps_the_best_of_each_class(per_class: bool) -> None:
    """Seven slots for four classes, or seven for each class; of old classes the first in herding order stay."""
    made = [icarl.ICaRLPlugin(icarl.Config(memory=7, per_class=per_class), 0) for _ in range(2)]
    learn(made[:1])
    columns = made[0].memory.columns
    counts = torch.bincount(columns["y"]).tolist()
    assert counts == ([7, 7, 7, 7] if per_class else [2, 2, 2, 1])
    assert all(
        columns["key"][columns["y"] == label].sort().values.tolist() == list(range(count))
        for label, count in enumerate(counts)
    )


# iCaRL.


def test_icarls_loss_is_avalanches_times_the_number_of_outputs() -> None:
    logits, teacher, y = normal(8, 5), normal(8, 3, seed=1), torch.tensor([0, 1, 2, 3, 4, 4, 3, 0])
    theirs = ICaRLLossPlugin()
    assert 5 * theirs(logits, y).item() == pytest.approx(
        icarl.binary_loss(logits, icarl.targets(y, 5, None, [], 1.0)).item(), rel=1e-6
    )
    theirs.old_classes, theirs.old_logits = [0, 1, 2], functional.pad(teacher, (0, 2))
    ours = icarl.binary_loss(logits, icarl.targets(y, 5, teacher, [0, 1, 2], 1.0))
    torch.testing.assert_close(ours, 5 * theirs(logits, y))


def test_icarls_targets_by_hand() -> None:
    """Class 1 is absent and 0 is repeated; T = 2."""
    teacher = torch.tensor([[4.0, 2 * math.log(3.0)]])
    actual = icarl.targets(torch.tensor([0]), 3, teacher, [1], 2.0)
    torch.testing.assert_close(actual, torch.tensor([[1.0, 0.75, 0.0]]))


def test_icarls_loss_covers_the_samples_task_only() -> None:
    logits, y = normal(4, 6).requires_grad_(), torch.tensor([0, 1, 4, 5])
    masked = logits.masked_fill(
        torch.tensor([[False] * 2 + [True] * 4] * 2 + [[True] * 4 + [False] * 2] * 2), -math.inf
    )
    loss = icarl.binary_loss(masked, icarl.targets(y, 6, None, [], 1.0))
    own = torch.cat([logits[:2, :2], logits[2:, 4:]])
    torch.testing.assert_close(loss, 2 * functional.binary_cross_entropy_with_logits(own, torch.eye(2).repeat(2, 1)))
    loss.backward()
    assert logits.grad is not None and logits.grad.isfinite().all() and (logits.grad[:2, 2:] == 0).all()


def test_nearest_mean_is_avalanches() -> None:
    features, y, x = normal(40, 6), torch.arange(4).repeat(10), normal(20, 6, seed=1)
    means = unit_class_means(features, y)
    theirs = NCMClassifier(normalize=True)
    scaled = features / features.norm(dim=1, keepdim=True)
    of_class = {label: scaled[y == label].mean(0) for label in range(4)}
    theirs.update_class_means_dict({label: mean / mean.norm() for label, mean in of_class.items()})
    torch.testing.assert_close(negative_distances(x, means), -theirs(x).square(), atol=1e-5, rtol=1e-5)


class Losses(Plugin):
    """Each mini-batch's loss in the second experience, and what a function computes from teacher, network and samples."""

    def __init__(self, expected: Callable[[nn.Module, Any], torch.Tensor]) -> None:
        self.expected, self.pairs = expected, list[tuple[float, float]]()

    def before_train_dataset_adaptation(self, learner: Any, **kwargs: Any) -> None:
        self.teacher = copy.deepcopy(learner.model).eval()

    def before_backward(self, learner: Any, **kwargs: Any) -> None:
        if learner.experience.current_experience:
            with torch.no_grad():
                self.pairs.append((learner.loss.item(), self.expected(self.teacher, learner).item()))

    def check(self) -> None:
        """Assert that both are equal."""
        actual, expected = (torch.tensor(each) for each in zip(*self.pairs, strict=True))
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_icarl_distils_and_classifies_by_means() -> None:
    """In a plain script: exemplars join in proportion, the loss follows the formula, and the nearest mean classifies."""
    plugin, watch = icarl.ICaRLPlugin(icarl.Config(memory=16), 0), Watch()
    scores: list[torch.Tensor] = []

    def expected(teacher: nn.Module, learner: Any) -> torch.Tensor:
        targets = functional.one_hot(learner.mb_y, 4).float()
        targets[:, :2] = teacher(learner.mb_x).sigmoid()
        return 4 * functional.binary_cross_entropy_with_logits(learner.mb_output, targets)

    class Look(Plugin):
        """Keep the outputs at the end of evaluation."""

        def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
            x = torch.cat([pair(0, 2)[0], pair(1, 2)[0]])
            learner.model.eval()
            scores.append(plugin.predict(learner, x, learner.model))
            learner.model.train()

    losses = Losses(expected)
    script([plugin, watch, losses, Look(None)], epochs=6)
    losses.check()
    assert watch.rows[-1] == 16 + 3  # 16 of 80 in a mini-batch of 16
    assert scores[0].shape == (4 * N, 2) and scores[1].shape == (4 * N, 4)
    y = torch.cat([pair(0, 2)[1], pair(1, 2)[1]])
    assert (scores[1].argmax(1) == y).float().mean() > 0.9
    assert torch.bincount(plugin.memory.columns["y"]).tolist() == [4, 4, 4, 4]


# Weight aligning.


def test_alignment_by_hand() -> None:
    """Old rows of length 5 and 1, new ones of length 10 and 2."""
    weight = torch.tensor([[3.0, 4.0], [6.0, 8.0], [1.0, 0.0], [0.0, 2.0]])
    assert wa.alignment(weight, [0, 2], [1, 3]).item() == pytest.approx(3 / 6)


def test_wa_scales_the_new_rows_only() -> None:
    """Starting from a naive run's weights; afterwards new and old rows have the same mean length."""
    aligned, naive = script([wa.WeightAligningPlugin(wa.Config(), 0)]), script([])
    assert same(aligned[1], naive[1])
    name = "classifier.classifier.weight"
    ours, theirs = aligned[2].pop(name), naive[2].pop(name)
    assert same(aligned[2], naive[2]) and torch.equal(ours[:2], theirs[:2])
    lengths = ours.norm(dim=1)
    assert lengths[2:].mean().item() == pytest.approx(lengths[:2].mean().item(), rel=1e-5)
    torch.testing.assert_close(ours[2:] / theirs[2:], torch.full((2, 16), (ours[2, 0] / theirs[2, 0]).item()))
    assert not torch.equal(ours[2:], theirs[2:])


def test_wa_clips_the_heads_weights() -> None:
    bits = script([wa.WeightAligningPlugin(wa.Config(clip=True), 0)])
    assert all((each["classifier.classifier.weight"] >= 0).all() for each in bits[1:])
    assert (bits[2]["trunk.0.weight"] < 0).any()


@pytest.mark.parametrize(("module", "settings"), [(wa, {}), (head_init, {"rows": "zero"})])
def test_a_head_without_rows_is_refused(module: Any, settings: dict[str, Any]) -> None:
    name = module.__name__.rpartition(".")[2]
    with pytest.raises(UserError, match=f"strategies.{name}.*this.* is a ReLU"):
        module.check_model(module.Config(**settings), nn.ModuleDict({"head": nn.ReLU()}))  # type: ignore[call-arg]
    module.check_model(module.Config(**settings), nn.Linear(2, 2))


# Bias correction.


def test_correction_by_hand() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    assert correct_logits(logits, [1, 3], 0.5, -1.0).tolist() == [[1.0, 0.0, 3.0, 1.0]]
    assert torch.equal(correct_logits(logits, [], 0.5, -1.0), logits)


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_correction_is_the_minimum(scale: float) -> None:
    """A second way: a grid around it; and it removes a bias that was added."""
    y = torch.arange(4).repeat(25)
    logits = scale * (functional.one_hot(y, 4) + normal(100, 4)).double()

    def value(alpha: float, beta: float, biased: torch.Tensor) -> float:
        loss = functional.cross_entropy(correct_logits(biased, [2, 3], alpha, beta), y).item()
        return loss + 0.05 * ((alpha - 1) ** 2 + beta**2)

    biased = correct_logits(logits, [2, 3], 1.5, 2.0)
    alpha, beta = fit_correction(biased, y, [2, 3])
    best = value(alpha, beta, biased)
    grid = [value(alpha + 0.02 * i, beta + 0.02 * j, biased) for i in range(-3, 4) for j in range(-3, 4) if i or j]
    assert best < min(grid) and best < value(1.0, 0.0, biased)
    if scale == 1:  # larger logits are overconfident, and scaled down
        assert alpha < 1 and beta < 0


def test_correction_of_separated_samples_is_finite() -> None:
    y = torch.arange(4).repeat(5)
    alpha, beta = fit_correction(20.0 * functional.one_hot(y, 4), y, [2, 3])
    assert (alpha, beta) == pytest.approx((1.0, 0.0), abs=1e-3)


def test_bic_distils_and_corrects() -> None:
    """In a plain script: the loss follows the formula, held-out samples are of the validation splits, evaluation is corrected."""
    plugin = bic.BiCPlugin(bic.Config(memory=40, held_out=0.3), 0)
    outputs: list[tuple[torch.Tensor, torch.Tensor]] = []

    def expected(teacher: nn.Module, learner: Any) -> torch.Tensor:
        loss = functional.cross_entropy(learner.mb_output, learner.mb_y)
        log_q, log_p = ((each / 2).log_softmax(1) for each in (learner.mb_output[:, :2], teacher(learner.mb_x)))
        return loss / 2 + (log_p.exp() * (log_p - log_q)).sum(1).mean() / 2  # two classes are absent, two are new

    class Look(Plugin):
        """Keep the outputs at the end of evaluation, and the network's logits."""

        def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
            with torch.no_grad():
                outputs.append((learner.model(pair(0, 2)[0]), plugin.predict(learner, pair(0, 2)[0], learner.model)))

    losses = Losses(expected)
    script([plugin, losses, Look(None)])
    losses.check()
    held = plugin.state_dict()["held"]
    assert torch.bincount(held["y"]).tolist() == [3, 3, 3, 3] and len(plugin.memory) == 28
    validation = torch.cat([pair(0, 1)[0], pair(1, 1)[0]])
    assert all((validation == row).all(1).any() for row in held["x"])
    classes, alpha, beta, in_experience = plugin.state_dict()["last"]
    assert classes == [2, 3] and not in_experience and (alpha, beta) != (1.0, 0.0)
    assert torch.allclose(outputs[0][0], outputs[0][1])
    plain, loss = outputs[1]
    torch.testing.assert_close(loss, torch.cat([plain[:, :2], alpha * plain[:, 2:] + beta], 1), atol=1e-4, rtol=1e-4)


def test_bics_teacher_is_corrected() -> None:
    """With the correction of its experience; by default l is the share of the absent classes."""
    teacher, logits = normal(6, 4, seed=1), normal(6, 5, seed=2)
    experience = SimpleNamespace(classes_in_this_experience=[4])
    for weight, share in ((None, 4 / 5), (0.3, 0.3)):
        plugin = bic.BiCPlugin(bic.Config(weight=weight, temperature=3.0), 0)
        plugin.seen.groups, plugin.correction = [[0, 1], [2, 3]], [[2, 3], 0.5, -1.0]
        plugin.teacher.model = nn.Identity()
        learner = SimpleNamespace(experience=experience, mb_x=teacher, mb_output=logits, loss=torch.tensor(2.0))
        plugin.before_backward(learner)
        log_p = (correct_logits(teacher, [2, 3], 0.5, -1.0) / 3).log_softmax(1)
        kl = (log_p.exp() * (log_p - (logits[:, :4] / 3).log_softmax(1))).sum(1).mean()
        torch.testing.assert_close(learner.loss, (1 - share) * 2.0 + share * kl)


def test_bic_without_validation_data_is_refused() -> None:
    assert bic.needs_validation(bic.Config()) and not bic.needs_validation(bic.Config(memory=0))
    with pytest.raises(UserError, match="strategies.bic: needs validation data"):
        script([bic.BiCPlugin(bic.Config(), 0)], validation=False)


# Initial values of the head's new rows.


def test_imprinted_rows_by_hand() -> None:
    features, y = torch.tensor([[3.0, 0.0], [0.0, 5.0], [-2.0, 0.0]]), torch.tensor([7, 7, 4])
    rows = head_init.imprinted_rows(features, y, [4, 7], torch.tensor(2.0))
    torch.testing.assert_close(rows, torch.tensor([[-2.0, 0.0], [2 / math.sqrt(2), 2 / math.sqrt(2)]]))


@pytest.mark.parametrize("rows", ["random", "zero", "mean", "imprinted"])
def test_new_rows_are_initialised_as_documented(rows: str) -> None:
    starts: list[tuple[nn.Linear, nn.Module, torch.optim.Optimizer]] = []

    class Look(Plugin):
        """Keep the head before anything is trained."""

        def before_training_exp(self, learner: Any, **kwargs: Any) -> None:
            model = learner.model
            starts.append((copy.deepcopy(model.classifier.classifier), copy.deepcopy(model.trunk), learner.optimizer))
            trained = {id(p) for group in learner.optimizer.param_groups for p in group["params"]}
            assert {id(parameter) for parameter in model.parameters()} <= trained

    bits = script([head_init.HeadInitPlugin(head_init.Config(rows=rows), 0), Look(None)])
    (first, _, _), (second, trunk, _) = starts
    weight, bias = second.weight.detach(), second.bias.detach()
    assert torch.equal(first.weight.detach(), bits[0]["classifier.classifier.weight"])  # the first rows are the head's
    assert torch.equal(weight[:2], bits[1]["classifier.classifier.weight"])
    old, old_bias = weight[:2].mean(0), bias[:2].mean()
    if rows == "zero":
        assert not weight[2:].any() and not bias[2:].any()
    elif rows == "mean":
        assert torch.equal(weight[2:], old.expand(2, -1)) and torch.equal(bias[2:], old_bias.expand(2))
    elif rows == "imprinted":
        x, y = pair(1, 0)
        with torch.no_grad():
            scaled = functional.normalize(trunk.eval()(x), dim=1)
        means = torch.stack([scaled[y == label].mean(0) for label in (2, 3)])
        torch.testing.assert_close(weight[2:].norm(dim=1), weight[:2].norm(dim=1).mean().expand(2))
        torch.testing.assert_close(functional.cosine_similarity(weight[2:], means), torch.ones(2))
        assert torch.equal(bias[2:], old_bias.expand(2))
    else:
        assert all(same(one, other) for one, other in zip(bits, script([]), strict=True))


# End-to-end incremental learning.


def kl(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return the KL divergence over the given classes at T = 2, written out."""
    p, q = teacher.div(2).exp(), student.div(2).exp()
    p, q = p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True)
    return (p * (p / q).log()).sum(1).mean()


def test_eeil_distils_each_experience_separately() -> None:
    student, teacher = normal(6, 7), normal(6, 5, seed=1)
    actual = eeil.distillation(student, teacher, [[0, 3], [], [1, 2, 4]], 2.0)
    expected = kl(student[:, [0, 3]], teacher[:, [0, 3]]) + kl(student[:, [1, 2, 4]], teacher[:, [1, 2, 4]])
    torch.testing.assert_close(actual, expected)


def test_eeils_loss_before_finetuning() -> None:
    def expected(teacher: nn.Module, learner: Any) -> torch.Tensor:
        loss = functional.cross_entropy(learner.mb_output, learner.mb_y)
        return loss + 0.5 * kl(learner.mb_output[:, :2], teacher(learner.mb_x))

    losses = Losses(expected)
    script([eeil.EEILPlugin(eeil.Config(weight=0.5), 0), losses])
    losses.check()


def finetuned(**settings: Any) -> tuple[nn.Module, nn.Module, eeil.EEILPlugin, nn.Module]:
    """Return the network before and after the balanced finetuning of the second experience, the plugin, the teacher."""
    plugin = eeil.EEILPlugin(eeil.Config(memory=18, **settings), 0)
    copies: list[nn.Module] = []

    class Keep(Plugin):
        """Keep copies just before and after the plugin; it is placed before and behind it."""

        def before_train_dataset_adaptation(self, learner: Any, **kwargs: Any) -> None:
            self.teacher = copy.deepcopy(learner.model)

        def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
            copies.append(copy.deepcopy(learner.model))

    keep = Keep(None)
    script([keep, plugin, keep])
    return copies[-2], copies[-1], plugin, keep.teacher


def test_eeil_finetunes_on_the_memory() -> None:
    """A second way: the same steps written out, with plain SGD with momentum, at a tenth of the learning rate."""
    before, after, plugin, teacher = finetuned(epochs=2)
    x, y = plugin.memory.columns["x"], plugin.memory.columns["y"]
    assert torch.bincount(y).tolist() == [5, 5, 4, 4]
    with torch.no_grad():
        soft = torch.cat([teacher.eval()(x), copy.deepcopy(before).eval()(x)[:, 2:]], 1)
    optimizer = torch.optim.SGD(before.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-3)
    for epoch in range(2):
        order = torch.randperm(18, generator=generator(0, "eeil finetuning", 1, epoch))
        for index in order.split(16):
            logits = before(x[index])
            loss = functional.cross_entropy(logits, y[index])
            loss = loss + kl(logits[:, :2], soft[index, :2]) + kl(logits[:, 2:], soft[index, 2:])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for one, other in zip(before.state_dict().values(), after.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    assert all(parameter.grad is None for parameter in after.parameters())


@pytest.mark.parametrize("settings", [{"epochs": 0}])
def test_eeil_without_finetuning(settings: dict[str, Any]) -> None:
    before, after, _, _ = finetuned(**settings)
    assert same(before.state_dict(), after.state_dict())


@pytest.mark.parametrize("frozen_first", [True, False])
def test_eeil_does_not_train_frozen_parameters(frozen_first: bool) -> None:
    """In any order of the two, BatchNorm's statistics included."""
    plugins = [freezing.FreezingPlugin(freezing.Config(), 0), eeil.EEILPlugin(eeil.Config(memory=18), 0)]
    bits = script(plugins if frozen_first else plugins[::-1])
    assert all(torch.equal(bits[1][name], bits[2][name]) for name in bits[1] if name.startswith("trunk"))
    assert not same(
        bits[2],
        script([freezing.FreezingPlugin(freezing.Config(), 0), replay.ReplayPlugin(replay.Config(memory=18), 0)])[2],
    )


def test_eeil_reports_diverging_finetuning() -> None:
    with pytest.raises(FloatingPointError, match="strategies.eeil: the loss of its finetuning became"):
        script([eeil.EEILPlugin(eeil.Config(memory=18, lr_factor=1e30), 0)])


# Separated softmax.


def test_separated_softmax_by_hand() -> None:
    """Old classes 0 and 2, new ones 1 and 3; each sample among the classes of its group."""
    logits = torch.tensor([[0.0, 9.0, math.log(3.0), 9.0], [9.0, math.log(4.0), 9.0, 0.0]])
    loss = ss_il.separated_cross_entropy(logits, torch.tensor([2, 3]), [0, 2])
    assert loss.item() == pytest.approx((-math.log(3 / 4) - math.log(1 / 5)) / 2)
    assert ss_il.separated_cross_entropy(logits, torch.tensor([2, 3]), []) == functional.cross_entropy(
        logits, torch.tensor([2, 3])
    )


def test_ss_ils_loss() -> None:
    """As in its authors' code: sums over both parts, over all samples; T^2 KL for each experience."""

    def expected(teacher: nn.Module, learner: Any) -> torch.Tensor:
        logits, y = learner.mb_output, learner.mb_y
        old = y < 2
        total = functional.cross_entropy(logits[old, :2], y[old], reduction="sum")
        total = total + functional.cross_entropy(logits[~old, 2:], y[~old] - 2, reduction="sum")
        return total / len(y) + 4 * kl(logits[:, :2], teacher(learner.mb_x))

    losses, watch = Losses(expected), Watch()
    script([ss_il.SSILPlugin(ss_il.Config(memory=20, batch_size=5), 0), losses, watch])
    losses.check()
    assert watch.rows[-1] == 21


def test_separated_softmax_of_tasks_has_finite_gradients() -> None:
    logits = normal(4, 4).requires_grad_()
    others = torch.tensor([[False, False, True, True]] * 2 + [[True, True, False, False]] * 2)
    y = torch.tensor([0, 1, 2, 3])
    loss = ss_il.separated_cross_entropy(logits.masked_fill(others, -math.inf), y, [0, 1])
    own = torch.cat([logits[:2, :2], logits[2:, 2:]])
    torch.testing.assert_close(loss, functional.cross_entropy(own, y % 2))
    loss.backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


PLAIN: dict[str, Callable[[], list[Plugin]]] = {
    "bic": lambda: [bic.BiCPlugin(bic.Config(memory=40), 0)],
    "eeil": lambda: [eeil.EEILPlugin(eeil.Config(memory=8), 0)],
    "head_init": lambda: [head_init.HeadInitPlugin(head_init.Config(), 0)],
    "icarl": lambda: [icarl.ICaRLPlugin(icarl.Config(memory=8), 0)],
    "ss_il": lambda: [ss_il.SSILPlugin(ss_il.Config(memory=8), 0)],
    "wa": lambda: [
        replay.ReplayPlugin(replay.Config(memory=8), 0),
        lwf.LwFPlugin(lwf.Config(weight=0.5), 0),
        wa.WeightAligningPlugin(wa.Config(), 0),
    ],
}


@pytest.mark.parametrize("make", PLAIN.values(), ids=PLAIN)
def test_in_a_plain_script(make: Callable[[], list[Plugin]]) -> None:
    """Two runs give the same bits, other than naive finetuning, and are better on the old classes."""
    one, other, naive = script(make(), epochs=6), script(make(), epochs=6), script([], epochs=6)
    assert same(one[2], other[2]) and not same(one[2], naive[2])
    if make is not PLAIN["head_init"]:  # it only promises a better start, no memory
        assert accuracy(one[2], 0) > accuracy(naive[2], 0)
