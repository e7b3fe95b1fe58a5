"""Samples for probes, and a network's outputs for them.

Shapes: n samples, K outputs of the head.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ... import seeding
from ...data.resident_loader import fits_as_float32
from ...data.streams import Part, Stream


@dataclass(frozen=True, slots=True, eq=False)
class ProbeSamples:
    """Samples concatenated on the device.

    Attributes:
        x: (n, ...), in the network's format where that fits into memory (`converted`), else as stored.
        y: (n,) labels.
        experience: (n,) number of each sample's experience.
        converted: whether `x` is in the network's format.
    """

    x: torch.Tensor
    y: torch.Tensor
    experience: torch.Tensor
    converted: bool

    def __len__(self) -> int:
        return len(self.y)


def draw_samples(part: Part, count: int, seed: int, *where: int | str) -> Part:
    """Choose up to `count` samples of a part, always the same ones for the same `seed` and `where`."""
    order = torch.randperm(len(part), generator=seeding.generator(seed, "probe", *where))[:count]
    return Part(part.arrays, part.indices[order.sort().values])


def gather_samples(stream: Stream, parts: Sequence[tuple[int, Part]], device: torch.device) -> ProbeSamples:
    """Concatenate the samples of parts, each with the number of its experience."""
    x = torch.cat([part.arrays.x.index_select(0, part.indices) for _, part in parts]).to(device)
    y = torch.cat([part.y for _, part in parts]).to(device)
    sizes = torch.tensor([len(part) for _, part in parts])
    experience = torch.repeat_interleave(torch.tensor([number for number, _ in parts]), sizes).to(device)
    converted = fits_as_float32(stream, len(x))
    return ProbeSamples(stream.normalise(x) if converted else x, y, experience, converted)


def draw_evenly(learner: Any, parts: Mapping[int, Part], samples: int, seed: int, *where: int | str) -> ProbeSamples:
    """Choose about `samples` samples in total, equally many per part; `parts` are keyed by the number of their experience."""
    each = -(-samples // len(parts))
    chosen = [(number, draw_samples(part, each, seed, *where, number)) for number, part in parts.items()]
    return gather_samples(learner.stream, chosen, learner.device)


def old_and_new(learner: Any, number: int, samples: int, seed: int, name: str) -> dict[str, ProbeSamples]:
    """Return `samples` test samples of the earlier experiences, "old", and as many of experience `number`, "new".

    In the first experience there are no old ones.
    """
    experiences = learner.stream.experiences
    sides = {"old": range(number), "new": range(number, number + 1)}
    return {
        side: draw_evenly(learner, {index: experiences[index].test for index in numbers}, samples, seed, name, "test")
        for side, numbers in sides.items()
        if numbers
    }


def input_batches(learner: Any, subset: ProbeSamples) -> Iterator[torch.Tensor]:
    """Yield inputs (B, *shape) in the network's format, in order."""
    for x in torch.split(subset.x, learner.training.evaluation_batch_size):
        yield x if subset.converted else learner.stream.normalise(x)


def logits_for(learner: Any, subset: ProbeSamples) -> torch.Tensor:
    """Return logits (n, K); in a task-incremental stream, -inf outside of the classes of each sample's experience."""
    predict = learner.predict
    outputs = torch.cat([predict(x) for x in input_batches(learner, subset)])
    if learner.stream.scenario != "task":
        return outputs
    own = learner.stream.class_mask.to(outputs.device)[subset.experience]
    return outputs.masked_fill(~own[:, : outputs.shape[1]], -torch.inf)


def accuracies(learner: Any, subset: ProbeSamples, numbers: list[int]) -> list[float]:
    """Return the accuracy on the samples of each of these experiences; a class that the head lacks counts as wrong."""
    hits = (logits_for(learner, subset).argmax(1) == subset.y).to(torch.float64)
    return torch.stack([hits[subset.experience == number].mean() for number in numbers]).tolist()
