"""A memory that is filled during training, mini-batch by mini-batch: a uniform sample of all samples seen so far.

Shapes: B new samples, M remembered ones in a mini-batch, m in memory.
"""

from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from ..seeding import generator
from ..training.learner_view import LearnerView
from ..training.plugin import Plugin, strategy_name
from .replay_memory import Columns, MemorySettings, augment_replayed

M = TypeVar("M", bound=MemorySettings)


def reservoir_slots(num_seen: int, num_new: int, memory: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return which of `num_new` samples are remembered, and at which indices in memory, each index once.

    Vitter's algorithm R: the first `memory` samples fill the memory. The n-th sample replaces a uniformly chosen one with
    probability memory / n. If several new samples get the same index, the last one stays.

    Args:
        num_seen: samples seen before.
        num_new: new samples.
        memory: size of the memory.
        draw: the random generator.

    Returns:
        Positions among the new samples, and the indices in memory, both int64.
    """
    before = num_seen + torch.arange(num_new)
    candidates = (torch.rand(num_new, generator=draw, dtype=torch.float64) * (before + 1)).long()
    chosen = torch.where(before < memory, before, candidates).tolist()
    last = {index: row for row, index in enumerate(chosen) if index < memory}
    return torch.tensor(list(last.values()), dtype=torch.int64), torch.tensor(list(last), dtype=torch.int64)


class ReservoirPlugin(Plugin[M]):
    """Remembers samples of each mini-batch after its step; a sample counts again in each epoch.

    Samples are remembered as network inputs before augmentation (in a plain Avalanche script: as its dataset returns them).
    `columns` holds x (memory, *shape), y (memory,), task labels t (memory,), and what a subclass adds in `remembered`. The first
    `len(self)` rows are samples. A subclass replays them in separate mini-batches.
    """

    STATE: ClassVar[tuple[str, ...]] = ()  # the memory is stored as well

    def init_state(self) -> None:
        """Set the initial state."""
        self.columns: Columns = {}
        self.num_seen = 0
        self._new: list[Tensor] = []  # the mini-batch before it is augmented

    def __len__(self) -> int:
        """Return the number of samples in memory."""
        return min(self.num_seen, self.config.memory)

    def state_dict(self) -> dict[str, Any]:
        """Return the samples in memory, how many were seen, and what `STATE` names."""
        samples = {name: column[: len(self)] for name, column in self.columns.items()}
        return {"num_met": self.num_seen} | samples | super().state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a memory as a copy, because it is filled in place."""
        super().load_state_dict(state)
        self.num_seen = state["num_met"]
        self.columns = {name: column.clone() for name, column in state.items() if isinstance(column, Tensor)}

    def separate_batch_size(self, batch_size: int, num_trained: int) -> int:
        """Return how many remembered samples form a mini-batch; the memory also fills within an experience."""
        return min(self.config.batch_size or batch_size, self.config.memory)

    def draw(self, learner: LearnerView, what: str = "draw") -> Tensor:
        """Return positions (M,) in memory, sampled without replacement.

        They depend only on (seed, `what`, experience, iteration).
        """
        order = torch.randperm(len(self), generator=self._generator(learner, what))
        return order[: self.config.batch_size or learner.train_mb_size].to(learner.device, non_blocking=True)

    def minibatch(self, learner: LearnerView, index: Tensor) -> list[Tensor]:
        """Return remembered samples as a separate mini-batch: x (M, *shape), augmented like new ones, y (M,), t (M,)."""
        self.columns = {name: column.to(learner.device) for name, column in self.columns.items()}
        x, y, t = (self.columns[name][index] for name in ("x", "y", "t"))
        return [augment_replayed(learner, x), y, t]

    def remembered(self, learner: LearnerView) -> Columns:
        """Return the columns of the mini-batch's new samples (B, ...)."""
        x, y, *rest = self._new
        return {"x": x, "y": y, "t": rest[0] if rest else torch.zeros_like(y)}

    def before_training_iteration(self, learner: LearnerView, **kwargs: Any) -> None:
        """Keep the mini-batch as it is before augmentation."""
        self._new = list(learner.mbatch)

    def after_training_iteration(self, learner: LearnerView, **kwargs: Any) -> None:
        """Update the memory with the mini-batch's samples."""
        memory = self.config.memory
        if memory == 0:
            return
        new = self.remembered(learner)
        num_new = len(new["y"])
        rows, chosen = reservoir_slots(self.num_seen, num_new, memory, self._generator(learner, "places"))
        self.num_seen += num_new
        rows, chosen = (each.to(learner.device, non_blocking=True) for each in (rows, chosen))
        for name, column in new.items():
            stored = self.columns.get(name, column[:0]).to(learner.device)
            if len(stored) < memory:
                stored = torch.cat([stored, stored.new_zeros(memory - len(stored), *stored.shape[1:])])
            stored[chosen] = column[rows]
            self.columns[name] = stored

    def _generator(self, learner: LearnerView, what: str) -> torch.Generator:
        where = (learner.experience.current_experience, learner.clock.train_exp_iterations)
        return generator(self.seed, f"{strategy_name(self)} {what}", *where)
