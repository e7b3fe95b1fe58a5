"""Import an Avalanche benchmark as a stream: read its samples once, evaluation transforms applied, and keep them in memory.

Shapes: n samples of an experience, N of a split.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from ..run_folders import run_folder_of
from .streams import Arrays, Experience, Part, Stream


def stream_of(name: str, make: Callable[..., Any], arguments: Mapping[str, Any]) -> Stream:
    """Build the benchmark and read its ``train``, ``test`` and, if present, ``valid`` streams.

    Labels are renumbered in order of appearance; the class names are the benchmark's labels. Samples are read through the
    evaluation transforms, so random augmentation is not applied.

    Args:
        name: name of the benchmark in the config; its last dotted part names the stream.
        make: function that returns the Avalanche benchmark.
        arguments: keyword arguments of `make`.

    Raises:
        UserError: the benchmark refuses its arguments, or has no train and test stream of equal length.
    """
    key = f"benchmark.{name}"
    for argument, value in arguments.items():
        if isinstance(value, str) and os.path.exists(value) and run_folder_of(Path(value)):
            raise UserError(
                f"{key}.{argument}={value}: lies in a run's folder; some of Avalanche's data sets are pickles."
            )
    try:
        streams = make(**arguments).streams
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{key}={dict(arguments)}: cannot be built: {error}") from error
    if not {"train", "test"} <= set(streams) or len(streams["train"]) != len(streams["test"]):
        raise UserError(f"{key}: needs a train and a test stream with as many experiences; it has {sorted(streams)}.")
    parts = {split: [_read(experience) for experience in streams[split]] for split in streams}
    names = list(dict.fromkeys(label for _, y in parts["train"] for label in sorted(set(y.tolist()))))
    label_of = {label: number for number, label in enumerate(names)}
    splits = {split: _numbered(key, read, label_of) for split, read in parts.items()}
    empty = [_empty(part) for part in splits["train"]]
    classes = [tuple(sorted(set(part.y.tolist()))) for part in splits["train"]]
    experiences = tuple(
        Experience(f"experience {number + 1}", *classes_and_parts)
        for number, classes_and_parts in enumerate(
            zip(classes, splits["train"], splits.get("valid", empty), splits["test"], strict=True)
        )
    )
    disjoint = sum(len(labels) for labels in classes) == len(names)
    channels = parts["train"][0][0].shape[1]
    return Stream(
        name=name.rpartition(".")[2],
        scenario="class" if disjoint and len(classes) > 1 else "domain",
        experiences=experiences,
        class_names=tuple(map(str, names)),
        shape=tuple(parts["train"][0][0].shape[1:]),
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
    )


def _read(experience: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return all samples (n, *shape) and labels (n,) of an experience."""
    dataset = experience.dataset.eval()
    items: Sequence[Any] = [dataset[index] for index in range(len(dataset))]
    return torch.stack([torch.as_tensor(item[0]) for item in items]), torch.tensor([int(item[1]) for item in items])


def _numbered(key: str, read: Sequence[tuple[torch.Tensor, torch.Tensor]], label_of: Mapping[int, int]) -> list[Part]:
    """Concatenate the experiences of a split into one array, with new labels."""
    unknown = sorted({label for _, y in read for label in y.tolist()} - set(label_of))
    if unknown:
        raise UserError(f"{key}: classes {unknown} are tested but never trained.")
    x = torch.cat([x for x, _ in read])
    y = torch.tensor([label_of[label] for _, y in read for label in y.tolist()])
    arrays = Arrays(x, y)
    return [Part(arrays, indices) for indices in torch.arange(len(y)).split([len(y) for _, y in read])]


def _empty(part: Part) -> Part:
    return Part(part.arrays, torch.zeros(0, dtype=torch.int64))
