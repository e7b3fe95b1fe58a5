"""The training loop without Avalanche: the same bits, clock and hooks as with it; its phases; its optimizer; its timers."""

import copy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from avalanche.models.dynamic_optimizers import update_optimizer as avalanches_update_optimizer
from torch import nn

from retain.platform.config.schema import Optimizer, Training
from retain.platform.data.streams import Stream
from retain.platform.errors import UserError
from retain.platform.models.networks import mlp
from retain.platform.seeding import generator
from retain.platform.training import learner_state
from retain.platform.training.avalanche_learner import AvalancheLearner
from retain.platform.training.learner import Learner
from retain.platform.training.loop import Loop, Phase
from retain.platform.training.optimizer_update import update_optimizer
from retain.platform.training.plugin import Plugin, replace_criterion
from retain.platform.training.plugin_api import undo_stop
from retain.platform.trial import checkpoint_timer, stopwatch

Build = Callable[..., Stream]
TRAINING = Training(epochs=2, batch_size=16, evaluation_batch_size=7, optimizer=Optimizer(lr=0.1, clip=None))


class Recording(Plugin):
    """Record the phase at hooks of training and of evaluation."""

    STATE = ()

    def __init__(self, act: Callable[[Any], None] = lambda learner: None) -> None:
        self.phases: list[tuple[str, Phase, bool]] = []
        self.act = act

    def before_training(self, learner: Any, **kwargs: Any) -> None:
        self.phases.append(("before_training", learner.phase, learner.is_training))

    def after_update(self, learner: Any, **kwargs: Any) -> None:
        self.phases.append(("after_update", learner.phase, learner.is_training))

    def after_training_iteration(self, learner: Any, **kwargs: Any) -> None:
        self.act(learner)

    def before_eval_forward(self, learner: Any, **kwargs: Any) -> None:
        self.phases.append(("before_eval_forward", learner.phase, learner.is_training))


def network(stream: Stream) -> nn.Module:
    """Return a small network with two outputs."""
    return mlp.build(mlp.Config(hidden=(12,)), stream.shape, 2, generator(5, "network"))


def settings(stream: Stream, *plugins: Any, training: Training = TRAINING) -> dict[str, Any]:
    """Return the arguments of a learner."""
    return {
        "model": network(stream),
        "stream": stream,
        "training": training,
        "plugins": plugins,
        "seed_data": 3,
        "seed_initialisation": 4,
    }


def plain(stream: Stream, *plugins: Any, **more: Any) -> Learner:
    """Return a learner that knows nothing of Avalanche."""
    return Learner(**settings(stream, *plugins, **more))


def train(learner: Learner) -> Learner:
    """Train on all experiences."""
    for number in range(len(learner.stream.experiences)):
        learner.train_experience(number)
    return learner


def same(one: nn.Module, other: nn.Module) -> bool:
    """Return whether two networks have the same bits."""
    states = one.state_dict(), other.state_dict()
    return states[0].keys() == states[1].keys() and all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_the_learner_imports_no_avalanche() -> None:
    code = "import sys; import retain.platform.training.learner, retain.platform.training.learner_state\n"
    code += "sys.exit('avalanche' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=300).returncode == 0


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("scenario", ["class", "domain", "task"])
def test_same_bits_clock_and_accuracy_without_avalanche(scenario: str, reset: bool, tiny_stream: Build) -> None:
    stream = tiny_stream(scenario)
    training = replace(TRAINING, optimizer=Optimizer(lr=0.1, clip=None, reset=reset))
    watched, theirs = Recording(), Recording()
    ours = train(plain(stream, watched, training=training))
    avalanche = train(AvalancheLearner(**settings(stream, theirs, training=training)))
    assert same(ours.model, avalanche.model)
    assert vars(ours.clock) == vars(avalanche.clock)
    assert str(ours.evaluate()) == str(avalanche.evaluate())  # as text: NaN is not equal to itself
    assert watched.phases == theirs.phases


def test_a_learner_without_avalanche_resumes_mid_experience(tiny_stream: Build) -> None:
    stream, states = tiny_stream(), []
    training = replace(TRAINING, optimizer=Optimizer(lr=0.1, clip=None, reset=False))

    def capture(learner: Any) -> None:
        if learner.clock.train_iterations == 10:  # the fifth iteration of the second experience
            states.append(copy.deepcopy(learner_state.capture(learner)))

    whole = plain(stream, training=training)
    whole.on_iteration = capture
    train(whole)
    resumed = plain(stream, training=training)
    learner_state.restore(resumed, states[0])
    assert (resumed.phase, resumed.in_experience) == (Phase.RESUMED, True)
    for number in (1, 2):
        resumed.train_experience(number)
    assert same(resumed.model, whole.model) and vars(resumed.clock) == vars(whole.clock)
    assert (resumed.phase, resumed.in_experience) == (Phase.IDLE, False)


def test_the_phase_says_what_the_learner_does(tiny_stream: Build) -> None:
    """An evaluation in the middle of training returns to it."""

    def evaluate_once(learner: Any) -> None:
        if learner.clock.train_iterations == 1:
            learner.eval(learner.benchmark.test_stream[0])

    recording = Recording(evaluate_once)
    learner = plain(tiny_stream(num_experiences=1), recording)
    assert learner.phase is Phase.IDLE and not learner.in_experience
    train(learner)
    training = ("after_update", Phase.TRAINING, True)
    evaluating = ("before_eval_forward", Phase.EVALUATING, False)
    assert recording.phases[:3] == [("before_training", Phase.TRAINING, True), training, training]
    assert recording.phases[3:] == [evaluating] * 3 + [training] * 4  # 20 test samples, mini-batches of 7
    assert learner.phase is Phase.IDLE and not learner.is_training
    assert learner.experience is learner.adapted_dataset is learner.mbatch is None and learner.dataloader == []


def test_a_stop_can_be_undone(tiny_stream: Build) -> None:
    def stop_and_undo(learner: Any) -> None:
        learner.stop_training()
        undo_stop(learner)

    assert train(plain(tiny_stream(), Recording(stop_and_undo))).clock.train_iterations == 18


def test_the_criterion_function_can_be_read_and_replaced(tiny_stream: Build) -> None:
    learner = plain(tiny_stream())
    before = learner.criterion_function
    undo = replace_criterion(learner, lambda logits, y: logits.sum())
    assert learner.criterion_function is not before
    undo()
    assert learner.criterion_function is before
    learner.criterion_function = torch.nn.functional.cross_entropy
    train(learner)
    assert same(learner.model, train(plain(tiny_stream())).model)


def test_other_data_sets_need_avalanches_loaders(tiny_stream: Build) -> None:
    class Replace(Plugin):
        def after_train_dataset_adaptation(self, learner: Any, **kwargs: Any) -> None:
            learner.adapted_dataset = [learner.adapted_dataset[0]]

    with pytest.raises(TypeError, match="list: is not made of a stream's arrays"):
        plain(tiny_stream(), Replace(None)).train_experience(0)


def test_avalanches_way_to_train_is_refused(tiny_stream: Build) -> None:
    learner = AvalancheLearner(**settings(tiny_stream()))
    with pytest.raises(TypeError, match=r"call train_experience\(number\)"):
        learner.train(learner.benchmark.train_stream[0])


# The optimizer of a network whose parameters changed.


def grown(kind: str) -> tuple[nn.Module, dict[str, Any], list[list[str]]]:
    """Return a network with a new head or a new layer, its parameters before, and the groups of the optimizer by name."""
    net = nn.ModuleDict({"trunk": nn.ModuleDict({"a": nn.Linear(2, 2)}), "head": nn.Linear(2, 2)})
    before = dict(net.named_parameters())
    if kind in ("replaced", "both"):
        net["head"] = nn.Linear(2, 3)
    if kind in ("added", "both"):
        net["trunk"]["b"] = nn.Linear(2, 2)  # type: ignore[index]
    return net, before, [[name for name in before if name.startswith(part)] for part in ("trunk", "head")]


@pytest.mark.parametrize("kind", ["same", "replaced", "added", "both"])
@pytest.mark.parametrize("num_groups", [1, 2])
def test_the_optimizer_is_updated_as_by_avalanche(kind: str, num_groups: int) -> None:
    net, before, groups = grown(kind)
    optimizers = []
    for update in (
        lambda optimizer: update_optimizer(optimizer, dict(net.named_parameters()), before),
        lambda optimizer: avalanches_update_optimizer(optimizer, dict(net.named_parameters()), before),
    ):
        parts = groups if num_groups == 2 else [sum(groups, [])]
        optimizer = torch.optim.SGD([{"params": [before[name] for name in part]} for part in parts], lr=1, momentum=0.9)
        for parameter in before.values():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        update(optimizer)
        optimizers.append(optimizer)
    ours, theirs = ([[id(p) for p in group["params"]] for group in optimizer.param_groups] for optimizer in optimizers)
    assert ours == theirs
    states = [{id(p): sorted(state) for p, state in optimizer.state.items()} for optimizer in optimizers]
    assert states[0] == states[1]
    assert sum(map(len, ours)) == len(list(net.parameters()))


def test_a_new_parameter_between_groups_is_refused() -> None:
    net = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    before = dict(net.named_parameters())
    optimizer = torch.optim.SGD(
        [{"params": list(net["a"].parameters())}, {"params": list(net["b"].parameters())}], lr=1
    )
    net["c"] = nn.Linear(2, 2)
    with pytest.raises(UserError, match=r"new parameter, c.weight, .*training.optimizer.reset"):
        update_optimizer(optimizer, dict(net.named_parameters()), before)


# The trial's timers.


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list whose only entry is the time that the timers read."""
    time = [100.0]
    clock = SimpleNamespace(perf_counter=lambda: time[0], monotonic=lambda: time[0])
    monkeypatch.setattr(stopwatch, "time", clock)
    monkeypatch.setattr(checkpoint_timer, "time", clock)
    return time


def test_the_stopwatch_leaves_out_probes_and_continues_after_a_checkpoint(now: list[float]) -> None:
    watch = stopwatch.Stopwatch()
    now[0] += 50  # before the training: not measured
    watch.start_training()
    now[0] += 3
    watch.exclude(1)
    assert watch.split_epoch() == 2
    watch.split_training()
    state = watch.state_dict()
    assert state == {"seconds": 0, "train_seconds": 2}
    resumed = stopwatch.Stopwatch()
    resumed.load_state_dict(state | {"other": 1})
    now[0] += 7
    resumed.start_training()
    now[0] += 4
    assert resumed.split_epoch() == 4
    resumed.split_training()
    resumed.start_evaluation()
    now[0] += 0.5
    assert resumed.complete_experience() == {"train_seconds": 6, "evaluation_seconds": 0.5}
    assert resumed.state_dict() == {"seconds": 6.5, "train_seconds": 0}


@pytest.mark.parametrize(
    ("every", "checks", "checkpoints"),  # times at which each is due, from 0 on in steps of a quarter of a second
    [
        (None, [0, 0.5, 1, 1.5, 2], []),
        (0.75, [0, 0.5, 0.75, 1.25, 1.5, 2], [0.75, 1.5]),
        (0, [0.25 * step for step in range(9)], [0.25 * step for step in range(9)]),
    ],
)
def test_when_checks_and_checkpoints_are_due(
    every: float | None, checks: list[float], checkpoints: list[float], now: list[float]
) -> None:
    timer = checkpoint_timer.CheckpointTimer(every)
    checked, saved = [], []
    for step in range(9):
        now[0] = 100 + 0.25 * step
        if not timer.is_check_due:
            continue
        checked.append(0.25 * step)
        if timer.is_checkpoint_due:
            saved.append(0.25 * step)
            timer.saved()
        timer.checked()
    assert (checked, saved) == (checks, checkpoints)


def test_the_loop_alone_trains(tiny_stream: Build) -> None:
    """`Learner` adds evaluation and resuming, nothing to the training."""
    stream = tiny_stream()
    loop = Loop(**settings(stream))
    for number in range(3):
        loop.train_experience(number)
    assert same(loop.model, train(plain(stream)).model)
