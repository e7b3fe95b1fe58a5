"""A memory of old samples, the choice of those that stay in it, and the plugin that trains on them together with new samples.

Shapes: B new samples, M remembered in a mini-batch, m in memory, n new in an experience, K outputs.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from ..data.streams import resident_samples
from ..errors import UserError
from ..seeding import generator
from ..training import plugin_api
from ..training.plugin import Plugin

Policy = Literal["reservoir", "class_balanced"]
REDUNDANT_MEMORY = {  # CONFLICTS of strategies with a memory
    "cumulative": "cumulative trains on all old data already: a memory would only count some of them twice",
    "joint": "joint trains once on all data, so there is never a memory of old ones",
}


def quotas(memory: int, num_classes: int) -> list[int]:
    """Return the number of samples of each class in a balanced memory, by rank of its label; they add up to `memory`."""
    return [memory // num_classes + (rank < memory % num_classes) for rank in range(num_classes)]


def select_kept(keys: Tensor, y: Tensor, memory: int, policy: Policy) -> Tensor:
    """Return the positions (m,), rising, of the samples that stay in memory.

    Args:
        keys: random keys (n,).
        y: labels (n,).
        memory: size of the memory.
        policy: "reservoir" keeps the smallest keys of all, "class_balanced" the smallest of each class.
    """
    if policy == "reservoir":
        return keys.argsort()[:memory].sort().values
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


class MemoryPlugin(Plugin):
    """Appends remembered samples to each mini-batch; they are remembered as stored (uint8 where the stream's are).

    The memory is updated when the training of an experience ends, and only from its training data. `columns` holds x (m, ...),
    y (m,), task labels t (m,), key (m,), and what a subclass adds. For subclasses: `keep` chooses what stays, `draw` what is
    replayed. The first `num_new` rows of a mini-batch are new.
    """

    def __init__(self, memory: int, batch_size: int | None, seed: int, name: str) -> None:
        """Create an empty memory.

        Args:
            memory: size of the memory.
            batch_size: remembered samples in a mini-batch; None: as many as new ones.
            seed: seed of the experiment, from which the random numbers are derived.
            name: name of the strategy, part of the derivation.
        """
        self.memory, self.batch_size, self.seed, self.name = memory, batch_size, seed, name
        self.columns: dict[str, Tensor] = {}
        self.num_new = 0
        self._x: Tensor | None = None  # the memory as network inputs, during an experience

    def __len__(self) -> int:
        """Return the number of samples in memory."""
        return len(self.columns["y"]) if self.columns else 0

    def state_dict(self) -> dict[str, Any]:
        """Return the memory and its keys."""
        return dict(self.columns)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a memory."""
        self.columns, self._x = dict(state), None

    def keep(self, learner: Any, candidates: dict[str, Tensor]) -> Tensor:
        """Return the positions, rising, of the candidates that stay (`columns` of the old samples, then of the new ones)."""
        return select_kept(candidates["key"], candidates["y"], self.memory, "class_balanced")

    def source(self, learner: Any) -> Any:
        """Return the dataset that is added to the memory when the training of an experience has ended."""
        return learner.experience.dataset

    def draw(self, learner: Any) -> Tensor:
        """Return positions (M,) in memory of the samples for this mini-batch.

        They depend only on (seed, experience, iteration).
        """
        return self.sample_positions(learner, self.batch_size or learner.train_mb_size)

    def sample_positions(self, learner: Any, size: int) -> Tensor:
        """Return random positions (min(size, m),), sampled without replacement."""
        where = (learner.experience.current_experience, learner.clock.train_exp_iterations)
        order = torch.randperm(len(self), generator=generator(self.seed, f"{self.name} draw", *where))
        return order[:size].to(learner.device)

    def inputs(self, learner: Any) -> Tensor:
        """Return the whole memory as network inputs (m, *shape) on the device; cached during an experience."""
        if self._x is None:
            self.columns = {name: tensor.to(learner.device) for name, tensor in self.columns.items()}
            self._x = to_inputs(learner)(self.columns["x"])
        return self._x

    def minibatch(self, learner: Any, index: Tensor) -> list[Tensor]:
        """Return remembered samples as a separate mini-batch: x (M, *shape), augmented like new ones, y (M,), t (M,)."""
        x = augment_replayed(learner, self.inputs(learner)[index])
        return [x, self.columns["y"][index], self.columns["t"][index]]

    def before_training_iteration(self, learner: Any, **kwargs: Any) -> None:
        """Append the sampled rows."""
        self.num_new = len(learner.mbatch[1])
        if len(self):
            x, index = self.inputs(learner), self.draw(learner)
            remembered = (x, self.columns["y"], self.columns["t"])
            # a mini-batch without task labels has two items
            learner.mbatch = [
                torch.cat([new, old[index]]) for new, old in zip(learner.mbatch, remembered, strict=False)
            ]

    def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """Add the experience's samples to the memory."""
        self._x = None
        if self.memory == 0:
            return
        rng = generator(self.seed, f"{self.name} keys", learner.experience.current_experience)
        new = {name: tensor.to(learner.device) for name, tensor in stored_samples(self.source(learner)).items()}
        new["key"] = torch.rand(len(new["y"]), generator=rng, dtype=torch.float64).to(learner.device)
        self.remember(learner, new)

    def remember(self, learner: Any, new: dict[str, Tensor]) -> None:
        """Join the old samples and the `new` ones (columns as the memory's), and keep those that `keep` chooses."""
        old = {name: self.columns[name].to(learner.device) if self.columns else new[name][:0] for name in new}
        candidates = {name: torch.cat([old[name], new[name]]) for name in new}
        keep = self.keep(learner, candidates)
        self.columns = {name: column[keep] for name, column in candidates.items()}
        self._x = None


def stored_samples(dataset: Any) -> dict[str, Tensor]:
    """Return all samples of a training dataset, without augmentation: x, y and task labels t.

    They are as stored for our datasets, and as network inputs for others.
    """
    resident = resident_samples(dataset)
    if resident is not None:
        return {"x": resident.x, "y": resident.y, "t": resident.t}
    x, y = plugin_api.dataset_samples(dataset.eval())
    labels = getattr(dataset, "targets_task_labels", None)
    return {"x": x, "y": y, "t": torch.zeros_like(y) if labels is None else torch.tensor(list(labels))}


def to_inputs(learner: Any) -> Callable[[Tensor], Tensor]:
    """Return the function that turns samples from `stored_samples` (m, ...) into network inputs (m, *shape)."""
    resident = resident_samples(learner.experience.dataset)
    return (lambda x: x) if resident is None else resident.stream.normalise


def augment_replayed(learner: Any, x: Tensor) -> Tensor:
    """Return remembered samples (M, *shape) that are not in the mini-batch, augmented like the mini-batch.

    They get random parameters that no sample of the mini-batch has.
    """
    augment = getattr(learner, "augment", None)
    if augment is None:
        return x
    clock = learner.clock
    # a position that no mini-batch of new samples has
    position = (learner.experience.current_experience, clock.train_exp_epochs, -1 - clock.train_epoch_iterations)
    return augment(x, position)  # type: ignore[no-any-return]


def separate_logits(learner: Any, minibatch: list[Tensor]) -> Tensor:
    """Return logits (M, K) of another mini-batch [x, y, t] in a separate forward pass.

    Where the task is given, they are masked to each sample's task. Call it before the mini-batch's main pass (until
    `before_forward`), so that what others capture in that pass is not overwritten.
    """
    main_minibatch = learner.mbatch
    learner.mbatch = minibatch
    logits = plugin_api.mask_other_tasks(learner, learner.forward(), minibatch[2])
    learner.mbatch = main_minibatch
    return logits
