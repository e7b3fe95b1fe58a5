"""What the trial will train on, as far as it is known before the start: samples, iterations and epochs of each experience."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..config.schema import Training
from ..data.streams import Stream
from ..training.optimization import num_iterations, value_at
from ..training.plugin import Plugin, overrides_hook

_CHANGES_DATA = ("after_train_dataset_adaptation", "before_training_exp")  # hooks where Avalanche's plugins do so


@dataclass(frozen=True, slots=True)
class PlannedExperience:
    """An experience that is trained on.

    Attributes:
        number: its number in the stream, from 0.
        name: its name.
        num_samples: samples that it is trained on; None if a plugin chooses them and does not say how many.
        batch_size: new samples in a mini-batch.
        num_iterations: iterations; None if unknown.
        epochs: passes over the samples, the last one perhaps not complete; None if unknown.
    """

    number: int
    name: str
    num_samples: int | None
    batch_size: int
    num_iterations: int | None
    epochs: int | None

    @property
    def has_batch_of_one(self) -> bool:
        """Return whether a mini-batch that is trained on has one new sample: the last of a pass, or each."""
        if self.num_samples is None or self.num_iterations is None:
            return False
        if self.batch_size == 1 or self.num_samples == 1:
            return True
        length = -(-self.num_samples // self.batch_size)
        return self.num_samples % self.batch_size == 1 and self.num_iterations >= length


def planned_experiences(training: Training, stream: Stream, plugins: Sequence[Any]) -> list[PlannedExperience]:
    """Return the experiences that are trained on, in order; `plugins`: the trial's, ours and Avalanche's."""
    ours = [plugin for plugin in plugins if isinstance(plugin, Plugin)]
    length = len(stream.experiences)
    labels = [experience.train.y for experience in stream.experiences]
    planned = []
    for number, experience in enumerate(stream.experiences):
        if not all(plugin.should_train(number, length) for plugin in ours):
            continue
        num_samples: int | None = len(labels[number])
        if any(map(_chooses_unknown_data, plugins)):
            num_samples = None
        for plugin in ours:
            if num_samples is not None and _declares(plugin):
                num_samples = plugin.num_training_samples(labels, number)
        batch_size = value_at(training.batch_size, number, "training.batch_size")
        num_batches = None if num_samples is None else max(1, -(-num_samples // batch_size))
        epochs, iterations = None, None
        if num_batches is not None:
            iterations = num_iterations(training, number, num_batches)
            epochs = -(-iterations // num_batches)
        elif training.iterations is None:
            epochs = value_at(training.epochs, number, "training.epochs")
        planned.append(PlannedExperience(number, experience.name, num_samples, batch_size, iterations, epochs))
    return planned


def _declares(plugin: Plugin[Any]) -> bool:
    return type(plugin).num_training_samples is not Plugin.num_training_samples


def _chooses_unknown_data(plugin: Any) -> bool:
    """Return whether a plugin may change what is trained on without saying how many samples that will be."""
    if isinstance(plugin, Plugin):
        return overrides_hook(plugin, "after_train_dataset_adaptation") and not _declares(plugin)
    return any(overrides_hook(plugin, event) for event in _CHANGES_DATA)
