"""A user's strategy that asks for a stop before given iterations."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from retain import Plugin


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Stop before the iterations that a file names, once each.

    Attributes:
        flag: the file, which may be missing.
    """

    flag: str


class Stopper(Plugin):
    """Send SIGTERM to the trial's process."""

    def __init__(self, flag: str) -> None:
        self.flag = Path(flag)

    def state_dict(self):
        return {}

    def after_training_iteration(self, learner, **kwargs):
        left = self.flag.read_text().split() if self.flag.exists() else []
        now = str(learner.clock.train_iterations)
        if now in left:
            self.flag.write_text(" ".join(number for number in left if number != now))
            os.kill(os.getpid(), signal.SIGTERM)


def build(config, seed):
    return Stopper(config.flag)
