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

import math
import time
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..platform.training import plugin_api
from ..platform.training.plugin import Plugin

NEUTRAL: dict[str, Any] | None = {"accuracy": None}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """End an experience when its training accuracy or loss reaches a target, or its time is over.

    accuracy: target mean accuracy of an epoch's mini-batches, in (0, 1]; null: no target.
    loss: target mean loss of an epoch's mini-batches, including the terms of other strategies; null: no target.
    seconds: training time per experience; null: no limit. With a limit, results depend on the machine.
    """

    accuracy: float | None = 0.98
    loss: float | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        accuracy, loss, seconds = self.accuracy, self.loss, self.seconds
        if accuracy is not None and not 0 < accuracy <= 1:
            raise ValueError(f"{accuracy=}: must be in (0, 1], or null")
        if loss is not None and not math.isfinite(loss):
            raise ValueError(f"{loss=}: must be finite, or null")
        if seconds is not None and not 0 < seconds < math.inf:
            raise ValueError(f"{seconds=}: must be > 0 and finite, or null")


def reached(config: Config, accuracy: float, loss: float) -> str:
    """Return in words which target an epoch with this accuracy and loss has reached; empty for none."""
    if config.accuracy is not None and accuracy >= config.accuracy:
        return f"training accuracy {accuracy:.4f}"
    if config.loss is not None and loss <= config.loss:
        return f"training loss {loss:.4f}"
    return ""


class StopAtBudgetPlugin(Plugin):
    """Sums up hits and losses of the epoch; with a limit, checks the clock after each iteration."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._spent, self._since = 0.0, 0.0  # seconds of this experience up to `_since`
        self._reset()

    def _reset(self) -> None:
        self._hits: Tensor | float = 0.0
        self._losses: Tensor | float = 0.0
        self._rows = self._iterations = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch's sums and, with a limit, the seconds spent on the experience."""
        spent = 0.0 if self.config.seconds is None else self._spent + time.perf_counter() - self._since
        return {
            "hits": float(self._hits),
            "losses": float(self._losses),
            "counts": [self._rows, self._iterations],
            "spent": spent,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the sums and the seconds."""
        self._hits, self._losses = state["hits"], state["losses"]
        (self._rows, self._iterations), self._spent = state["counts"], state["spent"]

    def on_resume(self, learner: Any) -> None:
        """Restart the clock."""
        self._since = time.perf_counter()

    def before_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self._spent, self._since = 0.0, time.perf_counter()

    def before_training_epoch(self, learner: Any, **kwargs: Any) -> None:
        """Reset the sums."""
        self._reset()

    def after_backward(self, learner: Any, **kwargs: Any) -> None:
        """Add to the sums, on the device; the loss has all of its terms now."""
        if self.config.accuracy is None and self.config.loss is None:
            return
        output = learner.mb_output  # sums stay on the device: no synchronisation with a GPU here
        if hasattr(learner, "mask_other_tasks"):
            output = learner.mask_other_tasks(output, learner.mb_task_id)
        self._hits = self._hits + (output.argmax(1) == learner.mb_y).sum()
        self._losses = self._losses + learner.loss.detach().double()
        self._rows, self._iterations = self._rows + len(output), self._iterations + 1

    def after_training_iteration(self, learner: Any, **kwargs: Any) -> None:
        """Stop when the time is over."""
        seconds = self.config.seconds
        if seconds is not None and self._spent + time.perf_counter() - self._since >= seconds:
            learner.stop_training()
            plugin_api.note(learner, f"stop_at_budget: stopped after {seconds:g} seconds")

    def after_training_epoch(self, learner: Any, **kwargs: Any) -> None:
        """Stop when a target is reached."""
        if self._rows:
            words = reached(self.config, float(self._hits) / self._rows, float(self._losses) / self._iterations)
            if words:
                learner.stop_training()
                plugin_api.note(
                    learner, f"stop_at_budget: stopped after epoch {learner.clock.train_exp_epochs + 1}: {words}"
                )

    def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """Reset the sums and the stop, so that a stop at the very last iteration does not reach into the next experience.

        Avalanche would keep it.
        """
        self._reset()
        learner._stop_training = False


def build(config: Config, seed: int) -> StopAtBudgetPlugin:
    """Return the plugin; it uses no random numbers."""
    return StopAtBudgetPlugin(config)
