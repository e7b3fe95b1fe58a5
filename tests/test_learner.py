"""The learner against Avalanche's template, against a bare loop, and against hand-computed numbers."""

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from avalanche.models import IncrementalClassifier
from avalanche.training.templates import SupervisedTemplate
from torch import nn
from torch.nn import functional

from retain.platform.config.load import from_dict
from retain.platform.config.schema import Experiment, Optimizer, Schedule, Training
from retain.platform.data import samples as data_samples
from retain.platform.data.samples import resident_samples
from retain.platform.data.streams import Stream
from retain.platform.errors import UserError
from retain.platform.ledger.reader import Trial
from retain.platform.models.networks import mlp, small_cnn
from retain.platform.seeding import generator
from retain.platform.training import learner_state
from retain.platform.training.avalanche_learner import AvalancheLearner as Learner
from retain.platform.training.evaluation import TestSet
from retain.platform.training.optimization import base_lr, lr_factor, make_optimizer
from retain.platform.training.plugin import EVENTS, Plugin
from retain.platform.trial.builder import build_trial
from retain.platform.trial.resolve import resolve_experiment
from retain.platform.trial.run import run as run_trial
from retain.strategies import joint

Build = Callable[..., Stream]
Make = Callable[..., Experiment]
Bits = dict[str, torch.Tensor]
HOLD = Training(epochs=2, batch_size=16, evaluation_batch_size=7, optimizer=Optimizer(lr=0.1, clip=None))


def network(stream: Stream, kind: str = "mlp", num_classes: int = 2) -> nn.Module:
    """Return a small network with `num_classes` initial outputs."""
    draw = generator(5, "network")
    if kind == "mlp":
        return mlp.build(mlp.Config(hidden=(12,)), stream.shape, num_classes, draw)
    config = small_cnn.Config(channels=(3,), hidden=8, norm="batch" if kind == "cnn with batch norm" else None)
    return small_cnn.build(config, stream.shape, num_classes, draw)


def learner_of(stream: Stream, *plugins: Any, training: Training = HOLD, kind: str = "mlp", **more: Any) -> Learner:
    """Return an untrained learner."""
    model = more.pop("model", None) or network(stream, kind)
    return Learner(
        model=model, stream=stream, training=training, plugins=plugins, seed_data=3, seed_initialisation=4, **more
    )


def train(learner: Learner) -> Learner:
    """Train on all experiences."""
    for number in range(len(learner.stream.experiences)):
        learner.train_experience(number)
    return learner


def bits(model: nn.Module) -> Bits:
    """Return a copy of the network's tensors."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(one: Bits, other: Bits) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


class At(Plugin):
    """Call a function at one hook."""

    def __init__(self, event: str, what: Callable[[Any], None]) -> None:
        self.event, self.what = event, what


def _at(event: str) -> Any:
    def hook(self: At, learner: Any, **kwargs: Any) -> None:
        if self.event == event:
            self.what(learner)

    return hook


for _event in EVENTS:
    if "_eval" not in _event:
        setattr(At, _event, _at(_event))


class Recorder:
    """Record every hook, as an Avalanche user's plugin would."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []


def _recording(event: str) -> Any:
    def hook(self: Recorder, learner: Any, **kwargs: Any) -> None:
        size = len(learner.mb_y) if learner.mbatch is not None and event.endswith("forward") else None
        number = None if learner.experience is None else learner.experience.current_experience
        self.events.append((event, number, learner.is_training, learner.clock.train_iterations, size))

    return hook


for _event in EVENTS:
    setattr(Recorder, _event, _recording(_event))


# Avalanche's order of hooks.


def test_hooks_run_in_avalanches_order(tiny_stream: Build) -> None:
    stream, training = tiny_stream(num_experiences=2), replace(HOLD, batch_size=15)
    ours, theirs = Recorder(), Recorder()
    learner = learner_of(stream, ours, model=network(stream, num_classes=4), training=training)
    model = network(stream, num_classes=4)
    stock = SupervisedTemplate(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        train_mb_size=15,
        train_epochs=2,
        eval_mb_size=7,
        plugins=[theirs],
        evaluator=None,
    )
    for experience in learner.benchmark.train_stream:
        learner.train_experience(experience.current_experience)
        stock.train(experience, eval_streams=[])
        assert ours.events == theirs.events
    assert {event for event, *_ in ours.events} == {event for event in EVENTS if "_eval" not in event}
    for recorder in (ours, theirs):
        recorder.events.clear()
    learner.evaluate()
    stock.eval(learner.benchmark.test_stream)
    assert ours.events == theirs.events and {event for event, *_ in ours.events} == {e for e in EVENTS if "_eval" in e}


def test_a_hook_may_add_to_the_loss_before_the_criterion(tiny_stream: Build) -> None:
    """As in Avalanche, where the loss is zero before the forward pass."""

    def penalty(learner: Any) -> None:
        learner.loss += sum(parameter.square().sum() for parameter in learner.model.parameters())

    early, late = (
        train(learner_of(tiny_stream(), At(event, penalty))) for event in ("after_forward", "before_backward")
    )
    for one, other in zip(early.model.parameters(), late.model.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    assert not torch.equal(early.model.head.weight, train(learner_of(tiny_stream())).model.head.weight)


# A bare loop.


def bare_loop(stream: Stream, model: Any) -> Bits:
    """Train with the settings of HOLD in a bare loop."""
    for number, experience in enumerate(stream.experiences):
        model.head.grow(1 + max(experience.classes), generator(4, "head", number))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        x = stream.normalise(experience.train.arrays.x[experience.train.indices])
        for epoch in range(2):
            order = torch.randperm(len(x), generator=generator(3, "order", number, epoch))
            for index in order.split(16):
                optimizer.zero_grad()
                functional.cross_entropy(model(x[index]), experience.train.y[index]).backward()
                optimizer.step()
    return bits(model)


@pytest.mark.parametrize("scenario", ["class", "domain"])
@pytest.mark.parametrize("kind", ["mlp", "cnn", "cnn with batch norm"])
def test_same_bits_as_a_bare_loop(kind: str, scenario: str, tiny_stream: Build) -> None:
    stream = tiny_stream(scenario)
    assert_same(bits(train(learner_of(stream, kind=kind)).model), bare_loop(stream, network(stream, kind)))


def test_mini_batches_are_the_samples_at_their_positions(tiny_stream: Build) -> None:
    seen: list[int] = []

    def look(learner: Any) -> None:
        samples = resident_samples(learner.adapted_dataset)
        assert samples is not None
        assert torch.equal(learner.mb_x, samples.stream.normalise(samples.x[learner.mb_index]))
        assert torch.equal(learner.mb_y, samples.y[learner.mb_index])
        item = learner.adapted_dataset[int(learner.mb_index[0])]
        assert torch.equal(item[0], learner.mb_x[0]) and item[1] == learner.mb_y[0] and item[2] == 0
        seen.extend(learner.mb_index.tolist())

    train(learner_of(tiny_stream(num_experiences=1), At("before_forward", look)))
    assert sorted(seen[:40]) == sorted(seen[40:]) == list(range(40)) and seen[:40] != seen[40:] != sorted(seen[40:])


def test_beyond_the_resident_budget_batches_are_converted_one_by_one(
    tiny_stream: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = tiny_stream()
    dtypes: list[torch.dtype] = []
    look = At("before_forward", lambda learner: dtypes.append(learner.dataloader.inputs.x.dtype))
    whole = bits(train(learner_of(stream, look)).model)
    monkeypatch.setattr(data_samples, "_RESIDENT_BYTES", 40 * 16 * 4 - 1)  # one byte less than an experience
    assert_same(bits(train(learner_of(stream, look)).model), whole)
    assert set(dtypes[: len(dtypes) // 2]) == {torch.float32} and set(dtypes[len(dtypes) // 2 :]) == {torch.uint8}


# Evaluation.


class Watcher(Plugin):
    """Force Avalanche's evaluation loop."""

    def state_dict(self):
        return {}

    def before_eval_forward(self, learner: Any, **kwargs: Any) -> None:
        """Do nothing; its existence forces the loop."""


@torch.no_grad()
def by_hand(stream: Stream, model: Any) -> tuple[list[float], list[float]]:
    """Return both views, computed sample by sample."""
    was, views = model.training, ([], [])  # type: ignore[var-annotated]
    model.eval()
    for experience in stream.experiences:
        x, y = stream.normalise(experience.test.arrays.x[experience.test.indices]), experience.test.y.tolist()
        rows = [model(sample[None])[0].tolist() for sample in x]
        own = [label for label in experience.classes if label < len(rows[0])]
        for view, among in zip(views, (range(len(rows[0])), own), strict=True):
            hits = (
                [max(among, key=row.__getitem__) == label for row, label in zip(rows, y, strict=True)]
                if own
                else [np.nan]
            )
            view.append(float(np.mean(hits)))
    model.train(was)
    return views


@pytest.mark.parametrize("scenario", ["class", "domain"])
@pytest.mark.parametrize("kind", ["mlp", "cnn with batch norm"])
def test_three_ways_to_evaluate_agree(kind: str, scenario: str, tiny_stream: Build) -> None:
    stream = tiny_stream(scenario)
    learner, watched = learner_of(stream, kind=kind), learner_of(stream, Watcher(), kind=kind)
    for number in range(3):
        for each in (learner, watched):
            each.train_experience(number)
        row, hand = learner.evaluate(), by_hand(stream, learner.model)
        avalanche = watched.evaluate()
        for view, expected in zip(("task_agnostic", "task_aware"), hand, strict=True):
            np.testing.assert_allclose(getattr(row, view), expected, atol=1e-12)
            np.testing.assert_array_equal(getattr(avalanche, view), getattr(row, view))
        unknown = scenario == "class"
        assert [np.isnan(cell) for cell in row.task_agnostic] == [unknown and later > number for later in range(3)]
    assert row.task_agnostic != row.task_aware or scenario == "domain"


def test_a_plugin_may_replace_predictions(tiny_stream: Build) -> None:
    """As NME or BiC do: the outputs after the evaluation's iteration count."""

    class Replace(Plugin):
        def after_eval_forward(self, learner: Any, **kwargs: Any) -> None:
            learner.mb_output = functional.one_hot(learner.mb_y, 6).float()

    assert learner_of(tiny_stream(), Replace()).evaluate().task_agnostic == [1.0, 1.0, 1.0]


def test_a_label_beyond_the_head_is_wrong(tiny_stream: Build) -> None:
    stream = tiny_stream()  # classes (0, 1), (2, 3), (4, 5), ten test samples each
    tests = TestSet(stream, torch.device("cpu"))
    row = tests.row(functional.one_hot(tests.y.clamp(max=2), 3).float())
    assert row.task_agnostic[:2] == row.task_aware[:2] == [1.0, 0.5] and np.isnan(row.task_agnostic[2])


def test_the_head_grows_in_training_only(tiny_stream: Build) -> None:
    sizes: list[int] = []
    weights: list[torch.Tensor] = []

    def before(learner: Any) -> None:
        weights.append(learner.model.head.weight.detach().clone())

    def after(learner: Any) -> None:
        old, weight = weights[-1], learner.model.head.weight
        assert torch.equal(weight[: len(old)], old)
        assert len(weight) == len(old) or weight[len(old) :].abs().min() > 0
        sizes.append(len(weight))

    learner = learner_of(
        tiny_stream(), At("before_train_dataset_adaptation", before), At("before_training_exp", after), Watcher()
    )
    for number in range(3):
        learner.evaluate()
        assert learner.model.head.num_classes == 2 * max(1, number)
        learner.train_experience(number)
    assert sizes == [2, 4, 6]


def test_new_head_rows_depend_on_the_initialisation_seed_only(tiny_stream: Build) -> None:
    rows = []
    for seeds in ({}, {"seed_data": 9}, {"seed_initialisation": 9}):
        stream = tiny_stream()
        weights: list[torch.Tensor] = []
        look = At(
            "before_training_exp", lambda s, weights=weights: weights.append(s.model.head.weight.detach().clone())
        )  # type: ignore[misc]
        settings = {"seed_data": 3, "seed_initialisation": 4} | seeds
        train(Learner(model=network(stream), stream=stream, training=HOLD, plugins=[look], **settings))  # type: ignore[arg-type]
        rows.append(weights[1][2:])
    assert torch.equal(rows[0], rows[1]) and not torch.equal(rows[0], rows[2])


class Foreign(nn.Module):
    """A network with Avalanche's growing head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.trunk = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU())
        self.classifier = IncrementalClassifier(12, initial_out_features=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.trunk(x))
        return logits


def test_a_network_with_avalanches_head_trains_and_resumes(tiny_stream: Build) -> None:
    stream = tiny_stream()
    whole = train(learner_of(stream, model=Foreign()))
    assert min(whole.evaluate().task_agnostic) >= 0 and len(whole.model.classifier.classifier.weight) == 6
    first = learner_of(stream, model=Foreign())
    for number in range(2):
        first.train_experience(number)
    state, draws = copy.deepcopy(learner_state.capture(first)), torch.get_rng_state()
    second = learner_of(stream, model=Foreign())
    learner_state.restore(second, state)
    torch.set_rng_state(draws)  # Avalanche's heads draw new rows from the global generator; a trial seeds it
    second.train_experience(2)
    assert_same(bits(second.model), bits(whole.model))


def test_avalanches_head_grows_to_what_joint_has_trained(tiny_stream: Build) -> None:
    """joint has trained once, on the last experience and not on the first."""
    stream = tiny_stream()
    first = learner_of(stream, joint.JointPlugin(joint.Config(), 0), model=Foreign())
    first.train_experience(2)
    second = learner_of(stream, joint.JointPlugin(joint.Config(), 0), model=Foreign())
    learner_state.restore(second, copy.deepcopy(learner_state.capture(first)))
    assert_same(bits(second.model), bits(first.model))


# Optimizer, schedule, length of experiences.


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule(), [1, 1, 1, 1, 1, 1, 1, 1]),
        (Schedule(warmup=0.5), [1 / 5, 2 / 5, 3 / 5, 4 / 5, 1, 1, 1, 1]),
        (Schedule(name="step", steps=(0.25, 0.75), gamma=0.1), [1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01]),
        (Schedule(name="cosine"), [1, 0.961940, 0.853553, 0.691342, 0.5, 0.308658, 0.146447, 0.038060]),
        (Schedule(name="cosine", warmup=0.5), [1 / 5, 2 / 5, 3 / 5, 4 / 5, 1, 0.853553, 0.5, 0.146447]),
        (Schedule(name="step", warmup=0.5, steps=(0.75,), gamma=0.5), [1 / 5, 2 / 5, 3 / 5, 4 / 5, 1, 1, 0.5, 0.5]),
    ],
)
def test_the_learning_rate_schedule_restarts_in_each_experience(
    schedule: Schedule, expected: list[float], tiny_stream: Build
) -> None:
    assert [lr_factor(schedule, iteration, 8) for iteration in range(8)] == pytest.approx(expected, abs=1e-6)
    used: list[float] = []
    look = At("before_update", lambda learner: used.append(learner.optimizer.param_groups[0]["lr"]))
    optimizer = Optimizer(lr=(0.5, 0.25, 0.125))
    train(learner_of(tiny_stream(), look, training=Training(iterations=8, optimizer=optimizer, schedule=schedule)))
    assert used == pytest.approx([lr * value for lr in (0.5, 0.25, 0.125) for value in expected], abs=1e-6)


def counts(stream: Stream, training: Training) -> tuple[list[int], list[int], list[set[int]]]:
    """Return iterations and (full or partial) epochs of each experience, and its batch sizes."""
    iterations, epochs, sizes = [0, 0, 0], [0, 0, 0], [set[int](), set[int](), set[int]()]

    def iteration(learner: Any) -> None:
        iterations[learner.experience.current_experience] += 1
        sizes[learner.experience.current_experience].add(len(learner.mb_y))

    def epoch(learner: Any) -> None:
        epochs[learner.experience.current_experience] += 1

    learner = train(
        learner_of(stream, At("after_update", iteration), At("before_training_epoch", epoch), training=training)
    )
    assert learner.clock.train_iterations == sum(iterations)
    return iterations, epochs, sizes


@pytest.mark.parametrize(
    ("training", "iterations", "epochs", "sizes"),  # 40 samples per experience
    [
        (Training(epochs=2, batch_size=16), [6, 6, 6], [2, 2, 2], [{16, 8}] * 3),
        (Training(epochs=(1, 3, 2), batch_size=(40, 20, 64)), [1, 6, 2], [1, 3, 2], [{40}, {20}, {40}]),
        (Training(iterations=7, batch_size=16), [7, 7, 7], [3, 3, 3], [{16, 8}] * 3),
        (Training(iterations=(2, 1, 9), epochs=5, batch_size=20), [2, 1, 9], [1, 1, 5], [{20}] * 3),
    ],
)
def test_lengths_of_experiences(
    training: Training, iterations: list[int], epochs: list[int], sizes: list[set[int]], tiny_stream: Build
) -> None:
    assert counts(tiny_stream(), training) == (iterations, epochs, sizes)


def test_iterations_that_make_whole_epochs_give_the_bits_of_the_epochs(tiny_stream: Build) -> None:
    by_epochs = train(learner_of(tiny_stream()))
    by_iterations = train(learner_of(tiny_stream(), training=replace(HOLD, epochs=99, iterations=6)))
    assert_same(bits(by_epochs.model), bits(by_iterations.model))


def test_per_experience_values_reach_the_optimizer(tiny_stream: Build) -> None:
    used: list[tuple[float, float]] = []

    def look(learner: Any) -> None:
        (group,) = learner.optimizer.param_groups
        used.append((group["lr"], group["weight_decay"]))

    for reset in (True, False):
        optimizer = Optimizer(lr=(0.1, 0.2, 0.3), weight_decay=(0.0, 0.01, 0.02), reset=reset)
        train(learner_of(tiny_stream(), At("before_training_exp", look), training=replace(HOLD, optimizer=optimizer)))
    assert used == [(0.1, 0.0), (0.2, 0.01), (0.3, 0.02)] * 2


@pytest.mark.parametrize("clip", [0.01, (0.01, 0.02, 0.03)])
def test_gradients_are_clipped_to_their_norm(clip: float | tuple[float, ...], tiny_stream: Build) -> None:
    def norm(learner: Any) -> float:
        return float(torch.cat([p.grad.flatten() for p in learner.model.parameters()]).norm())

    raw: list[float] = []
    clipped: list[float] = []
    plugins = (
        At("after_backward", lambda s: raw.append(norm(s))),
        At("before_update", lambda s: clipped.append(norm(s))),
    )
    train(learner_of(tiny_stream(), *plugins, training=replace(HOLD, optimizer=Optimizer(lr=0.1, clip=clip))))
    limits = [limit for limit in (clip if isinstance(clip, tuple) else (clip,) * 3) for _ in range(6)]
    assert clipped == pytest.approx([min(value, limit) for value, limit in zip(raw, limits, strict=True)], rel=1e-3)
    assert max(raw) > 0.1


@pytest.mark.parametrize(("name", "moment"), [("sgd", "momentum_buffer"), ("adam", "exp_avg"), ("adamw", "exp_avg")])
@pytest.mark.parametrize("scenario", ["class", "domain"])
@pytest.mark.parametrize("reset", [True, False])
def test_optimizer_moments_are_reset_or_kept(
    reset: bool, scenario: str, name: Any, moment: str, tiny_stream: Build
) -> None:
    """Kept moments belong to the same parameter; those of a head that grew are reset."""
    moments: list[dict[str, torch.Tensor]] = []

    def look(learner: Any) -> None:
        state = learner.optimizer.state
        named = learner.model.named_parameters()
        moments.append({n: state[p][moment].clone() for n, p in named if moment in state.get(p, {})})

    plugins = At("after_training_exp", look), At("before_training_exp", look)
    optimizer = Optimizer(name=name, lr=0.01, reset=reset)
    train(learner_of(tiny_stream(scenario), *plugins, training=replace(HOLD, optimizer=optimizer)))
    trunk, head = {"trunk.1.weight", "trunk.1.bias"}, {"head.weight", "head.bias"}
    unchanged = set() if reset else trunk if scenario == "class" else trunk | head
    begins, ends = moments[0::2], moments[1::2]
    assert begins[0] == {} and all(end.keys() == trunk | head for end in ends)
    for end, begin in zip(ends[:-1], begins[1:], strict=True):
        assert_same(begin, {key: end[key] for key in unchanged})


def test_a_list_that_does_not_fit_the_stream_is_refused(make_experiment: Make) -> None:
    for epochs, message in (([1, 2], "needs a value for each experience"), ([1] * 6, "has 6 values for 5 experiences")):
        with pytest.raises(UserError, match="training.epochs=.*" + message):
            build_trial(resolve_experiment(make_experiment(epochs=epochs)))


def test_a_setting_without_effect_is_refused(make_experiment: Make) -> None:
    """joint trains once: freezing after the first trained experience would freeze nothing."""
    with pytest.raises(UserError, match="strategies.freezing.from_experience=1: must be below 1"):
        build_trial(resolve_experiment(make_experiment(strategies={"joint": {}, "freezing": {}})))
    build_trial(resolve_experiment(make_experiment(strategies={"joint": {}, "freezing": {"from_experience": 0}})))


def test_stop_training_mid_epoch_ends_the_experience_only(tiny_stream: Build) -> None:
    def stop(learner: Any) -> None:
        if learner.clock.train_exp_iterations == 1 and learner.experience.current_experience != 1:
            learner.stop_training()

    learner = train(learner_of(tiny_stream(), At("after_update", stop)))
    assert learner.clock.train_iterations == 2 + 6 + 2


# Failures of a trial, and user-defined strategies.


@pytest.fixture
def folder(quick_folder: Path, request: pytest.FixtureRequest) -> Path:
    return quick_folder / f"learner-{abs(hash(request.node.name))}"


def notes(folder: Path) -> list[str]:
    """Return the ledger's notes."""
    return [event["text"] for _, event in Trial(folder).events() if event["kind"] == "note"]


def test_a_user_defined_strategy(folder: Path, make_experiment: Make) -> None:
    result = run_trial(make_experiment("pair", strategies={"plugins.raising": {"scale": 0.5}}), folder)
    naive = run_trial(make_experiment("pair"), folder.with_suffix(".naive"))
    assert notes(folder) == ["mine was here"] * 2
    assert result.summary["task_aware"] != naive.summary["task_aware"]
    with pytest.raises(UserError, match="strategies.plugins.raising.scale=-1.0: must be above 0"):
        resolve_experiment(make_experiment(strategies={"plugins.raising": {"scale": -1.0}}))


def test_an_exception_names_the_plugin(folder: Path, make_experiment: Make) -> None:
    config = make_experiment(strategies={"lwf": {}, "plugins.raising": {"experience": 2}})
    with pytest.raises(RuntimeError, match="no more of this"):
        run_trial(config, folder)
    status = Trial(folder).status()
    where = "in plugins.raising.Raising.after_backward"
    source = Path(__file__).parent / "plugins" / "raising.py"
    number = 1 + source.read_text().splitlines().index('            raise RuntimeError("no more of this")')
    line = f"{source}, line {number}"
    assert (status.status, status.error) == ("failed", f"RuntimeError: no more of this ({where}, {line})")
    log = (folder / "trial.log").read_text()
    assert "Traceback" in log and where in log and 'raise RuntimeError("no more of this")' in log


def test_a_non_finite_loss_ends_the_trial(folder: Path, make_experiment: Make) -> None:
    """It ends after the step that caused it and before the next; experience and iteration are named."""
    message = r"experience 1, iteration [23], in the cross-entropy itself \(strategies: none\)"
    with pytest.raises(FloatingPointError, match=message):
        run_trial(make_experiment(optimizer={"lr": 1e30}), folder)
    status = Trial(folder).status()
    assert status.status == "failed" and status.error is not None
    assert status.error.startswith("FloatingPointError: the loss became")
    assert "FloatingPointError" in (folder / "trial.log").read_text()
    assert json.loads((folder / "config.yaml").read_text().splitlines()[0].partition(":")[2]) == 1  # still readable


# Avalanche's plugins, by dotted path.

THEIRS = {
    "EWCPlugin": {"ewc_lambda": 1},
    "SynapticIntelligencePlugin": {"si_lambda": 1},
    "ReplayPlugin": {"mem_size": 20},
    "LwFPlugin": {"alpha": 1, "temperature": 2},
    "AGEMPlugin": {"patterns_per_experience": 20, "sample_size": 10},
    "GEMPlugin": {"patterns_per_experience": 10, "memory_strength": 0.5},
}


@pytest.mark.parametrize("name", THEIRS)
def test_avalanches_plugins_run_in_our_learner(name: str, folder: Path, make_experiment: Make) -> None:
    """They act; stopped between experiences, the trial notes once that it starts again, and gives the same bits."""
    config = make_experiment("pair", strategies={f"avalanche.training.plugins.{name}": THEIRS[name]})
    again, naive = folder.with_suffix(".again"), folder.with_suffix(".naive")
    whole = run_trial(config, folder)
    assert whole.matrices["task_agnostic"][1, 0] > 0.3
    assert not np.array_equal(
        whole.matrices["task_aware"], run_trial(make_experiment("pair"), naive).matrices["task_aware"]
    )

    def interrupt(values: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trial(config, again, report=interrupt)
    np.testing.assert_array_equal(run_trial(config, again).matrices["task_aware"], whole.matrices["task_aware"])
    assert notes(folder) == notes(again)
    assert len(notes(again)) == 1 and "starts again from its first experience" in notes(again)[0]
    assert not (again / "checkpoints").exists()


def test_avalanches_early_stopping_is_refused(make_experiment: Make) -> None:
    name = "avalanche.training.plugins.EarlyStoppingPlugin"
    config = make_experiment(strategies={name: {"patience": 2, "val_stream_name": "valid"}})
    with pytest.raises(UserError, match="EarlyStoppingPlugin: .*use strategies.early_stopping"):
        build_trial(resolve_experiment(config))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"ewc_lamda": 1}, "ewc_lamda: no such argument. Did you mean 'ewc_lambda'"), ({}, "missing a required argument")],
)
def test_arguments_of_avalanches_plugins_are_checked(
    arguments: dict[str, Any], message: str, make_experiment: Make
) -> None:
    with pytest.raises(UserError, match=message):
        build_trial(resolve_experiment(make_experiment(strategies={"avalanche.training.plugins.EWCPlugin": arguments})))


@pytest.mark.parametrize(
    ("model", "batch_size", "refused"), [("mlp", 261, True), ("mlp", 260, False), ("small_cnn", 261, False)]
)
def test_a_last_mini_batch_of_one_sample_that_batch_norm_cannot_take(
    model: str, batch_size: int, refused: bool
) -> None:
    """The first experience has 262 samples; a CNN's maps have several positions even for one sample."""
    config = {"name": "x", "benchmark": "split_digits", "model": {model: {"norm": "batch"}}, "seed": 0}
    experiment = resolve_experiment(from_dict({**config, "training": {"batch_size": batch_size}}))
    if not refused:
        build_trial(experiment)
        return
    with pytest.raises(
        UserError, match=r"training\.batch_size=261: leaves one sample for the last mini-batch of 'classes "
    ):
        build_trial(experiment)


def test_the_logged_learning_rate_excludes_group_factors() -> None:
    layer = torch.nn.Linear(2, 2)
    for groups, expected in (
        ({}, 0.01),
        ({"weight": {"lr": 10.0}, "bias": {"lr": 0.5}}, 0.01),
        ({"*": {"lr": 0.0}}, math.nan),
    ):
        rate = base_lr(make_optimizer(Optimizer(lr=0.01, groups=groups), layer.named_parameters(), 0))
        assert rate == pytest.approx(expected, nan_ok=True)


# The base class of strategies: its state, and what a user's class may do.


class Holder(Plugin):
    STATE = ("first", "second", "count")

    def init_state(self) -> None:
        self.first, self.second, self.count = nn.Linear(2, 2), nn.Linear(2, 2), 0


def test_objects_in_the_state_keep_their_entries_apart() -> None:
    one, other = Holder(), Holder()
    one.count = 3
    other.load_state_dict(one.state_dict())
    assert other.count == 3
    for name in ("first", "second"):
        assert torch.equal(getattr(one, name).weight, getattr(other, name).weight)
    assert not torch.equal(other.first.weight, other.second.weight)


def test_an_object_that_a_fresh_plugin_lacks_is_refused() -> None:
    one, other = Holder(), Holder()
    other.second = None  # type: ignore[assignment]
    with pytest.raises(TypeError, match="Holder.second: an object was saved; create it in init_state"):
        other.load_state_dict(one.state_dict())


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"STATE": "count"}, "STATE='count': must be a tuple"),
        ({"init_state": lambda self, size: None}, r"init_state: retain calls it with \(self\)"),
        ({"on_start": lambda self: None}, r"on_start: retain calls it with \(self, learner\)"),
    ],
)
def test_a_class_that_the_base_class_could_not_use_is_refused(body: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        type("Mine", (Plugin,), body)


def test_a_users_class_may_set_config_itself_and_have_other_bases() -> None:
    class Old(Plugin):
        def __init__(self) -> None:
            self.config, self.seed = "own", 7
            super().__init__()

    class Module(Plugin, nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

    assert (Old().config, Old().seed) == ("own", 7)
    assert len(list(Module().parameters())) == 2
    assert Plugin().config is None and Plugin("c", 3).seed == 3
