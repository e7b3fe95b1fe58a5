"""A user's strategy that calls a function of the test, adds a NaN, sleeps or hangs."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from glob import glob
from typing import Any

from retain import Plugin

CALL: list[Callable[[Any], None]] = []


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Do something before each backward pass.

    Attributes:
        what: call (the function in CALL), nan, slow, sleep or hold.
        at: the iteration of it, from 0.
        checkpoints: a pattern of paths; sleep and hold begin at the first iteration from `at` on at which one exists.
    """

    what: str = "call"
    at: int = 0
    checkpoints: str = ""


class Acting(Plugin):
    """Do what the settings name."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def state_dict(self):
        return {}

    def before_backward(self, learner, **kwargs):
        done = learner.clock.train_iterations
        if self.config.what == "call":
            CALL[0](learner)
        elif self.config.what == "nan" and done >= self.config.at:
            learner.loss = learner.loss * float("nan")
        elif self.config.what == "slow":
            time.sleep(0.05)
        elif done >= self.config.at and glob(self.config.checkpoints):
            if self.config.what == "sleep":
                time.sleep(1e6)
            sum(range(10**13))  # never lets another thread of Python run


def build(config, seed):
    return Acting(config)
