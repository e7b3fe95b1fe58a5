"""Find operations that would wait for a GPU, on a machine without one: train on torch's meta device.

Its tensors have no values, so what reads one there (item, bool, nonzero, numpy) fails. Copies from the host that wait are noted.
"""

import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from retain.platform import seeding
from retain.platform.config.schema import Experiment
from retain.platform.training import learner_state
from retain.platform.training.learner import Learner
from retain.platform.training.plugin import Plugin
from retain.platform.trial.builder import TrialBuilder, build_trial
from retain.platform.trial.resolve import resolve_experiment

from .recorded_operations import without_profiling

_aten = torch.ops.aten
_META = torch.device("meta")
_SKIPPED = 2  # iterations after resuming that are not watched: caches are filled there, once per experience


class _Done(Exception):
    """Enough iterations."""


class _Watcher(TorchDispatchMode):
    """Notes, while `is_on`, what waits for the device, and copies in a step, which a CUDA graph could not repeat."""

    def __init__(self) -> None:
        super().__init__()
        self.is_on = self.in_step = False
        self.waits: list[str] = []
        self.copies: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        devices = [each.device.type for each in tree_flatten((args, kwargs))[0] if isinstance(each, Tensor)]
        if func is _aten.equal.default:
            self.waits += [_where("compares tensors")] if self.is_on else []
            return True
        if not self.is_on:
            return func(*args, **kwargs)
        if func is _aten.lift_fresh.default and devices == [
            "meta"
        ]:  # torch.tensor(..., device=), or a list as an index
            self.waits.append(_where("copies numbers to the device"))
        elif func is _aten._to_copy.default and {*devices, str(kwargs.get("device"))} == {"cpu", "meta"}:
            self._note(kwargs.get("non_blocking", False))
        elif func is _aten.copy_.default and {*devices} == {"cpu", "meta"}:
            self._note(len(args) > 2 and args[2])
        elif func in (_aten.index.Tensor, _aten.index_put_.default) and {*devices} == {"cpu", "meta"}:
            self._note(False)
        return func(*args, **kwargs)

    def _note(self, non_blocking: bool) -> None:
        text = _where("copies a tensor between host and device")
        self.copies += [text] if self.in_step else []
        self.waits += [] if non_blocking else [text]


def _where(what: str, frames: Sequence[traceback.FrameSummary] = ()) -> str:
    """Return what happened and the innermost line of the code under test; `frames`: by default those of the present call."""
    outside = [
        frame
        for frame in frames or traceback.extract_stack()
        if "site-packages" not in frame.filename and Path(frame.filename) != Path(__file__)
    ]
    return f"{what} ({Path(outside[-1].filename).name}, line {outside[-1].lineno})"


class _Limits(Plugin):
    """Watches iterations from the third after resuming to the last of the epoch, and ends the training there."""

    def __init__(self, watcher: _Watcher) -> None:
        super().__init__()
        self.watcher, self.num_seen = watcher, 0

    def before_training_iteration(self, learner: Any, **kwargs: Any) -> None:
        self.num_seen += 1
        self.watcher.is_on = self.num_seen > _SKIPPED

    def before_forward(self, learner: Any, **kwargs: Any) -> None:
        self.watcher.in_step = True

    def after_training_iteration(self, learner: Any, **kwargs: Any) -> None:
        self.watcher.in_step = False
        if learner.clock.train_epoch_iterations + 1 == len(learner.dataloader):
            raise _Done


def _learner(builder: TrialBuilder, device: torch.device) -> Learner:
    return Learner(
        model=builder.network(),
        stream=builder.stream,
        training=builder.config.training,
        plugins=builder.plugins(),
        seed_data=builder.seeds.data,
        seed_initialisation=builder.seeds.initialisation,
        device=device,
        augment=builder.augmentation(),
    )


def waits_of(experiment: Experiment) -> tuple[list[str], list[str]]:
    """Return where an iteration in the last experience would wait for a GPU, and where its step copies from the host.

    The trial runs on the CPU up to the first iteration of that experience, and is resumed on the meta device. An epoch must have
    at least four mini-batches.
    """
    builder = build_trial(resolve_experiment(experiment))
    seeding.seed_globals(0, "meta device")
    learner, last = _learner(builder, torch.device("cpu")), len(builder.stream.experiences) - 1

    def stop(learner: Any) -> None:
        if learner.experience.current_experience == last and learner.clock.train_exp_iterations == 1:
            raise _Done

    learner.on_iteration = stop
    state = None
    for number in range(last + 1):
        try:
            if learner.should_train(number):
                learner.train_experience(number)
        except _Done:
            state = learner_state.capture(learner)
    assert state is not None, "the last experience is too short"
    on_meta, watcher = _learner(builder, _META), _Watcher()
    learner_state.restore(on_meta, state)
    on_meta.plugins.insert(0, _Limits(watcher))
    try:
        with without_profiling(), watcher:
            on_meta.train_experience(last)
    except _Done:
        return watcher.waits, watcher.copies
    except (RuntimeError, NotImplementedError) as error:  # torch's, for a value that the meta device does not have
        text = _where(f"reads a value: {str(error).splitlines()[0]}", traceback.extract_tb(error.__traceback__))
        return [*watcher.waits, text], watcher.copies
    raise AssertionError("the epoch did not end")
