"""Streams of experiences: a benchmark builds one, a learner trains on it.

Everything is an index into resident (or memory-mapped) arrays. A subset is a tensor of indices, never a copy of pictures and
never a nest of datasets.

Shapes: N samples of a split, n samples of one experience in it, B batch, C channels, H height, W width.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch.utils.data import Dataset


@dataclass(frozen=True, slots=True, eq=False)
class Arrays:
    """One split of one data set: `x` (N, *shape) uint8 or float32 as stored, `y` (N,) int64 the stream's labels."""

    x: torch.Tensor
    y: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One experience's share of a split: `indices` (n,) int64 into `arrays`."""

    arrays: Arrays
    indices: torch.Tensor

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def y(self) -> torch.Tensor:
        """Return the labels (n,) int64."""
        return self.arrays.y[self.indices]


@dataclass(frozen=True, slots=True, eq=False)
class Experience:
    """One step of a stream: its classes (the stream's labels), its three disjoint parts and a display name.

    `classes` are those of the test part. With blurry boundaries the training part has some samples of other classes too.
    """

    name: str
    classes: tuple[int, ...]
    train: Part
    validation: Part
    test: Part


Scenario = Literal["class", "domain", "task", "mixed"]


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """A sequence of experiences over new classes or new domains.

    `scenario`: "class" (each class in one experience; the model chooses among all classes), "task" (the same, but the
    experience of a sample is known in training and testing: multi-head), "domain" (all classes in each experience), "mixed"
    (each experience is a group of classes in one domain).

    `class_names[label]` is the original name of a class; labels are numbered in order of appearance. `shape` is that of one
    network input, channels first. `mean` and `std` are per channel and apply to values in [0, 1]. `notes` are those of the data
    set, for the user.
    """

    name: str
    scenario: Scenario
    experiences: tuple[Experience, ...]
    class_names: tuple[str, ...]
    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    notes: tuple[str, ...] = ()

    @property
    def class_mask(self) -> torch.Tensor:
        """Return which classes each experience tests: (experiences, classes) bool."""
        mask = torch.zeros(len(self.experiences), len(self.class_names), dtype=torch.bool)
        for number, experience in enumerate(self.experiences):
            mask[number, list(experience.classes)] = True
        return mask

    def normalise(self, x: torch.Tensor) -> torch.Tensor:
        """Convert stored samples (B, ...), uint8 in 0..255 or float in [0, 1], to network inputs (B, *shape) float32."""
        scale = 255.0 if x.dtype == torch.uint8 else 1.0
        channels = (1, -1) + (1,) * (len(self.shape) - 1)
        # non_blocking: mini-batches are converted here, and none of them waits for a GPU
        mean = torch.tensor(self.mean).view(channels).to(x.device, non_blocking=True)
        std = torch.tensor(self.std).view(channels).to(x.device, non_blocking=True)
        return x.reshape(-1, *self.shape).to(torch.float32).div_(scale).sub_(mean).div_(std)


class ResidentDataset(Dataset[tuple[torch.Tensor, int, int]]):
    """A part of a stream as a torch dataset; an item is (normalised float sample, label, task label).

    Avalanche and other code iterates it. The learner reads the arrays below it and never calls ``__getitem__``.
    """

    def __init__(self, stream: Stream, part: Part, task_label: int = 0) -> None:
        self.stream = stream
        self.part = part
        self.task_label = task_label
        self.targets: list[int] = part.y.tolist()
        self.targets_task_labels = [task_label] * len(part)

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int, int]:
        position = self.part.indices[index]
        x = self.stream.normalise(self.part.arrays.x[position : position + 1])[0]
        return x, self.targets[index], self.task_label
