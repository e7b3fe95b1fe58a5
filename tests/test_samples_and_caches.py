"""Getting samples out of data sets, cached outputs of fixed networks, captured activations."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from avalanche.benchmarks.utils.classification_dataset import TaskAwareSupervisedClassificationDataset
from avalanche.benchmarks.utils.data_attribute import DataAttribute
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from retain.platform.data import samples
from retain.platform.data.avalanche_export import avalanche_benchmark
from retain.platform.data.streams import ResidentDataset, Stream
from retain.platform.models.activation_capture import ActivationCapture, layer_outputs
from retain.platform.models.features import FEATURES
from retain.platform.seeding import generator
from retain.platform.training.per_sample_cache import Appended, PerSampleCache, compute_padded

Build = Callable[..., Stream]


# Samples.


def foreign_dataset(stream: Stream) -> Any:
    """Return the first experience's training data as an Avalanche dataset that is not resident, of task 3."""
    part = stream.experiences[0].train
    x = stream.normalise(part.arrays.x[part.indices])
    labels = [DataAttribute(part.y.tolist(), "targets"), DataAttribute([3] * len(part), "targets_task_labels")]
    return TaskAwareSupervisedClassificationDataset([TensorDataset(x, part.y)], data_attributes=labels)


@pytest.mark.parametrize("kind", ["resident", "avalanche", "foreign"])
def test_all_ways_give_the_same_samples(kind: str, tiny_stream: Build) -> None:
    stream = tiny_stream()
    part = stream.experiences[0].train
    dataset = {
        "resident": lambda: ResidentDataset(stream, part),
        "avalanche": lambda: avalanche_benchmark(stream).streams["train"][0].dataset,
        "foreign": lambda: foreign_dataset(stream),
    }[kind]()
    stored, indices = part.arrays.x[part.indices], torch.tensor([5, 0, 5])
    x, y = stream.normalise(stored), part.y
    assert (samples.resident_samples(dataset) is None) == (kind == "foreign")

    everything = samples.stored_samples(dataset)
    assert torch.equal(everything.x, x if kind == "foreign" else stored)
    assert torch.equal(everything.inputs(), x) and torch.equal(everything.inputs(indices), x[indices])
    assert torch.equal(everything.y, y) and torch.equal(everything.t, torch.full_like(y, 3 if kind == "foreign" else 0))
    assert torch.equal(samples.input_transform(dataset)(everything.x[:7]), x[:7])

    for chosen, positions in ((None, torch.arange(len(y))), (indices, indices)):
        some_x, some_y = samples.dataset_samples(dataset, chosen)
        assert torch.equal(some_x, x[positions]) and torch.equal(some_y, y[positions])
        batches = list(samples.dataset_batches(dataset, 2, chosen))
        assert [len(each) for _, each in batches[:-1]] == [2] * (len(batches) - 1)
        assert torch.equal(torch.cat([each for each, _ in batches]), x[positions])
        assert torch.equal(torch.cat([each for _, each in batches]), y[positions])


@pytest.mark.parametrize("fits", [True, False])
def test_inputs_on_the_device_are_the_same_whether_they_fit_as_float32_or_not(
    fits: bool, tiny_stream: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = tiny_stream()
    if not fits:
        monkeypatch.setattr(samples, "_RESIDENT_BYTES", 30 * 16 * 4 - 1)  # one byte less than the samples below
    parts = [(number, stream.experiences[number].test) for number in (2, 0)]
    parts = [(number, type(part)(part.arrays, part.indices[:15])) for number, part in parts]
    gathered = samples.gather_parts(stream, parts, torch.device("cpu"))
    x = stream.normalise(torch.cat([part.arrays.x[part.indices] for _, part in parts]))
    assert gathered.inputs.x.dtype == (torch.float32 if fits else torch.uint8)
    assert torch.equal(torch.cat(list(gathered.inputs.batches(8))), x)
    assert torch.equal(gathered.inputs.select(torch.tensor([16, 2])), x[[16, 2]])
    assert torch.equal(gathered.y, torch.cat([part.y for _, part in parts]))
    assert gathered.experience.tolist() == [2] * 15 + [0] * 15 and len(gathered) == 30


# The cache.


class Counting:
    """A fixed function of the inputs that keeps the sizes of its batches."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, x: Tensor) -> dict[str, Tensor]:
        self.sizes.append(len(x))
        return {"sum": x.flatten(1).sum(1, keepdim=True), "double": 2 * x}


def running(stream: Stream, batch_size: int, **attributes: Any) -> Any:
    """Return what the cache reads of a learner, for the first experience's 40 samples."""
    dataset = ResidentDataset(stream, stream.experiences[0].train)
    values: dict[str, Any] = {"adapted_dataset": dataset, "train_mb_size": batch_size, "device": torch.device("cpu")}
    return SimpleNamespace(**values | attributes)


def at(learner: Any, index: list[int], appended: int = 0) -> Any:
    """Set the learner's mini-batch: the samples at `index`, and some rows of a memory."""
    learner.mb_index = torch.tensor(index)
    x, _ = samples.dataset_samples(learner.adapted_dataset, learner.mb_index)
    learner.mb_x = torch.cat([x, torch.full((appended, *x.shape[1:]), 0.5)])
    return learner


@pytest.mark.parametrize(
    ("last_batch", "batch_size", "sizes"),
    [
        ("pad", 16, [16, 16, 16]),
        ("overlap", 16, [16, 16, 16]),
        ("pad", 20, [20, 20]),
        ("overlap", 20, [20, 20]),
        ("pad", 64, [64]),
        ("overlap", 64, [40]),
    ],
)
def test_outputs_are_computed_once_in_full_batches(
    last_batch: Literal["pad", "overlap"], batch_size: int, sizes: list[int], tiny_stream: Build
) -> None:
    cache, compute, learner = PerSampleCache(last_batch), Counting(), running(tiny_stream(), batch_size)
    for index in ([39, 3, 17], [32, 31, 0], list(range(40))):
        outputs = cache.lookup(at(learner, index), compute)
        assert outputs is not None and set(outputs) == {"sum", "double"}
        for name, expected in Counting()(learner.mb_x).items():
            assert torch.equal(outputs[name], expected)
    assert compute.sizes == sizes and cache


def test_appended_rows_of_unknown_origin_are_computed_each_time(tiny_stream: Build) -> None:
    cache, compute, learner = PerSampleCache("pad"), Counting(), running(tiny_stream(), 40)
    for _ in range(2):
        outputs = cache.lookup(at(learner, [4, 2], appended=3), compute)
        assert outputs is not None and torch.equal(outputs["double"], 2 * learner.mb_x)
    assert compute.sizes == [40, 3, 3]


def replaying(learner: Any, memory: Tensor, index: list[int]) -> Any:
    """Set the learner's mini-batch: samples 4 and 2, and those at `index` of a memory, as `ReplayMemory.append` does."""
    at(learner, [4, 2])
    learner.mb_x = torch.cat([learner.mb_x, memory[index]])
    learner.appended = Appended(memory, torch.tensor(index), learner.mb_x, learner.mb_x._version)
    return learner


def test_rows_of_a_memory_are_computed_once(tiny_stream: Build) -> None:
    cache, compute, learner = PerSampleCache("pad"), Counting(), running(tiny_stream(), 40, num_iterations=4)
    memory = torch.rand(8, *learner.adapted_dataset.stream.shape)
    for index in ([7, 0, 3], [1, 2, 7]):
        outputs = cache.lookup(replaying(learner, memory, index), compute)
        assert outputs is not None and torch.equal(outputs["double"], 2 * learner.mb_x)
    assert compute.sizes == [40, 3, 3, 3]  # the memory in mini-batches of three, the last one padded
    cache.lookup(replaying(learner, memory.clone(), [1, 2, 7]), compute)
    assert compute.sizes[4:] == [3, 3, 3]  # it has changed


@pytest.mark.parametrize("change", ["another tensor", "in place", "more rows", "few iterations", "too large"])
def test_rows_that_may_not_be_a_memorys_are_computed_each_time(change: str, tiny_stream: Build) -> None:
    cache, compute, learner = PerSampleCache("pad"), Counting(), running(tiny_stream(), 40, num_iterations=4)
    memory, max_bytes = torch.rand(60, *learner.adapted_dataset.stream.shape), 10**6
    learner.num_iterations = 19 if change == "few iterations" else 20  # of three samples each, for 60 in memory
    for index in ([7, 0, 3], [1, 2, 7]):
        replaying(learner, memory, index)
        if change == "another tensor":
            learner.mb_x = learner.mb_x + 1
        elif change == "in place":
            learner.mb_x += 1
        elif change == "more rows":
            learner.mb_x = torch.cat([learner.mb_x, memory[:1]])
        elif change == "too large":
            max_bytes = 60 * (1 + 16) * 4 - 1  # enough for the 40 samples
        outputs = cache.lookup(learner, compute, max_bytes)
        appended = outputs["double"][2:] if outputs is not None else None
        assert appended is not None and torch.equal(appended, 2 * learner.mb_x[2:])
    rows = 4 if change == "more rows" else 3
    assert compute.sizes == [40, *([3] if change == "too large" else []), rows, rows]


def test_cleared_outputs_are_computed_again(tiny_stream: Build) -> None:
    cache, compute, learner = PerSampleCache("pad"), Counting(), running(tiny_stream(), 40)
    for _ in range(2):
        cache.lookup(at(learner, [0]), compute)
        cache.clear()
        assert not cache
    assert compute.sizes == [40, 40]


def test_outputs_that_take_too_much_memory_are_not_cached(tiny_stream: Build) -> None:
    needed = 40 * (1 + 16) * 4  # samples * values * bytes
    cache, compute, learner = PerSampleCache("pad"), Counting(), running(tiny_stream(), 16)
    for _ in range(3):
        assert cache.lookup(at(learner, [0]), compute, max_bytes=needed - 1) is None
    assert compute.sizes == [16] and not cache  # the first mini-batch shows it
    cache.clear()
    assert cache.lookup(at(learner, [0]), compute, max_bytes=needed) is not None


@pytest.mark.parametrize(
    "attributes", [{"mb_index": None}, {"augments": True}, {}], ids=["loader", "augments", "plain"]
)
def test_nothing_is_cached_where_samples_change_or_are_not_identified(
    attributes: dict[str, Any], tiny_stream: Build
) -> None:
    learner, compute = running(tiny_stream(), 16), Counting()
    if "augments" in attributes:
        at(learner, [0])
    vars(learner).update(attributes)
    assert PerSampleCache("pad").lookup(learner, compute) is None and not compute.sizes


def test_padding_repeats_the_first_sample_and_is_cut_off() -> None:
    seen: list[Tensor] = []

    def compute(x: Tensor) -> dict[str, Tensor]:
        seen.append(x)
        return {"x": x}

    x = torch.arange(6.0).view(3, 2)
    assert torch.equal(compute_padded(compute, x, 5)["x"], x) and torch.equal(seen[0], torch.cat([x, x[:1], x[:1]]))
    assert torch.equal(compute_padded(compute, x, 3)["x"], x) and len(seen[1]) == 3


# Captured activations.


class Network(nn.Module):
    """Runs one layer twice, changes its output in place, and has a head that changes its input in place."""

    def __init__(self) -> None:
        super().__init__()
        draw = generator(0, "network")
        self.layer, self.relu = nn.Linear(3, 3), nn.ReLU(inplace=True)
        self.head = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 2))
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=draw)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layer(self.relu(self.layer(x))))
        return logits


def no_hooks(model: nn.Module) -> bool:
    return not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_last_run_and_the_heads_input_are_captured_with_their_graph() -> None:
    model, x = Network(), torch.rand(4, 3, generator=generator(0, "x"))
    logits, outputs = layer_outputs(model, x, ["relu", FEATURES])
    assert no_hooks(model) and torch.equal(logits, model(x))
    assert torch.equal(outputs["relu"], model.layer(x).relu())
    assert torch.equal(outputs[FEATURES], model.layer(outputs["relu"]).relu())  # the head's first layer is in place
    outputs[FEATURES].sum().backward()
    assert model.layer.weight.grad is not None


def test_every_run_is_captured_in_order() -> None:
    model, x = Network(), torch.rand(4, 3, generator=generator(0, "x"))
    capture = ActivationCapture(["layer", "head"], every_run=True)
    with torch.no_grad(), capture.attached(model):
        logits = model(x)
    assert [run.layer for run in capture.runs] == ["layer", "layer", "head"] and not capture.outputs
    first, second, head = capture.runs
    assert torch.equal(first.input, x) and torch.equal(second.input, first.output)
    assert torch.equal(head.input, second.output) and torch.equal(head.output, logits)


def test_a_transform_is_applied_before_later_layers_change_the_output() -> None:
    model, x = Network(), torch.rand(4, 3, generator=generator(0, "x"))
    capture = ActivationCapture(["layer", FEATURES], transform=torch.clone)
    with torch.no_grad(), capture.attached(model):
        model(x)
        expected = nn.functional.linear(model.relu(model.layer.forward(x)), model.layer.weight, model.layer.bias)
    assert expected.min() < 0
    assert torch.equal(capture.outputs["layer"], expected) and torch.equal(capture.outputs[FEATURES], expected)


def test_hooks_are_removed_after_an_error_and_moved_to_another_network() -> None:
    first, second, capture = Network(), Network(), ActivationCapture(["layer"])
    with pytest.raises(RuntimeError), capture.attached(first):
        first(torch.rand(4, 5))
    assert no_hooks(first)
    capture.attach(first)
    capture.attach(second)
    assert no_hooks(first) and not no_hooks(second)
    second(torch.rand(4, 3))
    assert set(capture.outputs) == {"layer"}
    capture.detach()
    assert no_hooks(second) and not capture.outputs
