"""A stream as a benchmark with the names of Avalanche's, without Avalanche: what a learner trains on and plugins look at."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, Self

import torch
from torch.utils.data import ConcatDataset, Dataset, Subset

from .streams import Part, ResidentDataset, Stream

PARTS = {
    "train": "train",
    "valid": "validation",
    "test": "test",
}  # the benchmark's streams -> the parts of an experience


class StreamDataset(Dataset[tuple[torch.Tensor, int, int]]):
    """Samples of one or several parts of a stream, with the methods of Avalanche's data sets that plugins use."""

    def __init__(self, datasets: Sequence[Any], indices: Sequence[int] | None = None) -> None:
        """Concatenate data sets, and select `indices` of the result (None: all)."""
        self._datasets, self._indices = list(datasets), None if indices is None else list(indices)
        joined: Any = ConcatDataset(self._datasets)
        self._samples: Any = joined if self._indices is None else Subset(joined, self._indices)

    @cached_property
    def targets(self) -> list[int]:
        """Return the labels."""
        return self._selected("targets")

    @cached_property
    def targets_task_labels(self) -> list[int]:
        """Return the task labels."""
        return self._selected("targets_task_labels")

    def _selected(self, name: str) -> list[int]:
        values = list(chain.from_iterable(getattr(dataset, name) for dataset in self._datasets))
        return values if self._indices is None else [values[index] for index in self._indices]

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int, int]:
        item: tuple[torch.Tensor, int, int] = self._samples[index]
        return item

    def concat(self, other: Any) -> "StreamDataset":
        """Return these samples, then those of `other`."""
        return StreamDataset([self, other])

    def subset(self, indices: Iterable[int]) -> "StreamDataset":
        """Return the samples at `indices`, in their order."""
        return StreamDataset([self], [int(index) for index in indices])

    def train(self) -> Self:
        """Return the data set itself: augmentation is the learner's."""
        return self

    def eval(self) -> Self:
        """Return the data set itself."""
        return self


@dataclass(frozen=True, slots=True)
class ClassSets:
    """The classes of an experience, and those of others as seen from it."""

    present: frozenset[int]
    previous: frozenset[int]
    seen: frozenset[int]
    future: frozenset[int]


def class_sets(stream: Stream) -> list[ClassSets]:
    """Return the class sets of each experience; with blurry boundaries, those of its training samples are present too."""
    every = {label for experience in stream.experiences for label in experience.classes}
    sets, seen = [], frozenset[int]()
    for experience in stream.experiences:
        present = frozenset(experience.classes) | frozenset(experience.train.y.unique().tolist())
        sets.append(ClassSets(present, seen, seen | present, frozenset(every - seen - present)))
        seen |= present
    return sets


class StreamExperience:
    """An experience of a benchmark, with the attributes of Avalanche's.

    Attributes:
        dataset: its samples.
        current_experience: its number, from 0.
        origin_stream: the stream that it belongs to.
        task_labels: the number of its task, in a list.
    """

    def __init__(self, dataset: StreamDataset, number: int, task: int, classes: ClassSets) -> None:
        self.dataset, self.current_experience = dataset, number
        self.task_label, self.task_labels = task, [task]
        self.classes_in_this_experience = sorted(classes.present)
        self.previous_classes = set(classes.previous)
        self.classes_seen_so_far = set(classes.seen)
        self.future_classes = set(classes.future)
        self.origin_stream: ExperienceStream

    @property
    def benchmark(self) -> "StreamBenchmark":
        """Return the benchmark."""
        return self.origin_stream.benchmark


class ExperienceStream(list[StreamExperience]):
    """The experiences of a benchmark's stream, in order."""

    def __init__(self, name: str, benchmark: "StreamBenchmark", experiences: Iterable[StreamExperience]) -> None:
        super().__init__(experiences)
        self.name, self.benchmark = name, benchmark
        for experience in self:
            experience.origin_stream = self


class StreamBenchmark:
    """A stream as a benchmark with the streams ``train``, ``valid`` and ``test``."""

    def __init__(self, stream: Stream) -> None:
        """Wrap the parts of a stream; samples are not copied."""
        sets = class_sets(stream)
        self.streams = {
            name: ExperienceStream(name, self, _experiences(stream, part, sets)) for name, part in PARTS.items()
        }

    @property
    def train_stream(self) -> ExperienceStream:
        """Return the experiences to train on."""
        return self.streams["train"]

    @property
    def valid_stream(self) -> ExperienceStream:
        """Return the experiences' validation samples."""
        return self.streams["valid"]

    @property
    def test_stream(self) -> ExperienceStream:
        """Return the experiences to evaluate on."""
        return self.streams["test"]


def task_of(stream: Stream, number: int) -> int:
    """Return the task label of an experience: its number if the task is given, else 0."""
    return number if stream.scenario == "task" else 0


def _experiences(stream: Stream, part: str, sets: list[ClassSets]) -> list[StreamExperience]:
    experiences = []
    for number, (experience, classes) in enumerate(zip(stream.experiences, sets, strict=True)):
        task = task_of(stream, number)
        samples: Part = getattr(experience, part)
        dataset = StreamDataset([ResidentDataset(stream, samples, task)])
        experiences.append(StreamExperience(dataset, number, task, classes))
    return experiences
