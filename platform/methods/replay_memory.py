"""A memory of old samples, which of them stay in it, and the plugin that trains on them along with the new ones.

Shapes: B new samples, M remembered in a mini-batch, m in memory, n new in an experience, D features.
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
REDUNDANT_MEMORY = {  # CONFLICTS of what has a memory
    "cumulative": "cumulative trains on all old data already: a memory would only count some of them twice",
    "joint": "joint trains once on all data, so there is never a memory of old ones",
}


def quotas(memory: int, num_classes: int) -> list[int]:
    """Places of each class in a balanced memory, by rank of its label; they add up to `memory`."""
    return [memory // num_classes + (rank < memory % num_classes) for rank in range(num_classes)]


def select_kept(keys: Tensor, y: Tensor, memory: int, policy: Policy) -> Tensor:
    """Positions (m,), rising, of the samples that stay in memory; `keys` (n,) random, `y` (n,) labels.

    "reservoir": the smallest keys of all. "class_balanced": the smallest of each class.
    """
    if policy == "reservoir":
        return keys.argsort()[:memory].sort().values
    labels = sorted(set(y.tolist()))
    chosen = []
    for label, places in zip(labels, quotas(memory, len(labels)), strict=True):
        positions = (y == label).nonzero().flatten()
        chosen.append(positions[keys[positions].argsort(stable=True)[:places]])
    return torch.cat(chosen).sort().values


def check_places(key: str, memory: int, num_classes: int, otherwise: str = "") -> None:
    """Refuse a balanced memory (`key`: its path in the YAML) that cannot hold one sample of each class.

    Raises:
        UserError: it has fewer places than there are classes.
    """
    if memory < num_classes:
        raise UserError(f"{key}={memory}: must be at least {num_classes}, one for each class{otherwise}")


class MemoryPlugin(Plugin):
    """Appends remembered samples to each mini-batch; remembered as stored (uint8 where the stream's are).

    The memory learns from an experience when its training ends, and only from its training data. `columns`: x (m, ...), y (m,),
    t (m,) task labels, key (m,), and whatever a subclass remembers beside them. For subclasses: `keep` chooses what stays,
    `draw` what is replayed; in a mini-batch the first `num_new` rows are new.
    """

    def __init__(self, memory: int, batch_size: int | None, seed: int, name: str) -> None:
        """`memory`: places; `batch_size`: remembered samples in a mini-batch, None: as many as new ones."""
        self.memory, self.batch_size, self.seed, self.name = memory, batch_size, seed, name
        self.columns: dict[str, Tensor] = {}
        self.num_new = 0
        self._x: Tensor | None = None  # the memory as the network takes it, during an experience

    def __len__(self) -> int:
        """Samples in memory."""
        return len(self.columns["y"]) if self.columns else 0

    def state_dict(self) -> dict[str, Any]:
        """The memory and its keys."""
        return dict(self.columns)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a memory."""
        self.columns, self._x = dict(state), None

    def keep(self, learner: Any, candidates: dict[str, Tensor]) -> Tensor:
        """Positions, rising, of the candidates (old ones first, columns as those of the memory) that stay."""
        return select_kept(candidates["key"], candidates["y"], self.memory, "class_balanced")

    def source(self, learner: Any) -> Any:
        """The dataset whose samples compete for places when the training of an experience has ended."""
        return learner.experience.dataset

    def draw(self, learner: Any) -> Tensor:
        """Positions (M,) in memory of the samples for this mini-batch; they depend on (seed, experience, iteration) alone."""
        return self.drawn(learner, self.batch_size or learner.train_mb_size)

    def drawn(self, learner: Any, size: int) -> Tensor:
        """Positions (min(size, m),) at random, without replacement."""
        where = (learner.experience.current_experience, learner.clock.train_exp_iterations)
        order = torch.randperm(len(self), generator=generator(self.seed, f"{self.name} draw", *where))
        return order[:size].to(learner.device)

    def inputs(self, learner: Any) -> Tensor:
        """The whole memory as the network takes it, (m, *shape) on the device; kept during an experience."""
        if self._x is None:
            self.columns = {name: tensor.to(learner.device) for name, tensor in self.columns.items()}
            self._x = to_inputs(learner)(self.columns["x"])
        return self._x

    def minibatch(self, learner: Any, index: Tensor) -> list[Tensor]:
        """Remembered samples as a mini-batch of their own: x (M, *shape), augmented as new ones are, y (M,), t (M,)."""
        x = augment_replayed(learner, self.inputs(learner)[index])
        return [x, self.columns["y"][index], self.columns["t"][index]]

    def before_training_iteration(self, learner: Any, **kwargs: Any) -> None:
        """Append the drawn samples."""
        self.num_new = len(learner.mbatch[1])
        if len(self):
            x, index = self.inputs(learner), self.draw(learner)
            remembered = (x, self.columns["y"], self.columns["t"])
            # a mini-batch without task labels has two parts
            learner.mbatch = [
                torch.cat([new, old[index]]) for new, old in zip(learner.mbatch, remembered, strict=False)
            ]

    def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """Let the experience's samples compete for places."""
        self._x = None
        if self.memory == 0:
            return
        draw = generator(self.seed, f"{self.name} keys", learner.experience.current_experience)
        new = {name: tensor.to(learner.device) for name, tensor in stored_samples(self.source(learner)).items()}
        new["key"] = torch.rand(len(new["y"]), generator=draw, dtype=torch.float64).to(learner.device)
        self.remember(learner, new)

    def remember(self, learner: Any, new: dict[str, Tensor]) -> None:
        """Put the old and the `new` (columns as the memory's) side by side and keep those that `keep` chooses."""
        old = {name: self.columns[name].to(learner.device) if self.columns else new[name][:0] for name in new}
        candidates = {name: torch.cat([old[name], new[name]]) for name in new}
        keep = self.keep(learner, candidates)
        self.columns = {name: column[keep] for name, column in candidates.items()}
        self._x = None


def stored_samples(dataset: Any) -> dict[str, Tensor]:
    """All samples of a training dataset, without augmentation: as stored where ours, else as the network takes them."""
    found = resident_samples(dataset)
    if found is not None:
        return {"x": found.x, "y": found.y, "t": found.t}
    x, y = plugin_api.dataset_samples(dataset.eval())
    labels = getattr(dataset, "targets_task_labels", None)
    return {"x": x, "y": y, "t": torch.zeros_like(y) if labels is None else torch.tensor(list(labels))}


def to_inputs(learner: Any) -> Callable[[Tensor], Tensor]:
    """What makes samples as `stored` gives them (m, ...) into what the network takes (m, *shape)."""
    found = resident_samples(learner.experience.dataset)
    return (lambda x: x) if found is None else found.stream.normalise


def augment_replayed(learner: Any, x: Tensor) -> Tensor:
    """Remembered samples (M, *shape) that are not in the mini-batch, augmented as that is, by random numbers of their own."""
    augment = getattr(learner, "augment", None)
    if augment is None:
        return x
    clock = learner.clock
    # a position that no mini-batch of new samples has
    position = (learner.experience.current_experience, clock.train_exp_epochs, -1 - clock.train_epoch_iterations)
    return augment(x, position)  # type: ignore[no-any-return]


def separate_logits(learner: Any, minibatch: list[Tensor]) -> Tensor:
    """Logits (M, K) of another mini-batch [x, y, t] in a pass of its own; of each sample's own task where that is given.

    To be called before the mini-batch's own pass (until `before_forward`), so that what others captured in that stays theirs.
    """
    own = learner.mbatch
    learner.mbatch = minibatch
    logits = plugin_api.mask_other_tasks(learner, learner.forward(), minibatch[2])
    learner.mbatch = own
    return logits
