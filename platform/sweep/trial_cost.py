"""Measure what a trial costs: the first iterations of its first two experiences, with its strategies and probes."""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ..models.inference import logits_of
from ..trial.builder import TrialBuilder, build_trial
from ..trial.probe_runner import ProbeRunner
from ..trial.torch_settings import torch_settings
from ..trial.training_plan import planned_experiences
from .plan import PlannedTrial

_MAX_STEPS = 30  # iterations of an experience that are timed
_FORWARD = 1 / 3  # of a training iteration, where evaluation is not timed
_OPTIMIZER_STATES = {"sgd": 1, "adam": 2, "adamw": 2}  # tensors of a weight's size in a checkpoint


@dataclass(frozen=True, slots=True)
class Cost:
    """What a trial costs: between `low` and `high` seconds on an idle core, and `disk` bytes."""

    low: float
    high: float
    disk: float


@dataclass(slots=True)
class _Experience:
    """Seconds of the parts of an experience; `measurement` is that of the probes after an epoch."""

    steps: list[float] = field(default_factory=list)
    setup: float = 0.0
    epoch_end: float = 0.0
    end: float = 0.0
    measurement: float = 0.0

    @property
    def step(self) -> float:
        """Return the seconds of an iteration. The first is left out: libraries are loaded and memory is allocated in it."""
        return statistics.fmean(self.steps[1:] or self.steps)


def measure(trial: PlannedTrial, seconds: float, scratch: Path, on_cost: Callable[[Cost], None]) -> None:
    """Train a trial for a few iterations.

    Args:
        trial: the trial.
        seconds: how long to train; a slow iteration, or one that is not trained in iterations, can take longer.
        scratch: a folder for the files of probes.
        on_cost: called with the estimate, again and again as more of the trial has been measured.
    """
    with torch_settings(trial.config.resources):
        started = time.perf_counter()
        builder = build_trial(trial.resolved)
        build_seconds = time.perf_counter() - started
        _warm_up()
        _Measurement(builder, build_seconds, scratch, on_cost).run(seconds)


def _warm_up() -> None:
    """Make torch import what it imports at the first step of an optimizer, once in a process."""
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters())
    model(torch.zeros(1, 1)).sum().backward()
    optimizer.step()


class _Measurement:
    """The measurement of one trial."""

    def __init__(
        self, builder: TrialBuilder, build_seconds: float, scratch: Path, on_cost: Callable[[Cost], None]
    ) -> None:
        self.builder, self.build_seconds, self.on_cost = builder, build_seconds, on_cost
        self.planned = planned_experiences(builder.config.training, builder.stream, builder.plugins())
        self.learner = builder.learner(self._on_epoch, lambda note: None, self._on_iteration)
        self.named = builder.probes(scratch)
        self.probes = ProbeRunner(self.named)
        self.during: dict[str, float] = {}  # seconds of the probes that are called every few iterations
        self.measured: list[_Experience] = []
        self.evaluation: float | None = None  # seconds of one sample
        self.test_set = 0.0  # seconds until the test and validation samples are in memory
        self.probe_end = 0.0  # seconds of the probes after an experience
        self.until = self.last = 0.0

    def run(self, seconds: float) -> None:
        """Measure the first two experiences, and evaluation in between."""
        for planned in self.planned[:2]:
            self.measured.append(_Experience())
            self.until = time.perf_counter() + seconds / 2
            self.last = time.perf_counter()
            self.probes.before_experience(self.learner, planned.number)
            self.learner.train_experience(planned.number)
            self.measured[-1].end = time.perf_counter() - self.last
            self._report()
            if self.evaluation is None:
                self._evaluate(seconds)
                started = time.perf_counter()
                for _ in self.probes.after_experience(self.learner, planned.number):
                    pass
                self.probe_end = time.perf_counter() - started
                self._report()

    def _on_iteration(self, learner: Any) -> None:
        now, current = time.perf_counter(), self.measured[-1]
        if learner.clock.train_exp_iterations == 0:
            current.setup = now - self.last
        else:
            current.steps.append(now - self.last)
            if len(current.steps) in (1, 4):
                self._report()
        for event in self.probes.between_iterations(learner):
            self.during[event["probe"]] = event["seconds"]
        self.last = time.perf_counter()
        if current.steps and (now > self.until or len(current.steps) >= _MAX_STEPS):
            learner.stop_training()  # after this iteration

    def _on_epoch(self, learner: Any) -> None:
        now, current = time.perf_counter(), self.measured[-1]
        if not current.steps:  # an epoch of one iteration, or one that a strategy trains in another way
            current.steps.append(now - self.last)
        else:
            current.epoch_end = max(0.0, now - self.last - current.step)
        if learner.clock.train_exp_epochs == 1:
            learner.train_epochs = 1  # probes measure the last epoch
            self.probes.after_epoch(learner)
            current.measurement = time.perf_counter() - now
        learner.stop_training()
        self.last = time.perf_counter()

    def _evaluate(self, seconds: float) -> None:
        """Time a few mini-batches of evaluation, if that fits into the time."""
        training = self.builder.config.training
        batch = min(training.evaluation_batch_size, sum(len(e.test) for e in self.builder.stream.experiences))
        if self.measured[0].step * _FORWARD * batch / self.planned[0].batch_size > seconds:
            return
        started = time.perf_counter()
        test_set, _ = self.learner.test_set, self.learner.validation_set
        self.test_set = time.perf_counter() - started
        started = time.perf_counter()
        logits = logits_of(self.learner.model, islice(test_set.batches(batch), 3), self.learner.predict)
        self.evaluation = (time.perf_counter() - started) / len(logits)

    def _report(self) -> None:
        first, later = self.measured[0], self.measured[-1]
        if not later.steps:
            later = first
        low = high = self.build_seconds + self.test_set
        for index, planned in enumerate(self.planned):
            of = later if index else first
            iterations = planned.num_iterations
            if iterations is None:  # a plugin chooses the data: at least those of the experience
                samples = len(self.builder.stream.experiences[planned.number].train)
                iterations = (planned.epochs or 1) * math.ceil(samples / planned.batch_size)
            epochs = planned.epochs or 1
            once = of.setup + iterations * of.step + epochs * of.epoch_end + of.end + self.probe_end
            once += sum(spent * iterations / (self.named[name].iterations or 1) for name, spent in self.during.items())
            low += once + of.measurement
            high += once + of.measurement * epochs
        evaluation = self.evaluation or first.step * _FORWARD / self.planned[0].batch_size
        of_validation = 0 if self.learner.tests_on_validation else 1  # then they are evaluated once
        evaluated = sum(len(e.test) + of_validation * len(e.validation) for e in self.builder.stream.experiences)
        evaluated *= len(self.planned) + 1
        low, high = low + evaluation * evaluated, high + evaluation * evaluated
        config = self.builder.config
        size = sum(p.numel() * p.element_size() for p in self.learner.model.parameters())
        copies = 1 + _OPTIMIZER_STATES.get(config.training.optimizer.name, 1)
        self.on_cost(Cost(low, high, float(size * copies * config.checkpoint.keep + 200_000)))
