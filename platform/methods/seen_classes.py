"""The classes that a strategy has seen, by experience."""

from typing import Any

from ..training.learner_view import LearnerView
from ..training.plugin import C, Plugin


class SeenClasses:
    """The classes (output indices) that each trained experience added; `groups` is the state.

    The head may grow with the classes or have all of them from the start.
    """

    MERGED = True  # its entries are stored next to those of its plugin

    def __init__(self) -> None:
        self.groups: list[list[int]] = []

    @property
    def all(self) -> list[int]:
        """Return all seen classes, in the order of their experiences."""
        return [label for group in self.groups for label in group]

    def new_classes(self, learner: LearnerView) -> list[int]:
        """Return this experience's classes that no experience before had."""
        return sorted(set(learner.experience.classes_in_this_experience) - set(self.all))

    def absent_classes(self, learner: LearnerView) -> list[int]:
        """Return the seen classes that this experience lacks, and which can only be forgotten."""
        return sorted(set(self.all) - set(learner.experience.classes_in_this_experience))

    def add(self, learner: LearnerView) -> None:
        """Add this experience's classes, after its training."""
        self.groups = [*self.groups, self.new_classes(learner)]

    def state_dict(self) -> dict[str, Any]:
        """Return the groups."""
        return {"met": self.groups}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the groups."""
        self.groups = state["met"]


class SeenClassesPlugin(Plugin[C]):
    """Base of plugins with no state but the seen classes, `seen`."""

    STATE = ("seen",)

    def init_state(self) -> None:
        """Set the initial state."""
        self.seen = SeenClasses()
