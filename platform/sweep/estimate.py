"""Estimate the cost of a sweep before it starts: time from a few timed training steps of each network, disk from its size."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from ..training.optimization import blocks_from_head, make_optimizer, num_iterations, value_at
from ..trial.builder import TrialBuilder, build_trial
from ..trial.torch_settings import torch_settings
from .plan import PlannedTrial

_START = 20.0  # seconds for Ray and the workers' imports, on 2 cores
_STEPS = 20


@dataclass(frozen=True, slots=True)
class Estimate:
    """The estimated cost of a sweep on this machine, without what the strategies add.

    Attributes:
        seconds: wall time.
        disk: bytes.
    """

    seconds: float
    disk: float


def estimate(trials: Sequence[PlannedTrial]) -> Estimate:
    """Time a few steps for each distinct stream and network, and spread the sum over this machine's cores."""
    known: dict[str, tuple[float, float]] = {}
    total = disk = 0.0
    for trial in trials:
        key = repr((trial.config.benchmark, trial.config.model, trial.config.training))
        if key not in known:
            builder = build_trial(trial.resolved, planning=True)
            with torch_settings(trial.config.resources):  # as many threads as a trial has
                known[key] = _trial_cost(builder)
        seconds, size = known[key]
        total += seconds
        disk += size * trial.config.checkpoint.keep + 200_000
    slots = max(1.0, (os.cpu_count() or 1) / trials[0].config.resources.cpus)
    return Estimate(_START + total / slots, disk)


def _trial_cost(builder: TrialBuilder) -> tuple[float, float]:
    """Seconds and checkpoint bytes of one trial: training steps and an evaluation after each experience."""
    config, stream = builder.config, builder.stream
    model = builder.network()
    iterations = sum(_iterations(builder, number) for number in range(len(stream.experiences)))
    batch = value_at(config.training.batch_size, 0, "training.batch_size")
    x = torch.randn(batch, *stream.shape)
    y = torch.zeros(batch, dtype=torch.int64)
    optimizer = make_optimizer(config.training.optimizer, model.named_parameters(), 0, blocks_from_head(model))
    started = time.perf_counter()
    for _ in range(_STEPS):
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    step = (time.perf_counter() - started) / _STEPS
    tested = sum(len(experience.test) for experience in stream.experiences) * len(stream.experiences)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    return step * (iterations + tested / batch / 3), float(size)  # a forward pass is about a third of a step


def _iterations(builder: TrialBuilder, number: int) -> int:
    """Training iterations of an experience."""
    batch = value_at(builder.config.training.batch_size, number, "training.batch_size")
    return num_iterations(builder.config.training, number, -(-len(builder.stream.experiences[number].train) // batch))
