"""Accuracy on every experience's test set, or on every validation split, in one batched pass.

Shapes: N samples of all experiences, E experiences, C classes of the stream, K outputs of the head, B batch.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ..data.samples import gather_parts
from ..data.streams import Part, Stream
from ..errors import UserError
from .plugin import Plugin


@dataclass(frozen=True, slots=True)
class AccuracyRow:
    """One row of the accuracy matrices: accuracy per experience (E,).

    NaN where the head has none of the experience's classes, or where the experience has no such samples.

    `task_agnostic` chooses among all classes, `task_aware` among those of the sample's experience (FACIL's tag and taw). In a
    task-incremental stream the experience is given, so both are task-aware.
    """

    task_agnostic: list[float]
    task_aware: list[float]


class EvaluationSet:
    """Samples of a whole stream that are evaluated in one pass, concatenated on the device.

    Attributes:
        stream: the stream.
        inputs, y, experience: the samples' inputs, labels (N,) and numbers of experiences (N,), in the stream's order.
        sizes: number of samples of each experience.
    """

    def __init__(self, stream: Stream, parts: Sequence[Part], device: torch.device) -> None:
        """Gather the samples of `parts`, one of each experience; a part may be empty."""
        self.stream = stream
        samples = gather_parts(stream, list(enumerate(parts)), device)
        self.inputs, self.y, self.experience = samples.inputs, samples.y, samples.experience
        self.sizes = [len(part) for part in parts]
        self.class_mask = stream.class_mask.to(device)

    def batches(self, batch_size: int) -> Iterator[torch.Tensor]:
        """Yield inputs (B, *shape) in the network's format, in order."""
        version = self.inputs.x._version
        yield from self.inputs.batches(batch_size)
        if self.inputs.x._version != version:  # batches are views: the next evaluation would see changed pictures
            raise UserError("model: the network changes its input in place; give it a copy (x.clone()).")

    def row(self, logits: torch.Tensor) -> AccuracyRow:
        """Return the accuracy per experience, from logits (N, K) of all samples in order.

        A class that the head lacks counts as wrong.
        """
        agnostic = self._accuracy(logits)
        if self.stream.scenario == "domain":
            return AccuracyRow(agnostic, agnostic)
        outputs = logits.shape[1]
        own = torch.zeros(len(self.sizes), outputs, dtype=torch.bool, device=logits.device)
        shared = min(outputs, self.class_mask.shape[1])
        own[:, :shared] = self.class_mask[:, :shared]
        aware = self._accuracy(logits.masked_fill(~own[self.experience], -torch.inf))
        return AccuracyRow(aware if self.stream.scenario == "task" else agnostic, aware)

    def _accuracy(self, logits: torch.Tensor) -> list[float]:
        correct = (logits.argmax(1) == self.y).to(torch.float64)
        hits = torch.zeros(len(self.sizes), dtype=torch.float64, device=logits.device).index_add_(
            0, self.experience, correct
        )
        outputs = logits.shape[1]
        known = [min(experience.classes) < outputs for experience in self.stream.experiences]
        return [
            hit / size if ok and size else float("nan")
            for hit, size, ok in zip(hits.tolist(), self.sizes, known, strict=True)
        ]


class TestSet(EvaluationSet):
    """The test samples of a whole stream."""

    __test__ = False  # not a test case for pytest

    def __init__(self, stream: Stream, device: torch.device) -> None:
        super().__init__(stream, [experience.test for experience in stream.experiences], device)


class ValidationSet(EvaluationSet):
    """The validation samples of a whole stream, which has at least one."""

    def __init__(self, stream: Stream, device: torch.device) -> None:
        super().__init__(stream, [experience.validation for experience in stream.experiences], device)


class _Collector(Plugin):
    """Keeps the logits (N, K) of the network, and of the plugins after it, in Avalanche's evaluation loop."""

    def __init__(self) -> None:
        self.logits: list[torch.Tensor] = []

    def after_eval_iteration(self, learner: Any, **kwargs: Any) -> None:
        """Keep the final logits of a mini-batch."""
        self.logits.append(learner.mb_output)


@contextmanager
def collect_logits(plugins: list[Any], clock: Any) -> Iterator[list[torch.Tensor]]:
    """Collect the logits of each mini-batch of Avalanche's evaluation; on exit, restore the clock, which counts them."""
    collector, before = _Collector(), dict(vars(clock))
    plugins.append(collector)
    try:
        yield collector.logits
    finally:
        plugins.remove(collector)
        vars(clock).update(before)
