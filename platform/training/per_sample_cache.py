"""Cache a fixed network's outputs for the samples of an experience and of a memory: each is computed once, not in each epoch.

Shapes: B mini-batch, n samples of the experience, m of a memory, M of them in a mini-batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..data.samples import dataset_batches
from . import plugin_api

Outputs = dict[str, Tensor]  # by name, each (B, ...)
Compute = Callable[[Tensor], Outputs]  # of inputs (B, *shape)
MAX_BYTES = 512 * 2**20  # of the outputs for all samples of an experience


@dataclass(frozen=True, slots=True, eq=False)
class Appended:
    """Which samples of a memory are the last rows of a mini-batch.

    Attributes:
        memory: all samples in memory as network inputs (m, *shape); another tensor once the memory has changed.
        index: the positions (M,) of the rows in it.
        x: the mini-batch's inputs (B + M, *shape).
        version: of `x`: torch counts in-place changes.
    """

    memory: Tensor
    index: Tensor
    x: Tensor
    version: int

    def describes(self, x: Tensor, num_appended: int) -> bool:
        """Return whether the last `num_appended` rows of `x` are still these samples."""
        return x is self.x and x._version == self.version and num_appended == len(self.index)


class PerSampleCache:
    """A fixed network's outputs for `learner.adapted_dataset`, computed on first use and looked up by `learner.mb_index`.

    Bits depend on the size of a mini-batch, so all samples are computed in mini-batches of the training's size. The last one may
    be smaller. It is filled in one of two ways, since in MKL's narrowest products bits also depend on a row's position:

    - "pad": it is padded with copies of its first sample. This works for fewer samples than a mini-batch holds, too.
    - "overlap": it overlaps the one before. If there are fewer samples than a mini-batch holds, they are one mini-batch.

    Those of a memory are computed in mini-batches of as many samples as are appended, the last one padded.
    """

    def __init__(self, last_batch: Literal["pad", "overlap"]) -> None:
        self._last_batch = last_batch
        self._outputs: Outputs | None = None  # for all samples, each (n, ...)
        self._too_large = False
        self._memory: Tensor | None = None  # the memory's inputs that the outputs below belong to
        self._memory_outputs: Outputs = {}  # each (m, ...)

    def __bool__(self) -> bool:
        """Return whether there are cached outputs."""
        return self._outputs is not None

    def clear(self) -> None:
        """Drop the outputs: the network or the experience is another."""
        self._outputs, self._too_large = None, False
        self._memory, self._memory_outputs = None, {}

    def lookup(self, learner: Any, compute: Compute, max_bytes: float = MAX_BYTES) -> Outputs | None:
        """Return the outputs for the current mini-batch.

        Rows that were appended by a memory are looked up too, others are computed each time.

        Args:
            learner: the learner.
            compute: the network's outputs for any inputs.
            max_bytes: the most memory that the outputs for all samples may take.

        Returns:
            The outputs; None if they cannot be cached: another loader, augmented samples, too much memory.
        """
        index = learner.mb_index if plugin_api.is_cacheable(learner) else None
        if index is None or self._too_large:
            return None
        if self._outputs is None:
            self._outputs = self._compute_all(learner, compute, max_bytes)
            self._too_large = self._outputs is None
            if self._outputs is None:
                return None
        cached = {name: output.index_select(0, index) for name, output in self._outputs.items()}
        num_appended = len(learner.mb_x) - len(index)
        if not num_appended:
            return cached
        appended = self._lookup_appended(learner, compute, num_appended, max_bytes)
        return {name: torch.cat([rows, appended[name]]) for name, rows in cached.items()}

    def _lookup_appended(self, learner: Any, compute: Compute, num_appended: int, max_bytes: float) -> Outputs:
        """The outputs for the last rows of the mini-batch: from those for the whole memory, if the rows are known to be its."""
        known: Appended | None = getattr(learner, "appended", None)
        if known is None or not known.describes(learner.mb_x, num_appended):
            return compute(learner.mb_x[-num_appended:])
        if self._memory is not known.memory:
            is_worth_it = len(known.memory) <= num_appended * learner.num_iterations
            self._memory = known.memory
            self._memory_outputs = _compute_memory(compute, known, max_bytes) if is_worth_it else {}
        if not self._memory_outputs:
            return compute(learner.mb_x[-num_appended:])
        return {name: output.index_select(0, known.index) for name, output in self._memory_outputs.items()}

    def _compute_all(self, learner: Any, compute: Compute, max_bytes: float) -> Outputs | None:
        """The outputs for all samples, each (n, ...); None if those for the first mini-batch show that they are too large."""
        length, size = len(learner.adapted_dataset), learner.train_mb_size
        order, overlaps = torch.arange(length), False
        if self._last_batch == "overlap":
            size = min(size, length)
            overlaps = length % size > 0
        if overlaps:
            order = torch.cat([order[: -(length % size)], order[-size:]])
        parts: list[Outputs] = []
        for x, _ in dataset_batches(learner.adapted_dataset, size, order):
            parts.append(compute_padded(compute, x.to(learner.device), size))
            if len(parts) == 1 and _bytes_per_sample(parts[0]) * length > max_bytes:
                return None
        outputs = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        if overlaps:  # drop the rows that were computed twice
            outputs = {name: torch.cat([rows[:-size], rows[-(length % size) :]]) for name, rows in outputs.items()}
        return outputs


def _compute_memory(compute: Compute, appended: Appended, max_bytes: float) -> Outputs:
    """The outputs for a whole memory, each (m, ...); {} if they are too large."""
    parts: list[Outputs] = []
    for x in appended.memory.split(len(appended.index)):
        parts.append(compute_padded(compute, x, len(appended.index)))
        if _bytes_per_sample(parts[0]) * len(appended.memory) > max_bytes:
            return {}
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _bytes_per_sample(outputs: Outputs) -> int:
    return sum(output[0].numel() * output.element_size() for output in outputs.values())


def compute_padded(compute: Compute, x: Tensor, size: int) -> Outputs:
    """Return the outputs for `x`, computed in a batch of at least `size` samples: a smaller one may give other bits."""
    missing = size - len(x)
    if missing <= 0:
        return compute(x)
    outputs = compute(torch.cat([x, x[:1].expand(missing, *x.shape[1:])]))
    return {name: output[: len(x)] for name, output in outputs.items()}
