"""Which classes a strategy has seen, experience by experience."""

from typing import Any

from ..training.plugin import Plugin


class SeenClasses:
    """The classes (numbers of outputs) that each experience trained on brought new; `groups` is its state.

    A head may grow with the classes or have all of them from the start.
    """

    def __init__(self) -> None:
        self.groups: list[list[int]] = []

    @property
    def all(self) -> list[int]:
        """All of them, in the order of their experiences."""
        return [label for group in self.groups for label in group]

    def new_classes(self, learner: Any) -> list[int]:
        """Those of the present experience that none before it had."""
        return sorted(set(learner.experience.classes_in_this_experience) - set(self.all))

    def absent_classes(self, learner: Any) -> list[int]:
        """Those met before that the present experience does not have: what can only be forgotten."""
        return sorted(set(self.all) - set(learner.experience.classes_in_this_experience))

    def add(self, learner: Any) -> None:
        """The training of the present experience has ended."""
        self.groups = [*self.groups, self.new_classes(learner)]


class SeenClassesPlugin(Plugin):
    """Base of what keeps nothing but the classes met, `seen`."""

    def __init__(self) -> None:
        self.seen = SeenClasses()

    def state_dict(self) -> dict[str, Any]:
        """The classes met."""
        return {"met": self.seen.groups}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them over."""
        self.seen.groups = state["met"]
