"""Samples for probes, and a network's outputs for them.

Shapes: n samples, K outputs of the head.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from ... import seeding
from ...data.samples import PartSamples, gather_parts
from ...data.streams import Part


def draw_samples(part: Part, count: int, seed: int, *where: int | str) -> Part:
    """Choose up to `count` samples of a part, always the same ones for the same `seed` and `where`."""
    order = torch.randperm(len(part), generator=seeding.generator(seed, "probe", *where))[:count]
    return Part(part.arrays, part.indices[order.sort().values])


def draw_evenly(learner: Any, parts: Mapping[int, Part], samples: int, seed: int, *where: int | str) -> PartSamples:
    """Choose about `samples` samples in total, equally many per part; `parts` are keyed by the number of their experience."""
    each = -(-samples // len(parts))
    chosen = [(number, draw_samples(part, each, seed, *where, number)) for number, part in parts.items()]
    return gather_parts(learner.stream, chosen, learner.device)


def old_and_new(learner: Any, number: int, samples: int, seed: int, name: str) -> dict[str, PartSamples]:
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


def input_batches(learner: Any, subset: PartSamples) -> Iterator[torch.Tensor]:
    """Yield inputs (B, *shape) in the network's format, in order."""
    yield from subset.inputs.batches(learner.training.evaluation_batch_size)


def logits_for(learner: Any, subset: PartSamples) -> torch.Tensor:
    """Return logits (n, K); in a task-incremental stream, -inf outside of the classes of each sample's experience."""
    predict = learner.predict
    outputs = torch.cat([predict(x) for x in input_batches(learner, subset)])
    if learner.stream.scenario != "task":
        return outputs
    own = learner.stream.class_mask.to(outputs.device)[subset.experience]
    return outputs.masked_fill(~own[:, : outputs.shape[1]], -torch.inf)


def accuracies(learner: Any, subset: PartSamples, numbers: list[int]) -> list[float]:
    """Return the accuracy on the samples of each of these experiences; a class that the head lacks counts as wrong."""
    hits = (logits_for(learner, subset).argmax(1) == subset.y).to(torch.float64)
    return torch.stack([hits[subset.experience == number].mean() for number in numbers]).tolist()
