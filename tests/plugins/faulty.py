"""A user's strategy that does something bad at an iteration, and notes from which iteration each of its processes started."""

import faulthandler
import os
import random
import signal
import time
from dataclasses import dataclass
from glob import glob
from pathlib import Path

import numpy
import torch

from retain import Plugin


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Halve the loss; at an iteration, do what `does` names.

    Attributes:
        notes: a file that gets a line at the start of each process; its neighbours .once, .waiting and .go are flags.
        does: a method of the plugin.
        at: the iteration, from 0.
        pause: seconds to sleep in each iteration, unless FAULTY_ALONE is set.
        checkpoints: a pattern of paths; `waits` begins at the first iteration from `at` on at which one exists.
    """

    notes: str
    does: str = "nothing"
    at: int = 60
    pause: float = 0.0
    checkpoints: str = ""


class Faulty(Plugin):
    """Halve the loss and cause the fault."""

    def __init__(self, config: Config) -> None:
        self.config, self.started = config, False

    def state_dict(self):
        return {}

    def before_backward(self, learner, **kwargs):
        learner.loss = learner.loss / 2
        now = learner.clock.train_iterations
        if not self.started:
            self.started = True
            with open(self.config.notes, "a") as file:
                file.write(f"{now}\n")
        if "FAULTY_ALONE" not in os.environ:
            time.sleep(self.config.pause)
        if now >= self.config.at:
            getattr(self, self.config.does)()

    def after_training_exp(self, learner, **kwargs):
        if self.config.does == "messes" and learner.experience.current_experience == 1:
            torch.set_default_dtype(torch.float64)
            torch.set_grad_enabled(False)
            torch.set_num_threads(2)
            torch.use_deterministic_algorithms(True)
            torch.nn.modules.module.register_module_forward_hook(lambda module, args, output: None)

    def flag(self, name: str) -> Path:
        return Path(f"{self.config.notes}.{name}")

    def once(self) -> bool:
        """Return True at the first call in any process."""
        if self.flag("once").exists():
            return False
        self.flag("once").touch()
        return True

    def nothing(self):
        pass

    def waits(self):
        """Create .waiting, and wait for .go, in the trial's first process."""
        if self.config.checkpoints and not self.flag("once").exists() and not glob(self.config.checkpoints):
            time.sleep(0.05)  # a checkpoint is written in a thread, and the next one is due after each iteration
        elif self.once():
            faulthandler.cancel_dump_traceback_later()  # the wait is no hang
            self.flag("waiting").touch()
            while not self.flag("go").exists():
                time.sleep(0.01)

    def holds(self):
        if self.once():
            sum(range(10**13))

    def dies(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def fills(self):
        bytearray(10**15)

    def allocates(self):
        torch.empty(10**15)

    def messes(self):
        if self.once():
            torch.set_num_threads(2)
        torch.manual_seed(5)
        random.seed(5)
        numpy.random.seed(5)


def build(config, seed):
    return Faulty(config)
