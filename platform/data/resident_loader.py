"""Load mini-batches by indexing resident tensors.

Shapes: n samples of the experience, B batch.
"""

from collections.abc import Iterator

import torch

from ..seeding import generator
from .samples import ResidentInputs, ResidentSamples


class ResidentLoader:
    """Iterates over the training samples of an experience, in a new order each epoch.

    The order follows from (seed, experience, epoch). Yields ``[x (B, *shape) float32, y (B,), t (B,)]``. `index` holds the
    indices (B,) of the last mini-batch, `last_x` its x.
    """

    def __init__(
        self, samples: ResidentSamples, batch_size: int, device: torch.device, order: tuple[int, int] | None
    ) -> None:
        """Move the samples to `device`; `order` is (seed, experience) for shuffling, None for the order of the data."""
        self.inputs = ResidentInputs(samples.stream, samples.x, device)
        self.y = samples.y.to(device)
        self.t = samples.t.to(device)
        self._one_task = bool((samples.t == samples.t[:1]).all())
        self._order = order
        self.batch_size = batch_size
        self.epoch = 0
        self._skip = 0
        self.index: torch.Tensor | None = None
        self.last_x: torch.Tensor | None = None
        self.last_version = 0  # of `last_x` as yielded: torch counts in-place changes

    def seek(self, epoch: int, iteration: int) -> None:
        """Make the next pass that of `epoch`, starting at mini-batch `iteration` (both from 0)."""
        self.epoch, self._skip = epoch, iteration

    def __len__(self) -> int:
        return -(-len(self.y) // self.batch_size)

    def __iter__(self) -> Iterator[list[torch.Tensor]]:
        indices = torch.split(self.positions(), self.batch_size)[self._skip :]
        self._skip = 0
        for index in indices:
            self.index = index
            x = self.inputs.select(index)
            self.last_x, self.last_version = x, x._version
            yield [x, self.y.index_select(0, index), self.t[: len(index)] if self._one_task else self.t[index]]
        self.epoch += 1

    def positions(self) -> torch.Tensor:
        """Return the order (n,) of the samples in the current epoch."""
        if self._order is None:
            return torch.arange(len(self.y), device=self.y.device)
        seed, experience = self._order
        draw = generator(seed, "order", experience, self.epoch)
        # non_blocking: an epoch starts without waiting for a GPU to finish the one before
        return torch.randperm(len(self.y), generator=draw).to(self.y.device, non_blocking=True)
