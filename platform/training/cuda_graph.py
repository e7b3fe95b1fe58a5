"""Record an iteration as a CUDA graph, and replay it: `training.compile: graph`.

An iteration of a small network is hundreds of short kernels, and starting them from Python takes longer than running them. A
graph starts all of them at once. It repeats the recorded kernels on the same memory, so each mini-batch is copied to where the
recorded one was, and nothing in between may depend on the host: shapes are fixed, and strategies that act between the forward
pass and the update must declare `Plugin.capturable`.

Outside of the graph, on the host, run in every iteration: the loader, augmentation, the hooks before and after an iteration, and
an optimizer step whose learning rate changes or that counts its steps (adam).

Sources: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ..data.resident_loader import ResidentLoader
from ..errors import comma_separated
from .frozen_feature_cache import HOOKS, is_fixed
from .per_sample_cache import Appended
from .plugin import overrides_hook, strategy_name

_WARM_UP = 3  # iterations that run as usual first: libraries choose their algorithms, caches fill, momentum starts
_RECORDED_EVENTS = (
    *("before_forward", "after_forward", "before_backward", "after_backward", "before_update", "after_update"),
)
ITERATION_EVENTS = ("before_training_iteration", *_RECORDED_EVENTS, "after_training_iteration")


class Recorder(Protocol):
    """Records operations on a device, to repeat them on the same memory."""

    def stream(self) -> Any:
        """Return a context for all work that is recorded, or that shares tensors with it."""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record the operations of `work`, which then have not run yet; return a function that runs them.

        Raises:
            RuntimeError: an operation cannot be recorded, because it waits for the device.
        """


class CudaGraphs:
    """Records CUDA graphs on a separate stream, as capturing needs it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Run the block on the stream, after all earlier work; later work comes after it."""
        outer = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(outer)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            outer.wait_stream(self._stream)

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record a CUDA graph; see `Recorder`."""
        graph = torch.cuda.CUDAGraph()
        # thread_local: a thread that writes a checkpoint must not make the recording fail
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            work()
        return graph.replay


@dataclass(frozen=True, slots=True, eq=False)
class _Inputs:
    """What an iteration reads.

    Attributes:
        mbatch: the mini-batch [x, y, t].
        index: positions (B,) of its samples, as `ResidentLoader.index`.
        appended: which samples of a memory its last rows are; None if there are none, or if that is not known.
    """

    mbatch: list[Tensor]
    index: Tensor
    appended: Appended | None

    @classmethod
    def of(cls, learner: Any) -> "_Inputs":
        """Return those of the present iteration."""
        index, known = learner.mb_index, learner.appended
        num_appended = len(learner.mb_x) - len(index)
        is_known = known is not None and num_appended > 0 and known.describes(learner.mb_x, num_appended)
        return cls(learner.mbatch, index, known if is_known else None)

    def like(self, other: "_Inputs | None") -> bool:
        """Return whether the shapes are the same, and the memory."""
        if other is None or [each.shape for each in self.mbatch] != [each.shape for each in other.mbatch]:
            return False
        memories = [None if each.appended is None else each.appended.memory for each in (self, other)]
        return memories[0] is memories[1]

    def copy(self) -> "_Inputs":
        """Return copies of the tensors; a memory is not copied."""
        mbatch, known = [each.clone() for each in self.mbatch], self.appended
        if known is not None:
            known = replace(known, index=known.index.clone(), x=mbatch[0], version=mbatch[0]._version)
        return _Inputs(mbatch, self.index.clone(), known)

    def fill(self, new: "_Inputs") -> None:
        """Copy what `new` holds to where these tensors are."""
        for own, other in zip(self.mbatch, new.mbatch, strict=True):
            own.copy_(other)
        self.index.copy_(new.index)
        if self.appended is not None and new.appended is not None:
            self.appended.index.copy_(new.appended.index)

    def put(self, learner: Any) -> None:
        """Make these the inputs of the present iteration."""
        learner.mbatch, learner.dataloader.index = self.mbatch, self.index
        learner.appended = self.appended or learner.appended


@dataclass(frozen=True, slots=True, eq=False)
class _Recording:
    """A recorded iteration, and the tensors that it reads and writes.

    Attributes:
        replay: runs it.
        inputs: what it reads.
        output, loss: what it computes.
        gradients: the parameters with the gradients that it writes.
    """

    replay: Callable[[], None]
    inputs: _Inputs
    output: Tensor
    loss: Tensor
    gradients: list[tuple[Tensor, Tensor | None]]


class GraphCompiler:
    """Runs epochs in which iterations with the usual shapes are replayed."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._learner: Any = None
        self._forget(None)

    def _forget(self, conditions: "_Conditions | None") -> None:
        """Drop the recorded iteration, and start again to warm up under these conditions."""
        self._conditions = conditions
        self._recording: _Recording | None = None
        self._inputs: _Inputs | None = None  # of an iteration like those that are recorded
        self._num_warm = 0
        self._failed = False
        self._is_recent = False  # whether the parameters' gradients are those of the recording

    def run_epoch(self, learner: Any) -> None:
        """Train for an epoch; iterations are replayed where that is possible."""
        reason = why_not_recorded(learner)
        conditions = _Conditions(learner)
        if reason or conditions != self._conditions:
            self._forget(conditions)
        if reason:
            note_at_start(learner, f"training.compile=graph: runs without a graph: {reason}")
            learner.training_epoch()
            return
        self._learner = learner
        learner.recorded_step = self.step
        try:
            with self._recorder.stream():
                learner.training_epoch()
        finally:
            learner.recorded_step = self._learner = None

    def step(self) -> None:
        """Do the work of `Loop.training_step`."""
        learner = self._learner
        if self._can_record(learner):
            inputs = _Inputs.of(learner)
            if not inputs.like(self._inputs):  # the first iteration, or a memory has grown
                self._forget(self._conditions)
                self._inputs = inputs
            if self._recording is None and self._num_warm >= _WARM_UP:
                self._record(learner, inputs)
            if self._recording is not None:
                self._replay(learner, inputs, self._recording)
                return
            self._num_warm += 1
        self._is_recent = False
        learner.training_step()

    def _can_record(self, learner: Any) -> bool:
        """Return whether an iteration can be recorded; not the last one of an epoch if it has fewer samples."""
        usual_size = min(learner.train_mb_size, len(learner.adapted_dataset))
        return not self._failed and len(learner.mb_index) == usual_size

    def _record(self, learner: Any, inputs: _Inputs) -> None:
        """Record the present iteration, without running it."""
        total, copies = learner.total, inputs.copy()
        copies.put(learner)
        learner.loss = learner.mb_output = None  # they hold autograd's nodes of the iteration before
        learner.total = 0.0  # the sum of the losses is computed outside
        try:
            replay = self._recorder.record(learner.training_step if self._steps_inside else learner.compute_gradients)
        except RuntimeError as error:  # torch's class for what CUDA refuses
            self._failed = True
            number, line = learner.experience.current_experience + 1, str(error).partition("\n")[0]
            text = f"training.compile=graph: experience {number} runs without a graph: {line}"
            warnings.warn(text, RuntimeWarning, stacklevel=2)  # in trial.log
        else:
            gradients = [(parameter, parameter.grad) for parameter in learner.model.parameters()]
            self._recording = _Recording(replay, copies, learner.mb_output, learner.loss, gradients)
            self._inputs, self._is_recent = copies, True
        inputs.put(learner)
        learner.total = total

    def _replay(self, learner: Any, inputs: _Inputs, recording: _Recording) -> None:
        """Copy the inputs to where the recorded ones were, and run the recorded iteration."""
        recording.inputs.fill(inputs)
        recording.inputs.put(learner)
        recording.replay()
        learner.mb_output, learner.loss = recording.output, recording.loss
        learner.total += recording.loss.detach()
        if not self._is_recent:  # an iteration that ran as usual has made new gradients
            for parameter, gradient in recording.gradients:
                parameter.grad = gradient
            self._is_recent = True
        if not self._steps_inside:
            learner.update_weights()

    @property
    def _steps_inside(self) -> bool:
        """Whether the optimizer's step is recorded too."""
        return self._conditions is not None and self._conditions.has_fixed_step


class _Conditions:
    """What a recorded iteration depends on besides the mini-batch; if any of it changes, the recording is dropped.

    Attributes:
        has_fixed_step: whether the optimizer's step does the same in each iteration: SGD at a constant rate.
    """

    def __init__(self, learner: Any) -> None:
        model, optimizer, schedule = learner.model, learner.optimizer, learner.training.schedule
        is_constant = schedule.name == "constant" and schedule.warmup == 0
        self.has_fixed_step = isinstance(optimizer, torch.optim.SGD) and is_constant
        tensors = [*model.parameters(), *model.buffers()]
        self._kept = [*tensors, optimizer, learner._criterion]  # so that no other object gets their ids
        ignored = {"params"} if self.has_fixed_step else {"params", "lr"}
        self._key = (
            [id(each) for each in self._kept],
            [(each.requires_grad, each.data_ptr()) for each in tensors],
            [(module.training, *(len(getattr(module, kind)) for kind in HOOKS)) for module in model.modules()],
            [{key: value for key, value in group.items() if key not in ignored} for group in optimizer.param_groups],
            [learner._hooks[event] for event in _RECORDED_EVENTS],
            learner.experience.current_experience,
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Conditions) and self._key == other._key

    __hash__ = None  # type: ignore[assignment]


def note_at_start(learner: Any, text: str) -> None:
    """Write a note about the experience, at its first iteration: a trial that resumes must not write it again."""
    if learner.clock.train_exp_iterations == 0:
        learner.note(text)


def is_capturable(plugin: Any) -> bool:
    """Return whether each class that defines a plugin's hooks of an iteration declares itself `capturable`."""
    defining = (
        next(cls for cls in type(plugin).__mro__ if event in vars(cls))
        for event in ITERATION_EVENTS
        if overrides_hook(plugin, event)
    )
    return all(vars(cls).get("capturable", False) for cls in defining)


def why_not_recorded(learner: Any) -> str:
    """Return why no iteration of this epoch can be recorded, as part of a sentence; an empty text if some can."""
    if not isinstance(learner.dataloader, ResidentLoader):
        return "its samples come from a data set of Avalanche's"
    if is_fixed(learner.model):
        return "only the head learns so far, from features that are computed once"
    on_host = [strategy_name(plugin) for plugin in learner.strategies if not is_capturable(plugin)]
    return f"{comma_separated(on_host)} may decide something on the host in each iteration" if on_host else ""
