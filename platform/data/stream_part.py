"""Cut a stream down to the part that a trial may see (`stream_part` in the config)."""

from dataclasses import replace

import torch

from ..config.schema import StreamPart
from ..errors import UserError
from .streams import Arrays, Experience, Part, Stream

_CHUNK = 4096  # samples whose statistics are computed at once


def part_of(stream: Stream, part: StreamPart) -> Stream:
    """Return the part of a stream. Classes that it does not have are gone: labels are numbered anew, in the same order.

    With ``part.first``, mean and deviation are computed from the training samples that are left, unless the stream has none
    (0 and 1). With ``part.test`` "validation", the validation samples stand in for the test samples.

    Raises:
        UserError: the stream is too short, or an experience has no validation samples.
    """
    if part == StreamPart():
        return stream
    available = len(stream.experiences)
    if part.after >= available:
        raise UserError(f"stream_part.after={part.after}: the stream has {available} experiences; none would be left.")
    if part.first is not None and part.first > available:
        raise UserError(f"stream_part.first={part.first}: the stream has {available} experiences.")
    kept = stream.experiences[part.after : part.first]
    if part.test == "validation":
        kept = tuple(_validated(experience) for experience in kept)
    cut = _renumbered(replace(stream, experiences=kept))
    return _normalised(cut) if part.first is not None else cut


def _validated(experience: Experience) -> Experience:
    """Return an experience whose test samples are its validation samples."""
    if len(experience.validation) == 0:
        raise UserError(
            f"stream_part.test=validation: the experience '{experience.name}' has no validation samples: set the benchmark's "
            f"`validation`, such as 0.1."
        )
    return replace(experience, test=experience.validation)


def _renumbered(stream: Stream) -> Stream:
    """Number the classes that are left from 0, in their order."""
    present = torch.zeros(len(stream.class_names), dtype=torch.bool)
    for experience in stream.experiences:
        present[list(experience.classes)] = True
        for each in (experience.train, experience.validation):
            present[each.y] = True  # with blurry boundaries, samples of other classes too
    if bool(present.all()):
        return stream
    label_of = torch.where(present, present.cumsum(0) - 1, -1)
    arrays: dict[int, Arrays] = {}

    def renumbered(part: Part) -> Part:
        own = arrays.setdefault(id(part.arrays), Arrays(part.arrays.x, label_of[part.arrays.y]))
        return Part(own, part.indices)

    experiences = tuple(
        replace(
            each,
            classes=tuple(int(label_of[label]) for label in each.classes),
            train=renumbered(each.train),
            validation=(validation := renumbered(each.validation)),
            test=validation if each.test is each.validation else renumbered(each.test),
        )
        for each in stream.experiences
    )
    names = tuple(name for name, kept in zip(stream.class_names, present.tolist(), strict=True) if kept)
    return replace(stream, experiences=experiences, class_names=names)


def _normalised(stream: Stream) -> Stream:
    """Compute mean and deviation from the stream's own training samples, each once."""
    if set(stream.mean) == {0.0} and set(stream.std) == {1.0}:
        return stream
    channels, count = len(stream.mean), 0
    total, squares = torch.zeros(channels, dtype=torch.float64), torch.zeros(channels, dtype=torch.float64)
    for arrays, indices in _samples(stream):
        for chunk in indices.split(_CHUNK):
            x = arrays.x[chunk].to(torch.float64).reshape(len(chunk), *stream.shape)
            x = x / 255 if arrays.x.dtype == torch.uint8 else x
            x = x.reshape(len(chunk), channels, -1)
            total, squares = total + x.sum((0, 2)), squares + x.square().sum((0, 2))
            count += x.shape[0] * x.shape[2]
    mean = total / count
    std = (squares / count - mean.square()).clamp_min(0).sqrt()
    std = torch.where(std > 0, std, torch.ones_like(std))
    rounded = [tuple(round(float(value), 4) for value in each) for each in (mean, std)]
    return replace(stream, mean=rounded[0], std=rounded[1])


def _samples(stream: Stream) -> list[tuple[Arrays, torch.Tensor]]:
    """Return the training samples of all experiences: for each array the indices into it, each once."""
    by_array: dict[int, tuple[Arrays, list[torch.Tensor]]] = {}
    for experience in stream.experiences:
        part = experience.train
        by_array.setdefault(id(part.arrays.x), (part.arrays, []))[1].append(part.indices)
    return [(arrays, torch.unique(torch.cat(indices))) for arrays, indices in by_array.values()]
