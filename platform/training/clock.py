"""Count iterations, epochs and experiences, under Avalanche's names."""

from typing import Any


class Clock:
    """Counters of a training, with the attributes of Avalanche's clock.

    It is the last plugin: the hooks of the others see the counters as they were before the event.

    Attributes:
        train_iterations: iterations of training so far.
        train_exp_counter: experiences whose training has ended.
        train_exp_epochs: epochs of the current experience that have ended.
        train_exp_iterations: iterations of the current experience.
        train_epoch_iterations: iterations of the current epoch.
        total_iterations: iterations of training and evaluation.
    """

    def __init__(self) -> None:
        self.train_iterations = 0
        self.train_exp_counter = 0
        self.train_exp_epochs = 0
        self.train_exp_iterations = 0
        self.train_epoch_iterations = 0
        self.total_iterations = 0

    def before_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """Start to count the epochs and iterations of an experience."""
        self.train_exp_epochs = self.train_exp_iterations = 0

    def before_training_epoch(self, learner: Any, **kwargs: Any) -> None:
        """Start to count the iterations of an epoch."""
        self.train_epoch_iterations = 0

    def after_training_iteration(self, learner: Any, **kwargs: Any) -> None:
        """Count an iteration of training."""
        self.train_epoch_iterations += 1
        self.train_exp_iterations += 1
        self.train_iterations += 1
        self.total_iterations += 1

    def after_training_epoch(self, learner: Any, **kwargs: Any) -> None:
        """Count an epoch."""
        self.train_exp_epochs += 1

    def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """Count an experience."""
        self.train_exp_counter += 1

    def after_eval_iteration(self, learner: Any, **kwargs: Any) -> None:
        """Count an iteration of evaluation."""
        self.total_iterations += 1
