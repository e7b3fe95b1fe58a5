"""A strategy with an evaluation hook that does nothing: with it, Avalanche's evaluation loop runs instead of the single pass."""

from typing import Any

from ..config.settings import settings
from ..training.learner_view import LearnerView
from ..training.plugin import Plugin

NEUTRAL: dict[str, Any] = {}


@settings
class Config:
    """Have an evaluation hook. There are no settings."""


class Watcher(Plugin[Config]):
    """Has an evaluation hook."""

    STATE = ()

    def after_eval_forward(self, learner: LearnerView, **kwargs: Any) -> None:
        """Do nothing."""
