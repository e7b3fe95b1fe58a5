"""Base of methods that replay a balanced memory, filled by herding, and have a teacher.

Shapes: M remembered samples in a mini-batch.
"""

from functools import partial
from typing import Any, ClassVar, TypeVar

from ..training.learner_view import LearnerView
from ..training.plugin import Plugin, strategy_name
from .dataset_features import dataset_features
from .herding import herding_ranks
from .replay_memory import MemorySettings, ReplayMemory, keep_balanced, quotas
from .seen_classes import SeenClasses
from .teacher import Teacher

M = TypeVar("M", bound=MemorySettings)


class DistilledReplay(Plugin[M]):
    """Appends samples from a herded memory to each mini-batch; the teacher is the network as it was before the experience.

    The memory has as many samples of each class, in herding order; a class that shrinks loses its last samples. If a class comes
    again (in another domain), the first samples of each of its experiences stay. With `batch_size` None, a mini-batch gets as
    many remembered samples as if the memory were shuffled into the new data.

    For subclasses: `teacher` exists while an experience is trained for which `has_teacher` returned true. `seen` holds the
    classes of earlier experiences.
    """

    STATE: ClassVar[tuple[str, ...]] = ("memory", "seen", "teacher")

    def init_state(self) -> None:
        """Set the initial state."""
        self.memory = ReplayMemory(self.seed, strategy_name(self), key="memory")
        self.seen, self.teacher = SeenClasses(), Teacher()

    def capacity(self, num_classes: int) -> int:
        """Return how many samples are remembered in all for `num_classes` classes."""
        return self.config.memory

    def has_teacher(self, learner: LearnerView) -> bool:
        """Return whether this experience has a teacher: by default if it lacks classes that were seen before."""
        return bool(self.seen.absent_classes(learner))

    def finish(self, learner: LearnerView) -> None:
        """Use the new memory while the teacher still exists; subclasses may override it."""

    def num_appended(self, num_trained: int) -> int:
        """Return 1 as soon as there is a memory."""
        return int(num_trained > 0 and self.capacity(1) > 0)

    def before_train_dataset_adaptation(self, learner: LearnerView, **kwargs: Any) -> None:
        """Copy the network as the teacher, before it sees the new experience."""
        if self.has_teacher(learner):
            self.teacher.take(learner.model)

    def before_training_iteration(self, learner: LearnerView, **kwargs: Any) -> None:
        """Append remembered samples."""
        if len(self.memory):
            share = len(self.memory) / len(learner.adapted_dataset)
            size = self.config.batch_size or max(1, round(learner.train_mb_size * share))
            self.memory.append(learner, self.memory.sample(learner, size))

    def after_training_exp(self, learner: LearnerView, **kwargs: Any) -> None:
        """Update the memory, call `finish`, then drop the teacher."""
        if self.capacity(1) > 0:
            self._remember(learner)
        self.finish(learner)
        self.teacher.drop()
        self.seen.add(learner)

    def _remember(self, learner: LearnerView) -> None:
        """Rank the experience's samples by herding, and let them compete for the memory."""
        dataset = learner.experience.dataset
        new = self.memory.new_samples(learner, dataset)
        labels = {*new["y"].tolist(), *(self.memory.columns["y"].tolist() if self.memory.columns else ())}
        capacity = self.capacity(len(labels))
        features = dataset_features(learner, dataset)
        new["key"] = herding_ranks(features, new["y"], quotas(capacity, len(labels))[0])
        self.memory.update(new, partial(keep_balanced, memory=capacity))
