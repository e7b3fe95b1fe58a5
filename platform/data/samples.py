"""Get samples out of data sets: as stored, as network inputs, in batches; from ours and from any Avalanche dataset.

Our datasets are read as arrays, through any subset or concatenation; others item by item.
Shapes: n samples, B batch.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .streams import Part, ResidentDataset, Stream

_RESIDENT_BYTES = 512 * 2**20  # above this, pictures stay uint8 (a quarter) and are converted per mini-batch


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Samples of a dataset: `x` (n, ...) as stored, labels `y` (n,), task labels `t` (n,)."""

    x: Tensor
    y: Tensor
    t: Tensor

    def inputs(self, indices: Tensor | None = None) -> Tensor:
        """Return network inputs (n, *shape) float32 at `indices`, or all."""
        return self.x if indices is None else self.x[indices]


@dataclass(frozen=True, slots=True, eq=False)
class ResidentSamples(Samples):
    """Samples of a dataset of ours; `stream` normalises `x`."""

    stream: Stream

    def inputs(self, indices: Tensor | None = None) -> Tensor:
        """Return network inputs (n, *shape) float32 at `indices`, or all."""
        # not super(): dataclasses with slots are made anew, so it would not refer to this class
        return self.stream.normalise(Samples.inputs(self, indices))


def resident_samples(dataset: Any) -> ResidentSamples | None:
    """Read the arrays below a dataset made of `ResidentDataset`s, through any subset or concatenation.

    Args:
        dataset: a `ResidentDataset`, an Avalanche dataset over some, or a flat node of such a dataset.

    Returns:
        The samples in the dataset's order; None if another dataset or a transform is in between.
    """
    pieces = _positions(dataset, torch.arange(len(dataset)))
    if not pieces:
        return None
    order = torch.cat([positions for positions, _, _ in pieces])
    # index_select is nine times as fast as x[...] on bytes
    sources = [(source.part.arrays, source.part.indices[local]) for _, source, local in pieces]
    x = _joined([arrays.x.index_select(0, indices) for arrays, indices in sources])
    y = _joined([arrays.y.index_select(0, indices) for arrays, indices in sources])
    t = torch.cat([torch.full((len(local),), source.task_label) for _, source, local in pieces])
    if len(pieces) > 1:
        restored_order = torch.argsort(order)
        x, y, t = x[restored_order], y[restored_order], t[restored_order]
    return ResidentSamples(x, y, t, pieces[0][1].stream)


def stored_samples(dataset: Any) -> Samples:
    """Return all samples of a dataset, without augmentation; those of other datasets than ours are network inputs."""
    resident = resident_samples(dataset)
    if resident is not None:
        return resident
    x, y = dataset_samples(dataset.eval())
    labels = getattr(dataset, "targets_task_labels", None)
    return Samples(x, y, torch.zeros_like(y) if labels is None else torch.tensor(list(labels)))


def input_transform(dataset: Any) -> Callable[[Tensor], Tensor]:
    """Return the function that turns `x` of the dataset's `stored_samples` (n, ...) into network inputs (n, *shape)."""
    pieces = _positions(dataset, torch.arange(len(dataset)))
    return pieces[0][1].stream.normalise if pieces else lambda x: x


def dataset_samples(dataset: Any, indices: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return samples of a dataset in the network's format: x (n, *shape) float32, y (n,) int64, at `indices` or all.

    Fast for our resident datasets; item by item for any other Avalanche dataset.
    """
    resident = resident_samples(dataset)
    if resident is None:
        return _items(dataset, range(len(dataset)) if indices is None else indices.tolist())
    return resident.inputs(indices), resident.y if indices is None else resident.y[indices]


def dataset_batches(dataset: Any, size: int, order: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the samples of a dataset, `size` at a time, as `dataset_samples` returns them.

    `order` (n,): the positions to yield; None: all, in order.
    """
    resident = resident_samples(dataset)
    for index in (torch.arange(len(dataset)) if order is None else order).split(size):
        if resident is None:
            yield _items(dataset, index.tolist())
        else:
            yield resident.inputs(index), resident.y[index]


def validation_dataset(experience: Any) -> Any | None:
    """Return the validation dataset of a training experience, from its benchmark's ``valid`` stream, or None.

    Streams of Avalanche 0.6 do not know their benchmark: a plain script sets ``stream.benchmark``.
    """
    streams = getattr(experience.origin_stream.benchmark, "streams", {})
    if "valid" not in streams:
        return None
    dataset = streams["valid"][experience.current_experience].dataset
    return dataset.eval() if len(dataset) else None


class ResidentInputs:
    """Network inputs on a device: `x` is float32 where that fits into memory, else as stored and converted when read."""

    def __init__(self, stream: Stream, stored: Tensor, device: torch.device) -> None:
        """Move samples as stored (n, ...) to `device`."""
        self.stream = stream
        self._converted = len(stored) * math.prod(stream.shape) * 4 <= _RESIDENT_BYTES
        x = stored.to(device)
        self.x = stream.normalise(x) if self._converted else x

    def select(self, indices: Tensor) -> Tensor:
        """Return a copy of the inputs (B, *shape) at `indices` (B,)."""
        return self._convert(self.x.index_select(0, indices))  # twice as fast as x[indices]

    def batches(self, size: int) -> Iterator[Tensor]:
        """Yield inputs (B, *shape) in order, `size` at a time; they may be views of `x`."""
        yield from map(self._convert, torch.split(self.x, size))

    def _convert(self, x: Tensor) -> Tensor:
        return x if self._converted else self.stream.normalise(x)


@dataclass(frozen=True, slots=True, eq=False)
class PartSamples:
    """Samples of several parts of a stream, concatenated on a device.

    Attributes:
        inputs: (n, *shape) for the network.
        y: (n,) labels.
        experience: (n,) number of each sample's experience.
    """

    inputs: ResidentInputs
    y: Tensor
    experience: Tensor

    def __len__(self) -> int:
        return len(self.y)


def gather_parts(stream: Stream, parts: Sequence[tuple[int, Part]], device: torch.device) -> PartSamples:
    """Concatenate the samples of parts, each given with the number of its experience."""
    x = torch.cat([part.arrays.x.index_select(0, part.indices) for _, part in parts])
    y = torch.cat([part.y for _, part in parts]).to(device)
    sizes = torch.tensor([len(part) for _, part in parts])
    experience = torch.repeat_interleave(torch.tensor([number for number, _ in parts]), sizes).to(device)
    return PartSamples(ResidentInputs(stream, x, device), y, experience)


def _items(dataset: Any, positions: Iterable[int]) -> tuple[Tensor, Tensor]:
    """Samples of any dataset, item by item."""
    items = [dataset[i] for i in positions]
    return torch.stack([item[0] for item in items]), torch.tensor([int(item[1]) for item in items])


def _joined(tensors: list[Tensor]) -> Tensor:
    """Concatenate; a single tensor is not copied."""
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


_Piece = tuple[Tensor, ResidentDataset, Tensor]


def _positions(node: Any, local: Tensor) -> list[_Piece] | None:
    """Find where the items `local` of `node` come from: (positions in `local`, source, positions in the source)."""
    if isinstance(node, ResidentDataset):
        return [(torch.arange(len(local)), node, local)]
    if hasattr(node, "_flat_data"):
        return _positions(node._flat_data, local)
    if not hasattr(node, "_datasets") or _transforms(node):
        return None
    if node._indices is not None:
        local = torch.as_tensor(list(node._indices), dtype=torch.int64)[local]
    return _children(node._datasets, local)


def _children(datasets: Sequence[Any], local: Tensor) -> list[_Piece] | None:
    """Distribute positions in a concatenation among its members."""
    pieces: list[_Piece] = []
    start = 0
    for dataset in datasets:
        stop = start + len(dataset)
        where = torch.nonzero((local >= start) & (local < stop)).flatten()
        start = stop
        if not len(where):
            continue
        inner = _positions(dataset, local[where] - (stop - len(dataset)))
        if inner is None:
            return None
        pieces += [(where[outer], source, positions) for outer, source, positions in inner]
    return pieces


def _transforms(node: Any) -> bool:
    """Return whether an Avalanche node transforms its items, so that only ``__getitem__`` yields them."""
    for name in ("_transform_groups", "_frozen_transform_groups"):
        groups = getattr(node, name, None)
        if groups is not None and any(groups.transform_groups.values()):
            return True
    return False
