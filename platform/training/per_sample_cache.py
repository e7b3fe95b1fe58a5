"""Cache a fixed network's outputs for the samples of an experience: each sample is computed once, not in each epoch.

Shapes: B mini-batch, n samples of the experience.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from ..data.samples import dataset_batches
from . import plugin_api

Outputs = dict[str, Tensor]  # by name, each (B, ...)
Compute = Callable[[Tensor], Outputs]  # of inputs (B, *shape)
MAX_BYTES = 512 * 2**20  # of the outputs for all samples of an experience


class PerSampleCache:
    """A fixed network's outputs for `learner.adapted_dataset`, computed on first use and looked up by `learner.mb_index`.

    Bits depend on the size of a mini-batch, so all samples are computed in mini-batches of the training's size. The last one may
    be smaller. It is filled in one of two ways, since in MKL's narrowest products bits also depend on a row's position:

    - "pad": it is padded with copies of its first sample. This works for fewer samples than a mini-batch holds, too.
    - "overlap": it overlaps the one before. If there are fewer samples than a mini-batch holds, they are one mini-batch.
    """

    def __init__(self, last_batch: Literal["pad", "overlap"]) -> None:
        self._last_batch = last_batch
        self._outputs: Outputs | None = None  # for all samples, each (n, ...)
        self._too_large = False

    def __bool__(self) -> bool:
        """Return whether there are cached outputs."""
        return self._outputs is not None

    def clear(self) -> None:
        """Drop the outputs: the network or the experience is another."""
        self._outputs, self._too_large = None, False

    def lookup(self, learner: Any, compute: Compute, max_bytes: float = MAX_BYTES) -> Outputs | None:
        """Return the outputs for the current mini-batch; rows that are appended (from a memory) are computed each time.

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
        appended = learner.mb_x[len(index) :]
        if not len(appended):
            return cached
        computed = compute(appended)
        return {name: torch.cat([rows, computed[name]]) for name, rows in cached.items()}

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


def _bytes_per_sample(outputs: Outputs) -> int:
    return sum(output[0].numel() * output.element_size() for output in outputs.values())


def compute_padded(compute: Compute, x: Tensor, size: int) -> Outputs:
    """Return the outputs for `x`, computed in a batch of at least `size` samples: a smaller one may give other bits."""
    missing = size - len(x)
    if missing <= 0:
        return compute(x)
    outputs = compute(torch.cat([x, x[:1].expand(missing, *x.shape[1:])]))
    return {name: output[: len(x)] for name, output in outputs.items()}
