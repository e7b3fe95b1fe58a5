"""A balanced memory filled by herding, and the base of methods with such a memory and a teacher.

Shapes: n samples of an experience, m in memory, M remembered in a mini-batch.
"""

from typing import Any

from torch import Tensor

from .dataset_features import dataset_features
from .herding import herding_ranks
from .replay_memory import MemoryPlugin, quotas, select_kept
from .seen_classes import SeenClasses
from .teacher import Teacher


class HerdedMemory(MemoryPlugin):
    """A memory with as many samples of each class, in herding order; a class that shrinks loses its last samples.

    With `per_class`, `memory` counts the samples of each class instead of all. With `batch_size` None, a mini-batch gets as
    many remembered samples as if the memory were shuffled into the new data. If a class comes again (in another domain), the
    first samples of each of its experiences stay.
    """

    def __init__(self, memory: int, batch_size: int | None, seed: int, name: str, per_class: bool = False) -> None:
        super().__init__(memory, batch_size, seed, name)
        self.per_class, self._shares = per_class, batch_size is None

    def places(self, num_classes: int) -> int:
        """Return how many samples are remembered in all for `num_classes` classes."""
        return self.memory * num_classes if self.per_class else self.memory

    def draw(self, learner: Any) -> Tensor:
        """Return positions (M,) in memory for this mini-batch."""
        if self._shares:
            share = len(self) / len(learner.adapted_dataset)
            self.batch_size = max(1, round(learner.train_mb_size * share))
        return super().draw(learner)

    def keep(self, learner: Any, candidates: dict[str, Tensor]) -> Tensor:
        """Return the positions of the first samples of each class; a sample's key is its herding rank."""
        y = candidates["y"]
        return select_kept(candidates["key"], y, self.places(len(y.unique())), "class_balanced")

    def remember(self, learner: Any, new: dict[str, Tensor]) -> None:
        """Rank the new samples by herding before they compete for the memory."""
        known = {*new["y"].tolist(), *(self.columns["y"].tolist() if self.columns else ())}
        size = quotas(self.places(len(known)), len(known))[0]
        features = dataset_features(learner, learner.experience.dataset)
        super().remember(learner, new | {"key": herding_ranks(features, new["y"], size)})


class DistilledMemory(HerdedMemory):
    """Base of methods with a herded memory and a teacher, which is the network as it was before the experience.

    For subclasses: `teacher` exists while an experience is trained for which `has_teacher` returned true. `seen` holds the
    classes of earlier experiences.
    """

    def __init__(self, memory: int, batch_size: int | None, seed: int, name: str, per_class: bool = False) -> None:
        super().__init__(memory, batch_size, seed, name, per_class)
        self.seen, self.teacher = SeenClasses(), Teacher()

    def has_teacher(self, learner: Any) -> bool:
        """Return whether this experience has a teacher: by default if it lacks classes that were seen before."""
        return bool(self.seen.absent_classes(learner))

    def state_dict(self) -> dict[str, Any]:
        """Return the memory, the classes seen and, mid-experience, the teacher's tensors."""
        return {"memory": super().state_dict(), "met": self.seen.groups} | self.teacher.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state; `on_resume` rebuilds the teacher."""
        super().load_state_dict(state["memory"])
        self.seen.groups = state["met"]
        self.teacher.load_state_dict(state)

    def on_resume(self, learner: Any) -> None:
        """Rebuild the teacher from its tensors."""
        self.teacher.on_resume(learner)

    def before_train_dataset_adaptation(self, learner: Any, **kwargs: Any) -> None:
        """Copy the network as the teacher, before it sees the new experience."""
        if self.has_teacher(learner):
            self.teacher.take(learner.model)

    def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """Update the memory, call `finish`, then drop the teacher."""
        super().after_training_exp(learner)
        self.finish(learner)
        self.teacher.drop()
        self.seen.add(learner)

    def finish(self, learner: Any) -> None:
        """Use the new memory while the teacher still exists; subclasses may override it."""
