"""What a sweep will take, before it starts: time from a few timed training steps of each network, disk from its size."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from ..training.optimization import blocks_from_head, make_optimizer, num_iterations, value_at
from ..trial.builder import TrialBuilder, build_trial
from .plan import PlannedTrial

_START = 20.0  # seconds for Ray and the workers' imports, on 2 cores
_STEPS = 20


@dataclass(frozen=True, slots=True)
class Estimate:
    """`seconds` of wall time on this machine and `disk` bytes of a sweep; the strategies' own cost is left out."""

    seconds: float
    disk: float


def estimate(trials: Sequence[PlannedTrial]) -> Estimate:
    """Time a few steps for each distinct stream and network, and add the trials up over this machine's cores."""
    known: dict[str, tuple[float, float]] = {}
    total = disk = 0.0
    for trial in trials:
        key = repr((trial.config.benchmark, trial.config.model, trial.config.training))
        if key not in known:
            known[key] = _trial(build_trial(trial.config, planning=True))
        seconds, size = known[key]
        total += seconds
        disk += size * trial.config.checkpoint.keep + 200_000
    slots = max(1.0, (os.cpu_count() or 1) / trials[0].config.resources.cpus)
    return Estimate(_START + total / slots, disk)


def _trial(parts: TrialBuilder) -> tuple[float, float]:
    """Seconds and checkpoint bytes of one trial: training steps and an evaluation after each experience."""
    config, stream = parts.config, parts.stream
    model = parts.network()
    iterations = sum(_iterations(parts, number) for number in range(len(stream.experiences)))
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


def _iterations(parts: TrialBuilder, number: int) -> int:
    """Training iterations of an experience."""
    batch = value_at(parts.config.training.batch_size, number, "training.batch_size")
    return num_iterations(parts.config.training, number, -(-len(parts.stream.experiences[number].train) // batch))
