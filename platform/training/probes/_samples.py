"""Samples that probes look at.

Shapes: n samples, K outputs of the head.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ... import seeding
from ...data.resident_loader import fits
from ...data.streams import Part, Stream

# What probes look at.


@dataclass(frozen=True, slots=True, eq=False)
class ProbeSamples:
    """Samples side by side on the device: `x` (n, ...), `y` (n,) labels, `experience` (n,) the number each comes from.

    `x` is as the network takes it where that fits into memory, else as stored.
    """

    x: torch.Tensor
    y: torch.Tensor
    experience: torch.Tensor
    converted: bool

    def __len__(self) -> int:
        return len(self.y)


def draw_samples(part: Part, count: int, seed: int, *where: int | str) -> Part:
    """Up to `count` samples of a part, always the same ones for a seed and place."""
    order = torch.randperm(len(part), generator=seeding.generator(seed, "probe", *where))[:count]
    return Part(part.arrays, part.indices[order.sort().values])


def gather_samples(stream: Stream, parts: Sequence[tuple[int, Part]], device: torch.device) -> ProbeSamples:
    """The samples of parts, each with the number of its experience."""
    x = torch.cat([part.arrays.x.index_select(0, part.indices) for _, part in parts]).to(device)
    y = torch.cat([part.y for _, part in parts]).to(device)
    sizes = torch.tensor([len(part) for _, part in parts])
    experience = torch.repeat_interleave(torch.tensor([number for number, _ in parts]), sizes).to(device)
    converted = fits(stream, len(x))
    return ProbeSamples(stream.normalise(x) if converted else x, y, experience, converted)


def draw_evenly(learner: Any, parts: Mapping[int, Part], samples: int, seed: int, *where: int | str) -> ProbeSamples:
    """About `samples` samples in all, as many of each part; the parts by the number of their experience."""
    each = -(-samples // len(parts))
    chosen = [(number, draw_samples(part, each, seed, *where, number)) for number, part in parts.items()]
    return gather_samples(learner.stream, chosen, learner.device)


def old_and_new(learner: Any, number: int, samples: int, seed: int, name: str) -> dict[str, ProbeSamples]:
    """Test samples of the experiences before `number` (from the second on) and of its own: `samples` of "old" and of "new"."""
    experiences = learner.stream.experiences
    sides = {"old": range(number), "new": range(number, number + 1)}
    return {
        side: draw_evenly(learner, {one: experiences[one].test for one in numbers}, samples, seed, name, "test")
        for side, numbers in sides.items()
        if numbers
    }


def batches(learner: Any, subset: ProbeSamples) -> Iterator[torch.Tensor]:
    """Inputs (B, *shape) as the network takes them, in order."""
    for x in torch.split(subset.x, learner.training.evaluation_batch_size):
        yield x if subset.converted else learner.stream.normalise(x)


def logits(learner: Any, subset: ProbeSamples) -> torch.Tensor:
    """Logits (n, K); in a task-incremental stream -inf outside of the classes of each sample's experience."""
    predict = learner.predict
    found = torch.cat([predict(x) for x in batches(learner, subset)])
    if learner.stream.scenario != "task":
        return found
    own = learner.stream.own.to(found.device)[subset.experience]
    return found.masked_fill(~own[:, : found.shape[1]], -torch.inf)


def accuracies(learner: Any, subset: ProbeSamples, numbers: list[int]) -> list[float]:
    """Accuracy on the samples of each of these experiences; a class that the head lacks counts as wrong."""
    hits = (logits(learner, subset).argmax(1) == subset.y).to(torch.float64)
    return torch.stack([hits[subset.experience == number].mean() for number in numbers]).tolist()
