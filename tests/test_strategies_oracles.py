"""Formulas of the strategies against oracles: by hand, a second way, or Avalanche."""

import inspect
import math
import re
from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from retain.platform.config import registry
from retain.platform.errors import UserError
from retain.platform.methods import logit_distillation
from retain.platform.methods.replay_memory import keep_balanced, keep_reservoir, quotas
from retain.platform.seeding import generator
from retain.platform.training.plugin import EVENTS, Plugin
from retain.platform.trial.checks import check_settings_fit
from retain.platform.trial.resolve import strategy_builder
from retain.strategies import cumulative, early_stopping, freezing, joint, lwf, replay

ALL = (cumulative, early_stopping, freezing, joint, lwf, replay)


def net(width: int = 6, classes: int = 3, seed: int = 0) -> nn.Module:
    """Return a small network with BatchNorm in its trunk and a head."""
    torch.manual_seed(seed)
    parts = {
        "trunk": nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, width)),
        "norm": nn.BatchNorm1d(width, affine=False),
        "head": nn.Linear(width, classes),
    }
    return nn.Sequential(OrderedDict(parts))


# The contract.


@pytest.mark.parametrize("module", ALL, ids=lambda m: m.__name__.rpartition(".")[2])
def test_module_keeps_the_contract(module: Any) -> None:
    build, neutral = strategy_builder(module, ""), registry.neutral_settings(module)
    plugin = build(module.Config(), 0)
    assert isinstance(plugin, Plugin)
    assert list(inspect.signature(build).parameters) == ["config", "seed"]
    if neutral is None:
        assert module.NEUTRAL_REASON
    else:
        assert isinstance(build(module.Config(**neutral), 0), Plugin)
    hooks = [name for name in vars(type(plugin)) if name.startswith(("before_", "after_"))]
    assert set(hooks) <= set(EVENTS)


def test_conflicts_name_strategies_that_exist() -> None:
    known = registry.names("strategies")
    named = {name for each in known for name in getattr(registry.resolve("strategies", each), "CONFLICTS", {})}
    assert named and named <= set(known)


@pytest.mark.parametrize(
    ("module", "settings", "message"),
    [
        (lwf, {"weight": -0.1}, "weight=-0.1: must be a finite number of at least 0"),
        (lwf, {"weight": math.nan}, "weight=nan: must be a finite number of at least 0"),
        (lwf, {"weight": ()}, "weight=[]: must be a finite number of at least 0"),
        (lwf, {"weight": (0.0, math.inf)}, "weight=[0.0, inf]: must be a finite number of at least 0"),
        (lwf, {"temperature": 0.0}, "temperature=0.0: must be a finite number above 0"),
        (lwf, {"loss": "cosine"}, "loss='cosine': must be 'kl' or 'mse'"),
        (lwf, {"loss": "mse", "temperature": 3.0}, "temperature=3.0: is not used"),
        (freezing, {"layers": "all"}, "layers='all': must be 'trunk'"),
        (
            freezing,
            {"layers": ("a.*", "")},
            "layers=['a.*', '']: must be 'trunk' or an integer of at least 0 or a list",
        ),
        (freezing, {"from_experience": -1}, "from_experience=-1: must be an integer of at least 0"),
        (early_stopping, {"patience": 0}, "patience=0: must be an integer above 0"),
        (early_stopping, {"min_delta": -1e-3}, "min_delta=-0.001: must be a finite number of at least 0"),
        (early_stopping, {"metric": "f1"}, "metric='f1': must be 'accuracy' or 'loss'"),
        (replay, {"memory": -1}, "memory=-1: must be an integer of at least 0"),
        (replay, {"policy": "newest"}, "policy='newest': must be 'class_balanced'"),
        (replay, {"batch_size": 0}, "batch_size=0: must be an integer above 0"),
    ],
)
def test_bad_values_are_named(module: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        module.Config(**settings)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("module", "settings", "classes", "experiences", "key"),
    [
        (replay, {"memory": 3}, 4, 3, "strategies.replay.memory=3"),
    ],
)
def test_what_does_not_fit_the_stream_is_refused(
    module: Any, settings: dict[str, Any], classes: int, experiences: int, key: str
) -> None:
    with pytest.raises(UserError) as caught:
        module.check_stream(module.Config(**settings), classes, experiences)
    assert str(caught.value).startswith(key)
    module.check_stream(module.Config(), 4, 3)


def test_a_list_of_weights_must_fit_the_stream() -> None:
    with pytest.raises(UserError, match=re.escape("strategies.lwf.weight=[0.0, 1.0]: must have 3 numbers")):
        check_settings_fit(lwf, lwf.Config(weight=(0.0, 1.0)), "strategies.lwf", 4, 3)
    check_settings_fit(lwf, lwf.Config(weight=(0.0, 1.0)), "", 4, 2)
    check_settings_fit(lwf, lwf.Config(), "", 4, 3)


def test_neutral_settings_fit_any_stream() -> None:
    replay.check_stream(replay.Config(memory=0), 10, 1)
    replay.check_stream(replay.Config(memory=1, policy="reservoir"), 10, 1)


# Learning without Forgetting.


def test_kl_by_hand() -> None:
    """One sample, two classes, T = 1: p = (3/4, 1/4), q = (1/2, 1/2)."""
    teacher, student = torch.tensor([[math.log(3.0), 0.0]]), torch.zeros(1, 2)
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert logit_distillation.distillation_loss(student, teacher, 1.0, "kl").item() == pytest.approx(expected, abs=1e-6)


def test_mse_by_hand() -> None:
    student, teacher = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 2.0]])
    assert logit_distillation.distillation_loss(student, teacher, 2.0, "mse").item() == pytest.approx(
        (1 + 4 + 0 + 4) / 4
    )


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 5.0])
def test_kl_equals_avalanches_times_temperature_squared(temperature: float) -> None:
    from avalanche.training.regularization import LearningWithoutForgetting

    student, teacher = torch.randn(2, 16, 5, generator=torch.Generator().manual_seed(1))
    theirs = LearningWithoutForgetting(alpha=1, temperature=temperature)._distillation_loss(student, teacher, range(5))
    ours = logit_distillation.distillation_loss(student, teacher, temperature, "kl")
    torch.testing.assert_close(ours, temperature**2 * theirs)


def test_gradient_equals_that_of_the_softened_cross_entropy() -> None:
    """PyCIL's form: sum p log q without T^2; the teacher's entropy has no gradient."""
    draw = torch.Generator().manual_seed(2)
    student = torch.randn(8, 4, generator=draw).requires_grad_()
    teacher = torch.randn(8, 4, generator=draw)
    (ours,) = torch.autograd.grad(logit_distillation.distillation_loss(student, teacher, 2.0, "kl"), student)
    pycil = -(teacher.div(2).softmax(1) * student.div(2).log_softmax(1)).sum(1).mean()
    (theirs,) = torch.autograd.grad(pycil, student)
    torch.testing.assert_close(ours, 4 * theirs)


def test_gradient_of_kl_approaches_that_of_mse_at_high_temperature() -> None:
    """Hinton 2015, section 2.1: T^2 KL -> half the squared distance of centred logits, summed over classes."""
    draw = torch.Generator().manual_seed(3)
    student, teacher = (torch.randn(8, 4, generator=draw, dtype=torch.float64) for _ in range(2))
    centred = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    limit = (centred**2).sum(1).mean() / 2 / 4
    torch.testing.assert_close(
        logit_distillation.distillation_loss(student, teacher, 1e3, "kl"), limit, rtol=1e-2, atol=0
    )


class _Script(SimpleNamespace):
    """The attributes that a hook reads, with real tensors and modules."""


def _lwf_step(plugin: lwf.LwFPlugin, model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    script = _Script(model=model, mb_x=x, mb_output=model(x), loss=torch.zeros(()), device=torch.device("cpu"))
    script.experience = SimpleNamespace(current_experience=plugin.num_trained)
    plugin.before_backward(script)
    loss: torch.Tensor = script.loss
    return loss


def test_lwf_adds_weighted_distillation_of_the_old_outputs_only() -> None:
    old, new = net(classes=3, seed=0).eval(), net(classes=5, seed=1)
    x = torch.randn(7, 4, generator=torch.Generator().manual_seed(4))
    plugin = lwf.LwFPlugin(lwf.Config(weight=(9.0, 0.5), temperature=3.0), seed=0)
    plugin.before_train_dataset_adaptation(_Script(model=old))
    assert _lwf_step(plugin, new, x).item() == 0  # the first experience has no teacher
    plugin.after_training_exp(_Script())
    plugin.before_train_dataset_adaptation(_Script(model=old))
    expected = 0.5 * logit_distillation.distillation_loss(new(x)[:, :3], old(x), 3.0, "kl")
    torch.testing.assert_close(_lwf_step(plugin, new, x), expected)
    with pytest.raises(UserError, match="strategies.lwf.weight"):
        plugin.after_training_exp(_Script())
        plugin.before_train_dataset_adaptation(_Script(model=old))


def test_lwf_teacher_is_a_copy_that_does_not_learn() -> None:
    model = net()
    plugin = lwf.LwFPlugin(lwf.Config(), seed=0)
    plugin.after_training_exp(_Script())
    plugin.before_train_dataset_adaptation(_Script(model=model))
    before = {name: tensor.clone() for name, tensor in plugin.state_dict()["teacher"].items()}
    assert model.training and not any(p.grad is not None for p in model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        x = torch.randn(8, 4)
        (model(x).square().mean() + _lwf_step(plugin, model, x)).backward()
        optimizer.step()
    after = plugin.state_dict()["teacher"]
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not torch.equal(before["head.weight"], model.state_dict()["head.weight"])


@pytest.mark.parametrize("inside", [False, True])
def test_lwf_resumes_from_its_state(inside: bool) -> None:
    """At a boundary and inside an experience, where the model's head has already grown past the teacher's."""
    old, grown = net(classes=3, seed=0).eval(), net(classes=5, seed=1)
    x = torch.randn(7, 4, generator=torch.Generator().manual_seed(5))
    first, second = (lwf.LwFPlugin(lwf.Config(), seed=0) for _ in range(2))
    first.after_training_exp(_Script())
    if inside:
        first.before_train_dataset_adaptation(_Script(model=old))
    second.load_state_dict(first.state_dict())
    if inside:
        second.on_resume(_Script(model=grown))
    if not inside:
        assert "teacher" not in first.state_dict()
        for plugin in (first, second):
            plugin.before_train_dataset_adaptation(_Script(model=old))
    assert torch.equal(_lwf_step(first, grown, x), _lwf_step(second, grown, x))
    assert _lwf_step(first, grown, x).item() > 0


# Freezing.


def test_trunk_and_patterns_select() -> None:
    names = [name for name, _ in net().named_parameters()]
    trunk = [name for name in names if freezing.selector("trunk")(name)]
    assert trunk == [name for name in names if name.startswith("trunk.")]
    biases = [name for name in names if freezing.selector(("*.bias",))(name)]
    assert biases == [name for name in names if name.endswith("bias")]
    assert not any(map(freezing.selector(()), names))


def test_a_norm_is_frozen_when_all_of_its_parameters_are() -> None:
    model = net()
    bn, bare = model.get_submodule("trunk.1"), model.get_submodule("norm")
    assert freezing.frozen_norms(model, freezing.selector("trunk")) == [bn, bare]
    assert freezing.frozen_norms(model, freezing.selector(("trunk.1.*",))) == [bn]
    assert freezing.frozen_norms(model, freezing.selector(("*.bias",))) == []
    assert freezing.frozen_norms(model, freezing.selector(())) == []


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (("trnk.*",), "'trnk.*' matches no parameter"),
        (("trunk.*", "hed*"), "'hed*' matches no parameter"),
        (("*",), "freezes every parameter"),
    ],
)
def test_patterns_are_checked_against_the_network(layers: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError) as caught:
        freezing.check_model(freezing.Config(layers=layers), net())
    assert str(caught.value).startswith(f"strategies.freezing.layers={list(layers)}: {message}")
    freezing.check_model(freezing.Config(), net())
    with pytest.raises(UserError, match="head is called"):
        freezing.check_model(freezing.Config(), nn.Sequential(nn.Linear(2, 2)))


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 4) -> None:
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=False)
        nn.functional.cross_entropy(model(torch.randn(8, 4)), torch.randint(3, (8,))).backward()
        optimizer.step()


def _bits(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_a_frozen_parameter_never_changes_by_a_bit(kind: str) -> None:
    """With momentum, weight decay and earlier gradients; afterwards everything is trainable again."""
    model = net()
    if kind == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), 0.1, weight_decay=0.1)
    plugin = freezing.FreezingPlugin(freezing.Config(layers=("trunk.*",)), seed=0)
    script = _Script(model=model)
    start = _bits(model)
    plugin.before_training_exp(script)
    _train(model, optimizer)
    plugin.after_training_exp(script)
    learned = _bits(model)
    assert not any(
        torch.equal(start[name], learned[name]) for name in start
    )  # nothing is frozen in the first experience

    plugin.before_training_exp(script)
    for _ in range(2):
        model.train()
        plugin.before_training_epoch(script)
        _train(model, optimizer)
    after = _bits(model)
    frozen = {name for name in after if torch.equal(after[name], learned[name])}
    assert frozen == {name for name in after if name.startswith("trunk.")}
    plugin.after_training_exp(script)
    assert all(p.requires_grad for p in model.parameters()) and all(m.training for m in model.modules())
    _train(model, optimizer)
    assert not any(torch.equal(model.state_dict()[name], after[name]) for name in after)


def test_freezing_does_not_unfreeze_what_was_frozen_before() -> None:
    model = net()
    model.get_parameter("trunk.0.weight").requires_grad_(False)
    model.get_submodule("trunk.1").eval()
    plugin = freezing.FreezingPlugin(freezing.Config(from_experience=0), seed=0)
    plugin.before_training_exp(_Script(model=model))
    assert [n for n, p in model.named_parameters() if p.requires_grad] == ["head.weight", "head.bias"]
    plugin.after_training_exp(_Script(model=model))
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["trunk.0.weight"]
    assert not model.get_submodule("trunk.1").training and model.get_submodule("norm").training


def test_freezing_resumes_from_its_state() -> None:
    first = freezing.FreezingPlugin(freezing.Config(), seed=0)
    first.before_training_exp(_Script(model=net()))
    first.after_training_exp(_Script(model=net()))
    second, model = freezing.FreezingPlugin(freezing.Config(), seed=0), net()
    second.load_state_dict(first.state_dict())
    second.on_resume(_Script(model=model))  # inside the second experience
    assert not model.get_parameter("trunk.0.weight").requires_grad


# Early stopping.


def test_scores_by_hand() -> None:
    logits, y = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1, 1, 0])
    assert early_stopping.score(logits, y, "accuracy") == 0.75
    expected = -(3 * math.log(1 + math.exp(-2)) + math.log(1 + math.exp(2))) / 4
    assert early_stopping.score(logits, y, "loss") == pytest.approx(expected, abs=1e-6)
    assert early_stopping.score(logits * math.nan, y, "loss") == -math.inf


class _Threshold(nn.Module):
    """A network that predicts class 1 if x > its threshold, so that it sets the accuracy; its buffer counts epochs."""

    def __init__(self) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(0.0))
        self.epoch = nn.Buffer(torch.tensor(0))
        self.dropout, self.norm = nn.Dropout(), nn.BatchNorm1d(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        margin = self.dropout(x - self.threshold)
        return torch.cat([-margin, margin], dim=1)


def _stopped_after(
    accuracies: list[float], reload_at: int | None = None, **settings: Any
) -> tuple[int, int, list[str], early_stopping.EarlyStoppingPlugin]:
    """Train with validation accuracy accuracies[e - 1] (tenths) in epoch e; return (epochs, restored epoch, notes)."""
    x, y = torch.arange(10.0).view(-1, 1) + 0.5, torch.ones(10, dtype=torch.int64)
    dataset = torch.utils.data.TensorDataset(x, y)
    dataset.eval = lambda: dataset  # type: ignore[attr-defined]
    stream = _Script(benchmark=_Script(streams={"valid": [_Script(dataset=dataset)]}))
    model, stopped, notes = _Threshold(), [], list[str]()
    model.norm.eval()
    script = _Script(
        model=model,
        experience=_Script(origin_stream=stream, current_experience=0),
        plugins=[],
        device=torch.device("cpu"),
        eval_mb_size=3,
        train_epochs=len(accuracies),
        stop_training=lambda: stopped.append(True),
        note=notes.append,
    )
    plugin = early_stopping.EarlyStoppingPlugin(early_stopping.Config(**settings), seed=0)
    plugin.before_training_exp(script)
    for epoch, accuracy in enumerate(accuracies, start=1):
        plugin.before_training_epoch(script)
        if stopped:
            break
        with torch.no_grad():  # "training"
            model.threshold.fill_(10 - 10 * accuracy)
            model.epoch.fill_(epoch)
        flags, rng = [m.training for m in model.modules()], torch.get_rng_state()
        plugin.after_training_epoch(script)
        assert [m.training for m in model.modules()] == flags and torch.equal(torch.get_rng_state(), rng)
        if epoch == reload_at:
            state, plugin = (
                plugin.state_dict(),
                early_stopping.EarlyStoppingPlugin(early_stopping.Config(**settings), seed=0),
            )
            plugin.load_state_dict(state)
    trained = int(model.epoch)
    plugin.after_training_exp(script)
    best = int(model.epoch)
    assert model.threshold.item() == pytest.approx(10 - 10 * accuracies[best - 1], abs=1e-6)
    return trained, best, notes, plugin


@pytest.mark.parametrize(
    ("accuracies", "settings", "expected"),
    [
        ([0.5, 0.8, 0.7, 0.6, 0.5, 0.9], {"patience": 2}, (4, 2)),  # patience runs out
        ([0.5, 0.8, 0.7, 0.6], {"patience": 3}, (4, 2)),  # the epochs run out: the best is restored all the same
        ([0.5, 0.8, 0.7, 0.9], {"patience": 3}, (4, 4)),  # the last epoch is the best
        ([0.5, 0.8, 0.8, 0.8], {"patience": 5}, (4, 2)),  # a tie keeps the earlier
        ([0.9, 0.8, 0.7], {"patience": 1}, (2, 1)),
        ([0.5, 0.6, 0.7, 0.9], {"patience": 2, "min_delta": 0.25}, (3, 1)),
        ([0.5, 0.8, 0.7, 0.6, 0.9], {"patience": 2, "metric": "loss"}, (4, 2)),
        ([0.5, 0.8, 0.7, 0.6], {"patience": None}, (4, 4)),  # early stopping is off
    ],
)
@pytest.mark.parametrize("reload_at", [None, 1, 2])
def test_the_best_epoch_is_kept(
    accuracies: list[float], settings: dict[str, Any], expected: tuple[int, int], reload_at: int | None
) -> None:
    trained, best, notes, plugin = _stopped_after(accuracies, reload_at, **settings)
    assert (trained, best) == expected
    fresh = early_stopping.EarlyStoppingPlugin(early_stopping.Config())
    assert plugin.state_dict() == fresh.state_dict()  # each experience starts afresh
    if settings["patience"] is None:
        assert notes == []
    else:
        assert f"trained {trained} of {len(accuracies)} epochs, kept the weights of epoch {best}" in notes[0]


def test_early_stopping_needs_validation_data() -> None:
    assert early_stopping.needs_validation(early_stopping.Config())
    assert not early_stopping.needs_validation(early_stopping.Config(patience=None))
    stream = _Script(benchmark=_Script(streams={"train": []}))
    script = _Script(experience=_Script(origin_stream=stream, current_experience=0), plugins=[])
    with pytest.raises(UserError, match="`validation` above 0"):
        early_stopping.EarlyStoppingPlugin(early_stopping.Config(), seed=0).before_training_exp(script)
    early_stopping.EarlyStoppingPlugin(early_stopping.Config(patience=None), seed=0).before_training_exp(script)


# Replay.


def test_quotas_by_hand() -> None:
    assert quotas(10, 3) == [4, 3, 3]
    assert quotas(4, 4) == [1, 1, 1, 1]
    assert all(sum(quotas(m, c)) == m for m in range(20) for c in range(1, 9))


@pytest.mark.parametrize("stages", [(12,), (5, 7), (1, 2, 9)])
def test_reservoir_is_uniform(stages: tuple[int, ...]) -> None:
    """Each of 12 samples stays in a memory of 4 in 1/3 of 1,500 repeats, for any division into experiences."""
    trials, memory, total = 1500, 4, sum(stages)
    counts = torch.zeros(total)
    for seed in range(trials):
        keys = torch.empty(0, dtype=torch.float64)
        held = torch.empty(0, dtype=torch.int64)
        for number, size in enumerate(stages):
            fresh = torch.rand(size, generator=generator(seed, "replay keys", number), dtype=torch.float64)
            start = sum(stages[:number])
            keys, held = torch.cat([keys, fresh]), torch.cat([held, torch.arange(start, start + size)])
            keep = keep_reservoir({"key": keys}, memory)
            keys, held = keys[keep], held[keep]
        counts[held] += 1
    expected = trials * memory / total
    # memory of total without replacement: the counts vary less than a multinomial's, by (total - memory) / (total - 1)
    chi_square = ((counts - expected) ** 2 / expected).sum().item() * (total - 1) / (total - memory)
    assert counts.sum() == trials * memory
    assert chi_square < 31.3  # 99.9 % quantile of chi-square with 11 degrees of freedom


def test_reservoir_has_the_distribution_of_algorithm_r() -> None:
    """Vitter's algorithm, sample by sample: how often each *pair* is remembered agrees with ours."""
    trials, memory, total = 2000, 2, 5
    pairs = {"ours": torch.zeros(total, total), "vitter": torch.zeros(total, total)}
    for seed in range(trials):
        keys = torch.rand(total, generator=generator(seed, "keys"), dtype=torch.float64)
        pair = keep_reservoir({"key": keys}, memory).tolist()
        pairs["ours"][pair[0], pair[1]] += 1
        draw, held = generator(seed, "vitter"), [0, 1]
        for index in range(memory, total):
            place = int(torch.randint(index + 1, (), generator=draw))
            if place < memory:
                held[place] = index
        pairs["vitter"][min(held), max(held)] += 1
    for counts in pairs.values():
        frequency = counts[torch.triu(torch.ones(total, total), 1).bool()] / trials
        torch.testing.assert_close(frequency, torch.full((10,), 0.1), atol=0.027, rtol=0)  # 4 standard errors


def test_balanced_memory_is_balanced_nested_and_uniform_within_a_class() -> None:
    y = torch.tensor([0] * 20 + [1] * 20 + [2] * 2 + [3] * 20)
    keys = torch.rand(len(y), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    two = keep_balanced({"key": keys[:40], "y": y[:40]}, 10)
    assert torch.bincount(y[two]).tolist() == [5, 5]
    four = keep_balanced({"key": keys, "y": y}, 10)
    assert torch.bincount(y[four]).tolist() == [3, 3, 2, 2]
    assert set(four[four < 40].tolist()) <= set(two.tolist())
    # a second way: a class's part equals a separate reservoir
    alone = keep_reservoir({"key": keys[20:40]}, 3) + 20
    assert alone.tolist() == four[(four >= 20) & (four < 40)].tolist()


def test_balanced_memory_refuses_more_classes_than_slots() -> None:
    plugin = replay.ReplayPlugin(replay.Config(memory=2), 0)
    candidates = {"key": torch.rand(3), "y": torch.arange(3)}
    with pytest.raises(UserError, match="strategies.replay.memory=2: must be at least 3"):
        plugin.keep(None, candidates)


def _drawn(seed: int, experience: int, iteration: int) -> list[int]:
    """Return which of 50 stored samples join a mini-batch of 4."""
    plugin = replay.ReplayPlugin(replay.Config(memory=50, batch_size=10), seed)
    y = torch.arange(50)
    plugin.load_state_dict({"x": torch.zeros(50, 2), "y": y, "t": y * 0, "key": torch.zeros(50)})
    script = _Script(
        mbatch=[torch.zeros(4, 2), torch.full((4,), -1), torch.zeros(4, dtype=torch.int64)],
        experience=_Script(current_experience=experience, dataset=[]),
        clock=_Script(train_exp_iterations=iteration),
        device=torch.device("cpu"),
    )
    rng = torch.get_rng_state()
    plugin.before_training_iteration(script)
    assert torch.equal(torch.get_rng_state(), rng)  # no global generator is used
    assert [len(part) for part in script.mbatch] == [14, 14, 14]
    drawn: list[int] = script.mbatch[1][4:].tolist()
    assert len(set(drawn)) == 10 and min(drawn) >= 0  # without replacement
    return drawn


def test_sampling_depends_on_seed_experience_and_iteration_only() -> None:
    places = [(seed, experience, iteration) for seed in (0, 1) for experience in (1, 2) for iteration in (0, 1)]
    torch.manual_seed(0)
    once = [_drawn(*place) for place in places]
    torch.manual_seed(1)
    assert [_drawn(*place) for place in places] == once
    assert len({tuple(drawn) for drawn in once}) == len(places)
