"""Our strategies in a plain Avalanche script, and on our learner."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.benchmarks.utils.data_attribute import DataAttribute
from avalanche.models import IncrementalClassifier
from avalanche.training.templates import SupervisedTemplate
from torch import nn

from retain.platform.config.registry import neutral_settings
from retain.platform.config.schema import Optimizer, Training
from retain.platform.data.samples import resident_samples
from retain.platform.data.streams import Arrays, Experience, Part, Stream
from retain.platform.errors import UserError
from retain.platform.methods import logit_distillation
from retain.platform.models.heads import Head
from retain.platform.training.avalanche_learner import AvalancheLearner as Learner
from retain.platform.training.plugin import Plugin
from retain.platform.trial.resolve import strategy_builder
from retain.strategies import cumulative, early_stopping, freezing, joint, lwf, replay

D, N = 8, 40  # features, training samples of a class; two classes per experience
Bits = dict[str, torch.Tensor]


def points(label: int, split: int, num: int = N) -> tuple[torch.Tensor, torch.Tensor]:
    """Return samples of a class around its corner, (num, D) and (num,)."""
    draw = torch.Generator().manual_seed(10 * label + split)
    centre = torch.zeros(D)
    centre[2 * label : 2 * label + 2] = 3
    return torch.randn(num, D, generator=draw) + centre, torch.full((num,), label)


def pair(number: int, split: int, num: int = N) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the two classes of an experience."""
    (x0, y0), (x1, y1) = points(2 * number, split, num), points(2 * number + 1, split, num)
    return torch.cat([x0, x1]), torch.cat([y0, y1])


class _Items(torch.utils.data.Dataset[Any]):
    """A list as a dataset."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


def benchmark(task_labels: bool = True, validation: bool = True) -> Any:
    """Make two experiences of two classes, like an Avalanche user."""

    def dataset(number: int, split: int) -> AvalancheDataset[Any]:
        x, y = pair(number, split)
        items = [(x[i], int(y[i]), 0)[: 3 if task_labels else 2] for i in range(len(y))]
        labels = [DataAttribute(y.tolist(), "targets")]
        if task_labels:
            labels.append(DataAttribute([0] * len(y), "targets_task_labels"))
        return AvalancheDataset([_Items(items)], data_attributes=labels)

    names = ["train", "valid", "test"] if validation else ["train", "test"]
    streams = {name: [dataset(0, split), dataset(1, split)] for split, name in enumerate(names)}
    made = benchmark_from_datasets(**streams)
    for stream in made.streams.values():
        stream.benchmark = made
        for experience in stream:
            if task_labels:
                experience.task_labels = [0]
            experience.classes_in_this_experience = [2 * experience.current_experience + i for i in (0, 1)]
    return made


class Net(nn.Module):
    """A trunk with BatchNorm and Avalanche's growing head."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(D, 16), nn.BatchNorm1d(16), nn.ReLU())
        self.classifier = IncrementalClassifier(16, initial_out_features=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.trunk(x))  # type: ignore[no-any-return]


class Watch(Plugin):
    """Keep the data of each experience, and its number of epochs."""

    def __init__(self) -> None:
        self.rows: list[int] = []  # of every mini-batch
        self.labels: list[set[int]] = []
        self.epochs: list[int] = []

    def before_training_exp(self, learner: Any, **kwargs: Any) -> None:
        self.labels.append(set())
        self.epochs.append(0)

    def before_forward(self, learner: Any, **kwargs: Any) -> None:
        self.rows.append(len(learner.mb_y))
        self.labels[-1] |= set(learner.mb_y.tolist())

    def after_training_epoch(self, learner: Any, **kwargs: Any) -> None:
        self.epochs[-1] += 1


def script(plugins: Sequence[Plugin], epochs: int = 3, only: Sequence[int] = (0, 1), **made: Any) -> list[Bits]:
    """Train in plain Avalanche; return the network's bits at the start and after each experience of `only`."""
    torch.manual_seed(0)
    model, data = Net(), benchmark(**made)
    learner = SupervisedTemplate(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3),
        train_mb_size=16,
        train_epochs=epochs,
        eval_mb_size=64,
        plugins=list(plugins),
        evaluator=None,
    )
    bits = [copy.deepcopy(model.state_dict())]
    for number in only:
        learner.train(data.train_stream[number], eval_streams=[])
        bits.append(copy.deepcopy(learner.model.state_dict()))
    return bits


def network(bits: Bits) -> nn.Module:
    """Return the network with these bits, in evaluation mode."""
    model = Net()
    model.classifier = IncrementalClassifier(16, initial_out_features=bits["classifier.classifier.weight"].shape[0])
    model.load_state_dict(bits)
    return model.eval()


@torch.no_grad()
def accuracy(bits: Bits, number: int) -> float:
    """Return the test accuracy on an experience."""
    x, y = pair(number, 2)
    return float((network(bits)(x).argmax(1) == y).double().mean())


def same(one: Bits, other: Bits) -> bool:
    """Return whether two networks have the same bits."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def moved(one: Bits, other: Bits) -> set[str]:
    """Return the parts of the network whose bits differ."""
    return {name.partition(".")[0] for name in one if not torch.equal(one[name], other[name])}


@pytest.fixture(scope="module")
def naive() -> list[Bits]:
    """Return the bits of plain finetuning, which learns and forgets."""
    bits = script([])
    assert accuracy(bits[1], 0) > 0.9 and accuracy(bits[2], 1) > 0.9 and accuracy(bits[2], 0) < 0.6
    return bits


@pytest.mark.parametrize("module", [lwf, freezing, early_stopping, replay], ids=lambda m: m.__name__.rpartition(".")[2])
def test_neutral_settings_give_the_naive_bits(naive: list[Bits], module: Any) -> None:
    settings = neutral_settings(module)
    bits = script([strategy_builder(module, "")(module.Config(**settings), 0)])
    assert all(same(one, other) for one, other in zip(naive, bits, strict=True))


@pytest.mark.parametrize(
    "make",
    [
        lambda: lwf.LwFPlugin(lwf.Config(), 0),
        lambda: freezing.FreezingPlugin(freezing.Config(), 0),
        lambda: early_stopping.EarlyStoppingPlugin(early_stopping.Config(patience=1), 0),
        lambda: replay.ReplayPlugin(replay.Config(memory=8), 0),
        lambda: cumulative.CumulativePlugin(cumulative.Config(), 0),
    ],
    ids=["lwf", "freezing", "early_stopping", "replay", "cumulative"],
)
def test_runs_are_reproducible_and_differ_from_naive(naive: list[Bits], make: Callable[[], Plugin]) -> None:
    one, other = script([make()]), script([make()])
    assert same(one[2], other[2]) and not same(one[2], naive[2])


def test_lwf_holds_the_old_outputs() -> None:
    """It keeps old outputs on new data; it does not promise to solve class-incremental learning."""
    bits, plain = script([lwf.LwFPlugin(lwf.Config(weight=5.0), 0)], epochs=12), script([], epochs=12)
    assert same(bits[1], plain[1])  # no teacher yet
    x = pair(1, 0)[0]
    teacher = network(bits[1])(x)
    # in training mode, as during training: BatchNorm's running statistics follow the new data regardless of the loss
    students = [network(after).train()(x)[:, :2] for after in (bits[2], plain[2])]
    drift = [logit_distillation.distillation_loss(student, teacher, 2.0, "kl").item() for student in students]
    assert drift[0] < drift[1] / 5
    assert accuracy(bits[2], 1) > 0.9


@pytest.mark.parametrize(("from_experience", "first"), [(1, {"trunk", "classifier"}), (0, {"classifier"})])
def test_freezing_keeps_the_trunk(from_experience: int, first: set[str]) -> None:
    bits = script([freezing.FreezingPlugin(freezing.Config(from_experience=from_experience), 0)])
    assert moved(bits[0], bits[1]) == first
    assert moved(bits[1], {**bits[2], **_cut(bits[2])}) == {"classifier"}


def _cut(bits: Bits) -> Bits:
    """Return the old rows of a head that grew."""
    return {name: tensor[:2] for name, tensor in bits.items() if name.startswith("classifier.classifier")}


def test_early_stopping_starts_afresh_in_each_experience() -> None:
    """This easy task is solved after a few of 30 epochs: patience runs out in both experiences; the second starts afresh."""
    watch = Watch()
    script([early_stopping.EarlyStoppingPlugin(early_stopping.Config(patience=2), 0), watch], epochs=30)
    assert len(watch.epochs) == 2 and all(3 <= epochs < 30 for epochs in watch.epochs)


def test_early_stopping_restores_an_epoch_of_the_naive_run() -> None:
    """The restored bits equal those of a shorter naive training, up to the best epoch, buffers included."""
    restored = script([early_stopping.EarlyStoppingPlugin(early_stopping.Config(patience=1), 0)], epochs=6, only=[0])[1]
    assert any(same(restored, script([], epochs=epochs, only=[0])[1]) for epochs in range(1, 7))


def test_a_stop_at_the_last_epoch_does_not_affect_the_next_experience() -> None:
    watch = Watch()
    stopper = early_stopping.EarlyStoppingPlugin(early_stopping.Config(patience=1, min_delta=2.0), 0)
    data = benchmark()
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    learner = SupervisedTemplate(
        model=model, optimizer=optimizer, train_mb_size=16, train_epochs=2, plugins=[stopper, watch], evaluator=None
    )
    learner.train(data.train_stream, eval_streams=[])  # both in one call: Avalanche keeps its flag between them
    assert watch.epochs == [2, 2]


@pytest.mark.parametrize("linked", [True, False])
def test_early_stopping_without_validation_data_is_refused(linked: bool) -> None:
    plugin = early_stopping.EarlyStoppingPlugin(early_stopping.Config(), 0)
    data = benchmark(validation=not linked)
    if not linked:
        data.train_stream.benchmark = None  # Avalanche leaves it unset
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    learner = SupervisedTemplate(model=model, optimizer=optimizer, plugins=[plugin], evaluator=None)
    with pytest.raises(UserError, match="needs validation data"):
        learner.train(data.train_stream[0], eval_streams=[])


@pytest.mark.parametrize("policy", ["reservoir", "class_balanced"])
def test_replay_adds_old_samples_to_mini_batches(naive: list[Bits], policy: str) -> None:
    watch, plugin = Watch(), replay.ReplayPlugin(replay.Config(memory=21, policy=policy, batch_size=10), 3)
    bits = script([plugin, watch])
    batches = len(watch.rows) // 2
    assert watch.rows[:batches] == [16] * batches and watch.rows[batches:] == [26] * batches
    assert watch.labels == [{0, 1}, {0, 1, 2, 3}]
    assert same(bits[1], naive[1]) and accuracy(bits[2], 0) > 0.9
    state = plugin.state_dict()
    counts = torch.bincount(state["y"]).tolist()
    assert sum(counts) == 21 and (policy == "reservoir" or counts == [6, 5, 5, 5])
    owned = torch.cat([pair(0, 0)[0], pair(1, 0)[0]])
    assert all((owned == row).all(1).any() for row in state["x"])  # training samples, no validation or test samples
    assert (state["t"] == 0).all()


def test_replay_without_task_labels() -> None:
    """Here a mini-batch has two tensors."""
    watch = Watch()
    script([replay.ReplayPlugin(replay.Config(memory=8, batch_size=4), 3), watch], task_labels=False)
    assert watch.labels == [{0, 1}, {0, 1, 2, 3}] and watch.rows[-1] == 20


@pytest.mark.parametrize("memory", [8, 21])
def test_replay_resumes_from_its_state(memory: int) -> None:
    whole = replay.ReplayPlugin(replay.Config(memory=memory), 3)
    bits = script([whole])
    first, second = (replay.ReplayPlugin(replay.Config(memory=memory), 3) for _ in range(2))
    script([first], only=[0])

    class Swap(Plugin):
        """Load the first half's memory before the second half."""

        def before_training_exp(self, learner: Any, **kwargs: Any) -> None:
            if learner.experience.current_experience == 1:
                second.load_state_dict(first.state_dict())

    assert same(script([Swap(), second])[2], bits[2])


def test_cumulative_and_joint_train_on_all_data(naive: list[Bits]) -> None:
    watch = Watch()
    bits = script([cumulative.CumulativePlugin(cumulative.Config(), 0), watch])
    assert watch.labels == [{0, 1}, {0, 1, 2, 3}] and sum(watch.rows) == 3 * (2 * N + 4 * N)
    assert same(bits[1], naive[1])  # the first experience has all data so far

    watch = Watch()
    script([joint.JointPlugin(joint.Config(), 0), watch], only=[1])
    assert watch.labels == [{0, 1, 2, 3}] and sum(watch.rows) == 3 * 4 * N
    assert [joint.JointPlugin(joint.Config()).should_train(number, 3) for number in range(3)] == [False, False, True]


# On our learner.


def stream() -> Stream:
    """The same data as `benchmark`, resident."""
    splits = []
    for split, num in enumerate((N, 10, 10)):
        x, y = (torch.cat(both) for both in zip(pair(0, split, num), pair(1, split, num), strict=True))
        splits.append((Arrays(x, y), 2 * num))
    experiences = []
    for number in (0, 1):
        parts = [Part(arrays, torch.arange(number * size, (number + 1) * size)) for arrays, size in splits]
        classes = (2 * number, 2 * number + 1)
        experiences.append(Experience(f"classes {classes}", classes, *parts))
    return Stream("clouds", "class", tuple(experiences), tuple("abcd"), (D,), (0.0,), (1.0,))


class Growing(nn.Module):
    """A trunk with BatchNorm and our head."""

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Linear(D, 16), nn.BatchNorm1d(16), nn.ReLU())
        self.head = Head(16, 2, draw)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.trunk(x))  # type: ignore[no-any-return]


def learn(plugins: Sequence[Plugin], cls: type[Learner] = Learner) -> Learner:
    """Two experiences on our learner."""
    training = Training(epochs=4, batch_size=16, optimizer=Optimizer(lr=0.1, clip=None))
    learner = cls(model=Growing(), stream=stream(), training=training, plugins=plugins)
    for number in (0, 1):
        if learner.should_train(number):
            learner.train_experience(number)
    return learner


class _Augmenting(Learner):
    """A learner that reports augmentation, so that nothing may be cached."""

    augments = True


@pytest.mark.parametrize("with_replay", [False, True])
def test_cached_teacher_outputs_equal_recomputed_ones(with_replay: bool) -> None:
    def plugins() -> list[Plugin]:
        memory = [replay.ReplayPlugin(replay.Config(memory=8, batch_size=4), 0)] if with_replay else []
        return [*memory, lwf.LwFPlugin(lwf.Config(weight=2.0), 0)]

    cached, recomputed = learn(plugins()), learn(plugins(), _Augmenting)
    for one, other in zip(cached.model.parameters(), recomputed.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    calls: list[int] = []
    for learner_class in (Learner, _Augmenting):
        counted = plugins()
        calls.append(_teacher_rows(counted, learner_class))
    rows = 4 * 2 * N  # of new samples in 4 epochs
    # a sample of the memory is computed once, too, or in each mini-batch that it is in
    once, each_time = (8, 4 * 4 * (2 * N // 16)) if with_replay else (0, 0)
    assert calls == [2 * N + once, rows + each_time]


def _teacher_rows(plugins: list[Plugin], cls: type[Learner]) -> int:
    """Count the samples that lwf's teacher sees."""
    rows: list[int] = []

    class Count(Plugin):
        """Register a hook on the teacher once it exists."""

        def before_training_exp(self, learner: Any, **kwargs: Any) -> None:
            if plugins[-1].teacher:  # type: ignore[attr-defined]
                plugins[-1].teacher.model.register_forward_pre_hook(lambda _, x: rows.append(len(x[0])))  # type: ignore[attr-defined]

    learn([*plugins, Count()], cls)
    return sum(rows)


def test_union_of_experiences_is_resident_and_early_stopping_sees_its_validation_data() -> None:
    seen: list[int] = []

    class Look(Plugin):
        """Keep the training data and the validation data."""

        def before_training_exp(self, learner: Any, **kwargs: Any) -> None:
            samples = resident_samples(learner.adapted_dataset)
            assert samples is not None and len(samples.y) == len(learner.adapted_dataset)
            seen.extend([len(samples.y), len(early_stopping.validation_data(learner)[1])])

    learner = learn([cumulative.CumulativePlugin(cumulative.Config(), 0), Look(None)])
    assert seen == [2 * N, 20, 4 * N, 40]
    seen.clear()
    joint_learner = learn([joint.JointPlugin(joint.Config(), 0), Look(None)])
    assert seen == [4 * N, 40]
    assert min(learner.evaluate().task_agnostic) > 0.9 and min(joint_learner.evaluate().task_agnostic) > 0.9
