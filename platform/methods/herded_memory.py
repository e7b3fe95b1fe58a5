"""Which classes have been met, a balanced memory whose samples stand for their classes, and the means of those.

Shapes: n samples of an experience, m in memory, D features, C classes.
"""

from typing import Any

from torch import Tensor

from .dataset_features import dataset_features
from .herding import herding_ranks
from .replay_memory import MemoryPlugin, quotas, select_kept
from .seen_classes import SeenClasses
from .teacher import Teacher


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

    def draw(self, learner: Any) -> Tensor:
        """Positions (M,) in memory for this mini-batch."""
        if self._shares:
            share = len(self) / len(learner.adapted_dataset)
            self.batch_size = max(1, round(learner.train_mb_size * share))
        return super().draw(learner)

    def keep(self, learner: Any, candidates: dict[str, Tensor]) -> Tensor:
        """The first of each class; the key of a sample is its place in the order."""
        y = candidates["y"]
        return select_kept(candidates["key"], y, self.places(len(y.unique())), "class_balanced")

    def remember(self, learner: Any, new: dict[str, Tensor]) -> None:
        """Put the new samples in order before they compete."""
        known = {*new["y"].tolist(), *(self.columns["y"].tolist() if self.columns else ())}
        size = quotas(self.places(len(known)), len(known))[0]
        features = dataset_features(learner, learner.experience.dataset)
        super().remember(learner, new | {"key": herding_ranks(features, new["y"], size)})


class DistilledMemory(HerdedMemory):
    """The base of methods with a herded memory and a teacher, the network as the experience found it.

    For subclasses: `teacher` is there while an experience is trained for which `has_teacher` said so; `seen`: the classes of the
    experiences before it.
    """

    def __init__(self, memory: int, batch_size: int | None, seed: int, name: str, per_class: bool = False) -> None:
        super().__init__(memory, batch_size, seed, name, per_class)
        self.seen, self.teacher = SeenClasses(), Teacher()

    def has_teacher(self, learner: Any) -> bool:
        """Whether the present experience has one: by default where there are classes that it can only forget."""
        return bool(self.seen.absent_classes(learner))

    def state_dict(self) -> dict[str, Any]:
        """The memory, the classes met and, inside an experience, the teacher's tensors."""
        return {"memory": super().state_dict(), "met": self.seen.groups} | self.teacher.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The teacher itself is made in `on_resume`."""
        super().load_state_dict(state["memory"])
        self.seen.groups = state["met"]
        self.teacher.load_state_dict(state)

    def on_resume(self, learner: Any) -> None:
        """Make the teacher from its tensors."""
        self.teacher.on_resume(learner)

    def before_train_dataset_adaptation(self, learner: Any, **kwargs: Any) -> None:
        """The network has not met the new experience yet: it becomes the teacher."""
        if self.has_teacher(learner):
            self.teacher.take(learner.model)

    def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """The experience's samples compete for places; then the teacher has done its work."""
        super().after_training_exp(learner)
        self.finish(learner)
        self.teacher.drop()
        self.seen.add(learner)

    def finish(self, learner: Any) -> None:
        """What is to be done with the new memory while the teacher is still there."""
