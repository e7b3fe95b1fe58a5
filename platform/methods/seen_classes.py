"""The classes that a strategy has seen, by experience."""

from typing import Any

from ..training.plugin import Plugin


class SeenClasses:
    """The classes (output indices) that each trained experience added; `groups` is the state.

    The head may grow with the classes or have all of them from the start.
    """

    def __init__(self) -> None:
        self.groups: list[list[int]] = []

    @property
    def all(self) -> list[int]:
        """Return all seen classes, in the order of their experiences."""
        return [label for group in self.groups for label in group]

    def new_classes(self, learner: Any) -> list[int]:
        """Return this experience's classes that no experience before had."""
        return sorted(set(learner.experience.classes_in_this_experience) - set(self.all))

    def absent_classes(self, learner: Any) -> list[int]:
        """Return the seen classes that this experience lacks, and which can only be forgotten."""
        return sorted(set(self.all) - set(learner.experience.classes_in_this_experience))

    def add(self, learner: Any) -> None:
        """Add this experience's classes, after its training."""
        self.groups = [*self.groups, self.new_classes(learner)]


class SeenClassesPlugin(Plugin):
    """Base of plugins with no state but the seen classes, `seen`."""

    def __init__(self) -> None:
        self.seen = SeenClasses()

    def state_dict(self) -> dict[str, Any]:
        """Return the seen classes."""
        return {"met": self.seen.groups}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the seen classes."""
        self.seen.groups = state["met"]
