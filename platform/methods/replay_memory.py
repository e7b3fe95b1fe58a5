"""A memory of old samples, and the choice of those that stay in it.

Shapes: M remembered samples in a mini-batch, m in memory, n candidates, K outputs.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ..data.samples import input_transform, stored_samples
from ..errors import UserError
from ..seeding import generator
from ..training import plugin_api
from ..training.learner_view import LearnerView

Columns = dict[str, Tensor]  # of n samples: x (n, ...), y (n,), t (n,), ...


class MemorySettings(Protocol):
    """Settings of a strategy with a memory."""

    @property
    def memory(self) -> int:
        """Return how many samples are remembered, >= 0."""

    @property
    def batch_size(self) -> int | None:
        """Return how many remembered samples join a mini-batch; None: the strategy decides."""


def quotas(memory: int, num_classes: int) -> list[int]:
    """Return the number of samples of each class in a balanced memory, by rank of its label; they add up to `memory`."""
    return [memory // num_classes + (rank < memory % num_classes) for rank in range(num_classes)]


def num_balanced(labels: Sequence[Tensor], memory: int) -> int:
    """Return the size of a balanced memory after experiences with these labels, each (n,).

    A class has at most its quota, which shrinks as classes join; places that a rare class leaves free stay free.
    """
    kept: Counter[int] = Counter()
    for new in labels:
        classes, counts = new.unique(return_counts=True)  # far faster than to count a long list
        kept.update(dict(zip(classes.tolist(), counts.tolist(), strict=True)))
        shares = zip(sorted(kept), quotas(memory, len(kept)), strict=True)
        kept = Counter({label: min(kept[label], quota) for label, quota in shares})
    return kept.total()


def keep_reservoir(candidates: Columns, memory: int) -> Tensor:
    """Return the positions (m,), rising, of the `memory` samples with the smallest keys."""
    return candidates["key"].argsort()[:memory].sort().values


def keep_balanced(candidates: Columns, memory: int) -> Tensor:
    """Return the positions (m,), rising, of the samples of each class with the smallest keys: `memory` in all, by `quotas`."""
    keys, y = candidates["key"], candidates["y"]
    labels = sorted(set(y.tolist()))
    chosen = []
    for label, quota in zip(labels, quotas(memory, len(labels)), strict=True):
        positions = (y == label).nonzero().flatten()
        chosen.append(positions[keys[positions].argsort(stable=True)[:quota]])
    return torch.cat(chosen).sort().values


def check_capacity(key: str, memory: int, num_classes: int, otherwise: str = "") -> None:
    """Refuse a balanced memory that cannot hold one sample of each class.

    Args:
        key: the memory's path in the YAML.
        memory: its size.
        num_classes: classes of the stream.
        otherwise: text that the message appends.

    Raises:
        UserError: The memory is smaller than the number of classes.
    """
    if memory < num_classes:
        raise UserError(f"{key}={memory}: must be at least {num_classes}, one for each class{otherwise}")


def compete(old: Columns, new: Columns, keep: Callable[[Columns], Tensor]) -> Columns:
    """Join the samples in memory ({}: none) and new ones, and return those at the positions, rising, that `keep` returns."""
    old = old or {name: column[:0] for name, column in new.items()}
    candidates = {name: torch.cat([old[name].to(column.device), column]) for name, column in new.items()}
    positions = keep(candidates)
    return {name: column[positions] for name, column in candidates.items()}


class ReplayMemory:
    """Old samples as the stream stores them (uint8 where its arrays are); empty at first.

    `columns` holds x (m, ...), y (m,), task labels t (m,), key (m,), and what a strategy adds. All random numbers depend on the
    seed, the name, the experience and the iteration only.

    Args:
        seed: the plugin's seed.
        name: of the strategy, part of the derivation of random numbers.
        key: where the columns are in a plugin's state; "": each is there under its name.
    """

    MERGED = True  # its entries are stored next to those of its plugin

    def __init__(self, seed: int, name: str, key: str = "") -> None:
        self.seed, self.name, self.key = seed, name, key
        self.columns: Columns = {}
        self._x: Tensor | None = None  # the memory as network inputs, during an experience

    def __len__(self) -> int:
        """Return the number of samples in memory."""
        return len(self.columns["y"]) if self.columns else 0

    def state_dict(self) -> dict[str, Any]:
        """Return the columns."""
        columns = dict(self.columns)
        return {self.key: columns} if self.key else columns

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the columns: the tensors in a plugin's state."""
        columns = state[self.key] if self.key else state
        self.columns, self._x = {name: each for name, each in columns.items() if isinstance(each, Tensor)}, None

    def sample(self, learner: LearnerView, size: int) -> Tensor:
        """Return random positions (min(size, m),), sampled without replacement."""
        where = (learner.experience.current_experience, learner.clock.train_exp_iterations)
        order = torch.randperm(len(self), generator=generator(self.seed, f"{self.name} draw", *where))
        return order[:size].to(learner.device, non_blocking=True)

    def inputs(self, learner: LearnerView) -> Tensor:
        """Return the whole memory as network inputs (m, *shape) on the device; cached during an experience."""
        if self._x is None:
            self.columns = {name: tensor.to(learner.device) for name, tensor in self.columns.items()}
            self._x = input_transform(learner.experience.dataset)(self.columns["x"])
        return self._x

    def samples(self, learner: LearnerView, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the samples at positions (M,): network inputs x (M, *shape), y (M,), t (M,)."""
        x, y, t = self.inputs(learner), self.columns["y"], self.columns["t"]
        return x.index_select(0, index), y.index_select(0, index), t.index_select(0, index)  # faster than x[index]

    def minibatch(self, learner: LearnerView, index: Tensor) -> list[Tensor]:
        """Return the samples at positions (M,) as a separate mini-batch [x, y, t], augmented like new ones."""
        x, y, t = self.samples(learner, index)
        return [augment_replayed(learner, x), y, t]

    def append(self, learner: LearnerView, index: Tensor) -> None:
        """Append the samples at positions (M,) to the learner's mini-batch, before it is augmented."""
        # a mini-batch without task labels has two items
        pairs = zip(learner.mbatch, self.samples(learner, index), strict=False)
        learner.mbatch = [torch.cat(pair) for pair in pairs]
        plugin_api.note_appended(learner, self.inputs(learner), index)

    def new_samples(self, learner: LearnerView, dataset: Any) -> Columns:
        """Return x, y and t of a dataset's samples, and a random key for each, in [0, 1)."""
        rng = generator(self.seed, f"{self.name} keys", learner.experience.current_experience)
        stored = stored_samples(dataset)
        new = {name: getattr(stored, name).to(learner.device) for name in ("x", "y", "t")}
        return new | {"key": torch.rand(len(new["y"]), generator=rng, dtype=torch.float64).to(learner.device)}

    def update(self, new: Columns, keep: Callable[[Columns], Tensor]) -> None:
        """Let new samples compete with those in memory, as `compete`."""
        self.columns, self._x = compete(self.columns, new, keep), None


def augment_replayed(learner: LearnerView, x: Tensor) -> Tensor:
    """Return remembered samples (M, *shape) that are not in the mini-batch, augmented like the mini-batch.

    They get random parameters that no sample of the mini-batch has.
    """
    augment = getattr(learner, "augment", None)
    if augment is None:
        return x
    clock = learner.clock
    # a position that no mini-batch of new samples has
    position = (learner.experience.current_experience, clock.train_exp_epochs, -1 - clock.train_epoch_iterations)
    augmented: Tensor = augment(x, position)
    return augmented


def separate_logits(learner: LearnerView, minibatch: list[Tensor]) -> Tensor:
    """Return logits (M, K) of another mini-batch [x, y, t] in a separate forward pass.

    Where the task is given, they are masked to each sample's task. Call it before the mini-batch's main pass (until
    `before_forward`), so that what others capture in that pass is not overwritten.
    """
    main_minibatch = learner.mbatch
    learner.mbatch = minibatch
    logits = plugin_api.mask_other_tasks(learner, learner.forward(), minibatch[2])
    learner.mbatch = main_minibatch
    return logits
