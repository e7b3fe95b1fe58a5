"""Which classes have been met, a balanced memory whose samples stand for their classes, and the means of those.

Shapes: n samples of an experience, m in memory, D features, C classes.
"""

from typing import Any

from torch import Tensor

from .dataset_features import dataset_features
from .herding import herding_ranks
from .replay_memory import MemoryPlugin, kept, quotas
from .seen_classes import ClassesMet
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
