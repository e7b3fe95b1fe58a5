"""Stop at a budget: end an experience when its training accuracy or loss is good enough, or its time is over; no validation data.

    stop after the first epoch with   accuracy >= `accuracy`   or   loss <= `loss`   (means over the epoch's mini-batches)
    stop after the first iteration at which training has taken `seconds`

Both means are training metrics: each mini-batch is scored before its update, including the samples of a memory and the terms that
other strategies add to the loss. Iterations and epochs are settings of training (``training.iterations``, ``training.epochs``, a
list for one value per experience). With `seconds` results depend on the machine and its load: the same seed no longer gives the
same bits. An experience that is resumed gets the remaining time. The weights stay as they are; `early_stopping` keeps the best.
Shapes: B mini-batch, C classes.

Source: fewer updates forget less (Goodfellow et al. 2014, 1312.6211, choose when to stop by the new task); the budgets are
those of training frameworks. Peers: Lightning's `max_time` and `stopping_threshold`; FACIL and Mammoth have iterations only.
"""

import time
from collections.abc import Sequence
from typing import Annotated

from torch import Tensor

from ..platform.config.settings import Finite, Interval, PositiveFloat, settings
from ..platform.training import plugin_api
from ..platform.training.plugin import LearnerView, Plugin

NEUTRAL = {"accuracy": None, "loss": None, "seconds": None}


@settings
class Config:
    """End an experience when its training accuracy or loss reaches a target, or its time is over.

    accuracy: target mean accuracy of an epoch's mini-batches, in (0, 1]; null: no target.
    loss: target mean loss of an epoch's mini-batches, including the terms of other strategies; null: no target.
    seconds: training time per experience; null: no limit. With a limit, results depend on the machine.
    """

    accuracy: Annotated[float, Interval(gt=0, le=1)] | None = 0.98
    loss: Annotated[float, Finite] | None = None
    seconds: PositiveFloat | None = None


def check_training(config: Config, epochs: Sequence[int]) -> dict[str, str]:
    """Return targets that are looked at only when training has ended; `epochs`: those of each experience trained on."""
    reason = "is looked at after each epoch, and every experience has one: training would never stop early"
    targets = [name for name in ("accuracy", "loss") if max(epochs) < 2 and getattr(config, name) is not None]
    return dict.fromkeys(targets, f"{reason}. Raise training.epochs, or set it to null")


def reached(config: Config, accuracy: float, loss: float) -> str:
    """Return in words which target an epoch with this accuracy and loss has reached; empty for none."""
    if config.accuracy is not None and accuracy >= config.accuracy:
        return f"training accuracy {accuracy:.4f}"
    if config.loss is not None and loss <= config.loss:
        return f"training loss {loss:.4f}"
    return ""


class StopAtBudgetPlugin(Plugin[Config]):
    """Sums up hits and losses of the epoch; with a limit, checks the clock after each iteration."""

    STATE = ("hits", "losses", "counts", "spent")

    def init_state(self) -> None:
        """Set the initial state."""
        self.spent = 0.0  # seconds of this experience, up to the clock's time `_since`
        self._stopped = ""  # when and why, once it has stopped the experience
        self._reset_sums()

    def _reset_sums(self) -> None:
        self.hits: Tensor | float = 0.0
        self.losses: Tensor | float = 0.0
        self.counts = (0, 0)  # samples, iterations

    def on_start(self, learner: LearnerView) -> None:
        """Start the clock."""
        self._since = time.perf_counter()

    def before_training_exp(self, learner: LearnerView, **kwargs: object) -> None:
        """Allow the experience all of the time."""
        self.spent = 0.0
        self.on_start(learner)

    def before_training_epoch(self, learner: LearnerView, **kwargs: object) -> None:
        """Reset the sums."""
        self._reset_sums()

    def after_backward(self, learner: LearnerView, **kwargs: object) -> None:
        """Add to the sums, on the device; the loss has all of its terms now."""
        if self.config.accuracy is None and self.config.loss is None:
            return
        # sums stay on the device: no synchronisation with a GPU here
        output = plugin_api.mask_other_tasks(learner, learner.mb_output, learner.mbatch[-1])
        self.hits = self.hits + (output.argmax(1) == learner.mb_y).sum()
        self.losses = self.losses + learner.loss.detach().double()
        samples, iterations = self.counts
        self.counts = (samples + len(output), iterations + 1)

    def after_training_iteration(self, learner: LearnerView, **kwargs: object) -> None:
        """Stop when the time is over."""
        if self.config.seconds is None:
            return
        now = time.perf_counter()
        self.spent += now - self._since
        self._since = now
        if self.spent >= self.config.seconds:
            self._stop(learner, f"after {self.config.seconds:g} seconds")

    def after_training_epoch(self, learner: LearnerView, **kwargs: object) -> None:
        """Stop when a target is reached."""
        samples, iterations = self.counts
        if not samples:
            return
        target = reached(self.config, float(self.hits) / samples, float(self.losses) / iterations)
        if target:
            self._stop(learner, f"after epoch {learner.clock.train_exp_epochs + 1}: {target}")

    def _stop(self, learner: LearnerView, when: str) -> None:
        learner.stop_training()
        self._stopped = self._stopped or when

    def after_training_exp(self, learner: LearnerView, **kwargs: object) -> None:
        """Reset the sums and the stop; note a stop that came before the last iteration."""
        if self._stopped and learner.clock.train_exp_iterations < getattr(learner, "num_iterations", 0):
            plugin_api.note(learner, f"stop_at_budget: stopped {self._stopped}")
        self._stopped = ""
        self._reset_sums()
        plugin_api.undo_stop(learner)
