"""Measure the seconds of a trial's training and evaluation, without those of its probes."""

import time
from typing import Any


class Stopwatch:
    """Seconds of training and evaluation.

    Attributes:
        completed: seconds of the completed experiences, training and evaluation.
        training: seconds of training in the current experience, up to the last `split_training`.
    """

    def __init__(self) -> None:
        self.completed = self.training = 0.0
        self._training_since = self._epoch_since = self._evaluation_since = time.perf_counter()

    def start_training(self) -> None:
        """Start to measure an experience's training, or the rest of it, and its first epoch."""
        self._training_since = self._epoch_since = time.perf_counter()

    def split_training(self) -> None:
        """Add the seconds since the start, or since the last split, to `training`; continue to measure."""
        now = time.perf_counter()
        self.training, self._training_since = self.training + now - self._training_since, now

    def split_epoch(self) -> float:
        """Return the seconds since the last epoch ended, or since the training started; start the next epoch."""
        now = time.perf_counter()
        spent, self._epoch_since = now - self._epoch_since, now
        return spent

    def exclude(self, seconds: float) -> None:
        """Leave these seconds out of the training and of the epoch that are measured now."""
        self._training_since += seconds
        self._epoch_since += seconds

    def start_evaluation(self) -> None:
        """Start to measure an evaluation."""
        self._evaluation_since = time.perf_counter()

    def complete_experience(self) -> dict[str, float]:
        """End the evaluation and the experience; return its `train_seconds` and `evaluation_seconds`."""
        spent = {"train_seconds": self.training, "evaluation_seconds": time.perf_counter() - self._evaluation_since}
        self.completed += sum(spent.values())
        self.training = 0.0
        return spent

    def state_dict(self) -> dict[str, float]:
        """Return what a checkpoint stores."""
        return {"seconds": self.completed, "train_seconds": self.training}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; other keys are ignored."""
        self.completed, self.training = state["seconds"], state["train_seconds"]
