"""Evaluation on other streams: how far what was learned carries over to other data sets, styles or corruptions.

After each experience, accuracy on the test set of every experience of each stream that is named. Their classes are those of the
trial's stream that have the same names. As in the accuracy matrix, a class that the network has not learned yet, or that the
trial's stream does not have, counts as wrong, and an experience without any learned class is undefined. The pictures are
normalised as the trial's own. Values: <stream>/experience_01, ... (a second stream of one name is <name>_2).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from ...config import registry
from ...config.load import build_config
from ...data.streams import Arrays, Experience, Part, Stream
from ...errors import UserError
from ...models.inference import logits_of
from ..evaluation import TestSet
from ._base import Probe, ProbeContext, Values

Named = str | Mapping[str, Mapping[str, Any] | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Accuracy on the test sets of other streams after each experience.

    streams: each the name of a benchmark, or a mapping of it to its settings, as under `benchmark`.
    """

    streams: tuple[Named, ...]

    def __post_init__(self) -> None:
        if not self.streams:
            raise ValueError("streams=[]: must name at least one benchmark")
        object.__setattr__(self, "streams", tuple(_checked(i, one) for i, one in enumerate(self.streams)))


def _checked(number: int, named: Named) -> dict[str, dict[str, Any]]:
    """One of the streams with all of its settings."""
    name, _, config = _resolved(number, named)
    return {name: asdict(config)}


def _resolved(number: int, named: Named) -> tuple[str, Any, Any]:
    found = {named: None} if isinstance(named, str) else named
    key = f"streams[{number}]"
    if len(found) != 1:
        raise ValueError(
            f"{key}={list(found)}: must hold exactly one name, of {', '.join(registry.names('benchmarks'))}"
        )
    ((name, settings),) = found.items()
    try:
        module = registry.resolve("benchmarks", name)
    except UserError as error:
        raise ValueError(f"{key}: {error}") from None
    if not hasattr(module, "Config"):
        raise ValueError(f"{key}.{name}: an Avalanche benchmark cannot be named here")
    return name, module, build_config(module.Config, settings or {}, f"{key}.{name}")


class EvaluateOn(Probe):
    """Looks after each experience."""

    def __init__(self, streams: dict[str, Stream]) -> None:
        self._streams = streams
        self._sets: dict[str, TestSet] = {}

    def after_experience(self, learner: Any, number: int) -> Values:
        """Accuracy on each experience of each stream."""
        if not self._sets:
            self._sets = {name: TestSet(stream, learner.device) for name, stream in self._streams.items()}
        num_classes = len(learner.stream.class_names)  # of which the head may have fewer, or more that nothing is
        found: dict[str, float] = {}
        for name, test_set in self._sets.items():
            batches = test_set.batches(learner.training.evaluation_batch_size)
            row = test_set.row(logits_of(learner.model, batches)[:, :num_classes])
            found |= {f"{name}/experience_{one:02d}": value for one, value in enumerate(row.task_agnostic, 1)}
        return found


def renamed(stream: Stream, own: Stream) -> Stream:
    """`stream` with the labels that its classes' names have in `own`, and normalised as `own`; others' labels come after."""
    names = list(dict.fromkeys([*own.class_names, *stream.class_names]))
    new = torch.tensor([names.index(name) for name in stream.class_names])

    def part(one: Part) -> Part:
        return Part(Arrays(one.arrays.x, new[one.arrays.y]), one.indices)

    experiences = tuple(
        Experience(
            one.name,
            tuple(sorted(new[list(one.classes)].tolist())),
            part(one.train),
            part(one.validation),
            part(one.test),
        )
        for one in stream.experiences
    )
    return replace(
        stream, scenario="domain", experiences=experiences, class_names=tuple(names), mean=own.mean, std=own.std
    )


def build(config: Config, context: ProbeContext) -> Probe:
    """Build the streams.

    Raises:
        UserError: a stream's samples have another shape than the trial's, or none of its classes.
    """
    streams: dict[str, Stream] = {}
    for number, named in enumerate(config.streams):
        name, module, settings = _resolved(number, named)
        key = f"probes.evaluate_on.streams[{number}].{name}"
        stream = module.build(settings, context.seed, context.data)
        if stream.shape != context.stream.shape:
            raise UserError(
                f"{key}: its samples have the shape {list(stream.shape)}, the trial's {list(context.stream.shape)}."
            )
        if not set(stream.class_names) & set(context.stream.class_names):
            raise UserError(
                f"{key}: has no class of the trial's stream: {', '.join(stream.class_names[:10])} and "
                f"{', '.join(context.stream.class_names[:10])}."
            )
        count = sum(one == name or one.startswith(f"{name}_") for one in streams)
        streams[name if name not in streams else f"{name}_{count + 1}"] = renamed(stream, context.stream)
    return EvaluateOn(streams)
