"""A strategy that stops the process, once, before an iteration; `retain check` and the tests add it to a trial."""

import os
import signal
from pathlib import Path
from typing import Any

from ..config.settings import settings
from ..training.learner_view import LearnerView
from ..training.plugin import Plugin

NEUTRAL = None
NEUTRAL_REASON = "it only stops the process"


@settings
class Config:
    """Stop before the iteration that a file names.

    flag: path of the file. It holds how to stop (TERM, INT or KILL, a signal; else an exception) and the iteration, from 0, e.g.
        "TERM 17". It is deleted before the stop. Without the file, nothing happens.
    """

    flag: str


class Stopper(Plugin[Config]):
    """Sends a signal to its own process, or raises KeyboardInterrupt."""

    STATE = ()
    capturable = True

    def before_training_iteration(self, learner: LearnerView, **kwargs: Any) -> None:
        """Stop if this is the iteration."""
        flag = Path(self.config.flag)
        if not flag.exists():
            return
        how, iteration = flag.read_text(encoding="utf-8").split()
        if int(iteration) != learner.clock.train_iterations:
            return
        flag.unlink()
        if how in ("KILL", "TERM", "INT"):
            os.kill(
                os.getpid(), signal.Signals[f"SIG{how}"]
            )  # after TERM and INT, the trial stops before the next iteration
            return
        raise KeyboardInterrupt
