"""Which classes have been met, a balanced memory whose samples stand for their classes, and the means of those.

Shapes: n samples of an experience, m in memory, D features, C classes.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..config import registry
from ..errors import UserError
from ..models.activation_capture import features_of
from ..training.evaluation import evaluating
from ..training.plugin import Plugin
from .replay_memory import MemoryPlugin, kept, quotas
from .sample_selection import herding
from .teacher import Teacher


class ClassesMet:
    """The classes (numbers of outputs) that each experience trained on brought new; `groups` is its state.

    A head may grow with the classes or have all of them from the start.
    """

    def __init__(self) -> None:
        self.groups: list[list[int]] = []

    @property
    def all(self) -> list[int]:
        """All of them, in the order of their experiences."""
        return [label for group in self.groups for label in group]

    def new(self, strategy: Any) -> list[int]:
        """Those of the present experience that none before it had."""
        return sorted(set(strategy.experience.classes_in_this_experience) - set(self.all))

    def gone(self, strategy: Any) -> list[int]:
        """Those met before that the present experience does not have: what can only be forgotten."""
        return sorted(set(self.all) - set(strategy.experience.classes_in_this_experience))

    def add(self, strategy: Any) -> None:
        """The training of the present experience has ended."""
        self.groups = [*self.groups, self.new(strategy)]


class ClassesMetPlugin(Plugin):
    """Base of what keeps nothing but the classes met, `met`."""

    def __init__(self) -> None:
        self.met = ClassesMet()

    def state_dict(self) -> dict[str, Any]:
        """The classes met."""
        return {"met": self.met.groups}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them over."""
        self.met.groups = state["met"]


def dataset_features(strategy: Any, dataset: Any) -> Tensor:
    """Features (n, D) float32 of a dataset's samples, in its order, by the present network in evaluation mode."""
    batches = registry.batches(dataset.eval(), strategy.eval_mb_size)
    return batched_features(strategy.model, (x.to(strategy.device) for x, _ in batches))


def batched_features(model: nn.Module, batches: Iterable[Tensor]) -> Tensor:
    """Features (n, D) float32 of batches (B, *shape) in evaluation mode."""
    with evaluating(model):
        return torch.cat([features_of(model, x).flatten(1).float() for x in batches])


def herding_ranks(features: Tensor, y: Tensor, size: int) -> Tensor:
    """The place (n,) float64 of each sample in the herding order of its class, from 0; infinite after the first `size`.

    The features (n, D) are scaled to length 1, as in iCaRL.
    """
    ranks = torch.full((len(y),), torch.inf, dtype=torch.float64, device=y.device)
    features = nn.functional.normalize(features, dim=1)
    for label in y.unique():
        positions = (y == label).nonzero().flatten()
        order = herding(features[positions], size)
        ranks[positions[order]] = torch.arange(len(order), dtype=torch.float64, device=y.device)
    return ranks


def class_means(features: Tensor, y: Tensor) -> Tensor:
    """Means (C, D), of length 1, of the features (m, D), scaled to length 1 too, of each class in y (m,), by rising label."""
    features = nn.functional.normalize(features, dim=1)
    return nn.functional.normalize(torch.stack([features[y == label].mean(0) for label in y.unique()]), dim=1)


def nearness(features: Tensor, means: Tensor) -> Tensor:
    """Minus the squared distances (B, C) of features (B, D), scaled to length 1, to means (C, D)."""
    return -torch.cdist(nn.functional.normalize(features, dim=1), means).square()


class HerdedMemory(MemoryPlugin):
    """A memory with as many places for each class, filled in the order of herding; a class that shrinks loses its last.

    `per_class`: whether `memory` is that of each class rather than of all. `batch_size` None: as many as if the memory were
    shuffled into the new data. Of a class that comes again (in another domain) the first of each experience stay.
    """

    def __init__(self, memory: int, batch_size: int | None, seed: int, name: str, per_class: bool = False) -> None:
        super().__init__(memory, batch_size, seed, name)
        self.per_class, self._shares = per_class, batch_size is None

    def places(self, num_classes: int) -> int:
        """How many samples of that many classes are remembered in all."""
        return self.memory * num_classes if self.per_class else self.memory

    def draw(self, strategy: Any) -> Tensor:
        """Positions (M,) in memory for this mini-batch."""
        if self._shares:
            share = len(self) / len(strategy.adapted_dataset)
            self.batch_size = max(1, round(strategy.train_mb_size * share))
        return super().draw(strategy)

    def keep(self, strategy: Any, candidates: dict[str, Tensor]) -> Tensor:
        """The first of each class; the key of a sample is its place in the order."""
        y = candidates["y"]
        return kept(candidates["key"], y, self.places(len(y.unique())), "class_balanced")

    def remember(self, strategy: Any, new: dict[str, Tensor]) -> None:
        """Put the new samples in order before they compete."""
        known = {*new["y"].tolist(), *(self.columns["y"].tolist() if self.columns else ())}
        size = quotas(self.places(len(known)), len(known))[0]
        features = dataset_features(strategy, strategy.experience.dataset)
        super().remember(strategy, new | {"key": herding_ranks(features, new["y"], size)})


class DistilledMemory(HerdedMemory):
    """The base of methods with a herded memory and a teacher, the network as the experience found it.

    For subclasses: `teacher` is there while an experience is trained for which `has_teacher` said so; `met`: the classes of the
    experiences before it.
    """

    def __init__(self, memory: int, batch_size: int | None, seed: int, name: str, per_class: bool = False) -> None:
        super().__init__(memory, batch_size, seed, name, per_class)
        self.met, self.teacher = ClassesMet(), Teacher()

    def has_teacher(self, strategy: Any) -> bool:
        """Whether the present experience has one: by default where there are classes that it can only forget."""
        return bool(self.met.gone(strategy))

    def state_dict(self) -> dict[str, Any]:
        """The memory, the classes met and, inside an experience, the teacher's tensors."""
        return {"memory": super().state_dict(), "met": self.met.groups} | self.teacher.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The teacher itself is made in `on_resume`."""
        super().load_state_dict(state["memory"])
        self.met.groups = state["met"]
        self.teacher.load_state_dict(state)

    def on_resume(self, strategy: Any) -> None:
        """Make the teacher from its tensors."""
        self.teacher.on_resume(strategy)

    def before_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        """The network has not met the new experience yet: it becomes the teacher."""
        if self.has_teacher(strategy):
            self.teacher.take(strategy.model)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """The experience's samples compete for places; then the teacher has done its work."""
        super().after_training_exp(strategy)
        self.finish(strategy)
        self.teacher.drop()
        self.met.add(strategy)

    def finish(self, strategy: Any) -> None:
        """What is to be done with the new memory while the teacher is still there."""


class HeldOut(MemoryPlugin):
    """A balanced memory of validation samples: what is never trained on and still stands for all classes so far."""

    def __init__(self, memory: int, seed: int, strategy: str) -> None:
        super().__init__(memory, None, seed, f"{strategy} held out")
        self.strategy = strategy

    def source(self, strategy: Any) -> Any:
        """The experience's validation split; UserError where there is none."""
        found = registry.validation(strategy.experience)
        if found is None:
            raise UserError(
                f"strategies.{self.strategy}: needs validation data, and has none: set the benchmark's `validation` above 0"
            )
        return found
