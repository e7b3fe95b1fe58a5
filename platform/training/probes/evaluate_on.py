"""Evaluation on other streams: how well the network transfers to other data sets, styles or corruptions.

After each experience, it measures accuracy on the test set of every experience of each named stream. Classes are matched by
name with those of the trial's stream. As in the accuracy matrix, a class that the network has not learned yet, or that the
trial's stream lacks, counts as wrong, and an experience without any learned class is undefined. The pictures are normalised
like the trial's. Values: <stream>/experience_01, ... (a second stream of the same name is <name>_2).
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Annotated, Any

import torch
from annotated_types import MinLen

from ...config import registry
from ...config.load import build_config
from ...config.settings import settings
from ...data.streams import Arrays, Experience, Part, Stream
from ...errors import UserError
from ...models.inference import logits_of
from ..evaluation import TestSet
from ._base import Probe, ProbeContext, Values

NamedSettings = str | Mapping[str, Mapping[str, Any] | None]


@settings
class Config:
    """Accuracy on the test sets of other streams after each experience.

    streams: each is the name of a benchmark, or a mapping from its name to its settings, as under `benchmark`.
    """

    streams: Annotated[tuple[NamedSettings, ...], MinLen(1)]

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "streams", tuple(_with_all_settings(i, stream) for i, stream in enumerate(self.streams))
        )


def _with_all_settings(number: int, named: NamedSettings) -> dict[str, dict[str, Any]]:
    """The stream's name with all of its settings."""
    name, _, config = _resolve(number, named)
    return {name: asdict(config)}


def _resolve(number: int, named: NamedSettings) -> tuple[str, Any, Any]:
    settings_by_name = {named: None} if isinstance(named, str) else named
    key = f"streams[{number}]"
    if len(settings_by_name) != 1:
        raise ValueError(
            f"{key}={list(settings_by_name)}: must hold exactly one name, of {', '.join(registry.names('benchmarks'))}"
        )
    ((name, settings),) = settings_by_name.items()
    try:
        module = registry.resolve("benchmarks", name)
    except UserError as error:
        raise ValueError(f"{key}: {error}") from None
    if not hasattr(module, "Config"):
        raise ValueError(f"{key}.{name}: an Avalanche benchmark cannot be named here")
    return name, module, build_config(module.Config, settings or {}, f"{key}.{name}")


class EvaluateOn(Probe):
    """Evaluates the network on other streams after each experience."""

    def __init__(self, streams: dict[str, Stream]) -> None:
        self._streams = streams
        self._sets: dict[str, TestSet] = {}

    def after_experience(self, learner: Any, number: int) -> Values:
        """Return the accuracy on each experience of each stream."""
        if not self._sets:
            self._sets = {name: TestSet(stream, learner.device) for name, stream in self._streams.items()}
        num_classes = len(learner.stream.class_names)  # the head may have fewer outputs, or more without a class
        values: dict[str, float] = {}
        for name, test_set in self._sets.items():
            batches = test_set.batches(learner.training.evaluation_batch_size)
            row = test_set.row(logits_of(learner.model, batches)[:, :num_classes])
            values |= {
                f"{name}/experience_{index:02d}": accuracy for index, accuracy in enumerate(row.task_agnostic, 1)
            }
        return values


def match_classes(stream: Stream, own: Stream) -> Stream:
    """Return `stream` with labels and normalisation of `own`.

    Classes get the label of the class of the same name in `own`; the labels of other classes come after those.
    """
    names = list(dict.fromkeys([*own.class_names, *stream.class_names]))
    new = torch.tensor([names.index(name) for name in stream.class_names])

    def part(original: Part) -> Part:
        return Part(Arrays(original.arrays.x, new[original.arrays.y]), original.indices)

    experiences = tuple(
        Experience(
            experience.name,
            tuple(sorted(new[list(experience.classes)].tolist())),
            part(experience.train),
            part(experience.validation),
            part(experience.test),
        )
        for experience in stream.experiences
    )
    return replace(
        stream, scenario="domain", experiences=experiences, class_names=tuple(names), mean=own.mean, std=own.std
    )


def build(config: Config, context: ProbeContext) -> Probe:
    """Build the probe and its streams.

    Raises:
        UserError: a stream's samples have another shape than the trial's, or none of its classes.
    """
    streams: dict[str, Stream] = {}
    for number, named in enumerate(config.streams):
        name, module, settings = _resolve(number, named)
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
        count = sum(other == name or other.startswith(f"{name}_") for other in streams)
        streams[name if name not in streams else f"{name}_{count + 1}"] = match_classes(stream, context.stream)
    return EvaluateOn(streams)
