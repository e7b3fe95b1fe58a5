"""A memory that is filled while training goes on, mini-batch by mini-batch: a uniform sample of what was met so far.

Shapes: B new samples, M remembered ones in a mini-batch, m in memory.
"""

from typing import Any

import torch
from torch import Tensor

from ..seeding import generator
from ..training.plugin import Plugin
from .replay_memory import augment_replayed


def reservoir_places(num_met: int, num_new: int, memory: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Vitter's algorithm R: which of `num_new` samples are remembered, and in which of the `memory` places, each once.

    The first `memory` samples fill the places. The n-th takes a place with probability memory / n, each the same; of several
    new ones that take the same place the last one stays.
    """
    before = num_met + torch.arange(num_new)
    drawn = (torch.rand(num_new, generator=draw, dtype=torch.float64) * (before + 1)).long()
    chosen = torch.where(before < memory, before, drawn).tolist()
    last = {place: row for row, place in enumerate(chosen) if place < memory}
    return torch.tensor(list(last.values()), dtype=torch.int64), torch.tensor(list(last), dtype=torch.int64)


class ReservoirPlugin(Plugin):
    """Remembers samples of each mini-batch after its step; a sample that is met again in another epoch counts again.

    They are remembered as the network takes them, before augmentation (in a plain Avalanche script: as its dataset gives them).
    `columns`: x (memory, *shape), y (memory,), t (memory,) task labels, and what a subclass adds in `remembered`; the first
    `len(self)` rows are samples. A subclass replays them, in mini-batches of their own.
    """

    def __init__(self, memory: int, batch_size: int | None, seed: int, name: str) -> None:
        """`memory`: places; `batch_size`: remembered samples in a mini-batch, None: as many as new ones."""
        self.memory, self.batch_size, self.seed, self.name = memory, batch_size, seed, name
        self.columns: dict[str, Tensor] = {}
        self.num_met = 0
        self._new: list[Tensor] = []  # the mini-batch before it is augmented

    def __len__(self) -> int:
        """Samples in memory."""
        return min(self.num_met, self.memory)

    def state_dict(self) -> dict[str, Any]:
        """The samples in memory, and how many were met."""
        return {"num_met": self.num_met} | {name: column[: len(self)] for name, column in self.columns.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a memory; a copy, since it is filled in place."""
        self.num_met = state["num_met"]
        self.columns = {name: column.clone() for name, column in state.items() if isinstance(column, Tensor)}

    def draw(self, learner: Any, what: str = "draw") -> Tensor:
        """Positions (M,) in memory, without replacement; they depend on (seed, `what`, experience, iteration) alone."""
        order = torch.randperm(len(self), generator=self._generator(learner, what))
        return order[: self.batch_size or learner.train_mb_size].to(learner.device)

    def minibatch(self, learner: Any, index: Tensor) -> list[Tensor]:
        """Remembered samples as a mini-batch of their own: x (M, *shape), augmented as new ones are, y (M,), t (M,)."""
        self.columns = {name: column.to(learner.device) for name, column in self.columns.items()}
        return [
            augment_replayed(learner, self.columns["x"][index]),
            self.columns["y"][index],
            self.columns["t"][index],
        ]

    def remembered(self, learner: Any) -> dict[str, Tensor]:
        """The columns of the mini-batch's new samples (B, ...)."""
        x, y, *rest = self._new
        return {"x": x, "y": y, "t": rest[0] if rest else torch.zeros_like(y)}

    def before_training_iteration(self, learner: Any, **kwargs: Any) -> None:
        """The mini-batch as it comes."""
        self._new = list(learner.mbatch)

    def after_training_iteration(self, learner: Any, **kwargs: Any) -> None:
        """Let its samples compete for places."""
        if self.memory == 0:
            return
        new = self.remembered(learner)
        num_new = len(new["y"])
        rows, chosen = reservoir_places(self.num_met, num_new, self.memory, self._generator(learner, "places"))
        self.num_met += num_new
        rows, chosen = rows.to(learner.device), chosen.to(learner.device)
        for name, column in new.items():
            held = self.columns.get(name, column[:0]).to(learner.device)
            if len(held) < self.memory:
                held = torch.cat([held, held.new_zeros(self.memory - len(held), *held.shape[1:])])
            held[chosen] = column[rows]
            self.columns[name] = held

    def _generator(self, learner: Any, what: str) -> torch.Generator:
        where = (learner.experience.current_experience, learner.clock.train_exp_iterations)
        return generator(self.seed, f"{self.name} {what}", *where)
