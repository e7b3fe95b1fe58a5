"""Stop an experience when an older one loses too much accuracy, measured on *old* validation samples.

    stop at the first check with   max_e (a_e(start) - a_e(now)) > tolerance     over the older experiences e
    then restore the check before it with the highest mean of a_e over all experiences so far, this one included

a_e is the accuracy on the validation split of experience e, over all outputs of the head or, where the task is given, over the
outputs of that task. `start` is the beginning of this experience and counts as a check. So each experience may cost each older
one at most `tolerance`. A network that forgets at once, as plain finetuning on new classes does, then learns almost nothing new.
That trade-off shows best with `every` at a few iterations, together with a strategy that reduces forgetting.

The strategy looks at samples of past experiences: validation splits, never test data, and no gradients of them. Most protocols
rule that out; naming the strategy allows it. The ledger records each stop, and which weights were restored.
Shapes: n validation samples, C classes.

Source: our own. Chaudhry et al. 2018 (1801.10112) measure forgetting in this way, on test data. Peers: Avalanche's
EarlyStoppingPlugin can watch any stream's metric by name, and restores nothing unless its patience runs out.
"""

import copy
from statistics import mean

from ..platform.config.settings import Fraction, PositiveInt, settings
from ..platform.methods.validation_samples import ValidationSamples, accuracy, gather_validation_samples, masked_logits
from ..platform.training import plugin_api
from ..platform.training.plugin import EndOrder, LearnerView, Plugin

NEEDS_PAST = True
ROLES = ("final weights",)
NEUTRAL = {"tolerance": None}


@settings
class Config:
    """Stop an experience when an older one's validation accuracy drops too far (uses old validation data).

    tolerance: how much accuracy, in [0, 1), an older experience may lose; null: no checks.
    every: iterations between two checks; null: check after each epoch.
    """

    tolerance: Fraction | None = 0.1
    every: PositiveInt | None = None

    def __post_init__(self) -> None:
        if self.tolerance is None and self.every is not None:
            raise ValueError(f"every={self.every}: is not used without a tolerance: leave it out")


def needs_validation(config: Config) -> bool:
    """Return whether the benchmark must set validation data aside."""
    return config.tolerance is not None


def drop(start: list[float], now: list[float]) -> float:
    """Return the largest loss of accuracy of an older experience; 0 where there is none.

    `now` also holds the new experience, last.
    """
    return max((before - after for before, after in zip(start[:-1], now[:-1], strict=True)), default=0.0)


class ForgettingStopPlugin(Plugin[Config]):
    """Scores all experiences so far at each check, and keeps the best weights."""

    STATE = ("start", "counts", "weights", "best_iteration")
    end_order = EndOrder.REPLACE_WEIGHTS
    best_iteration = 0  # of this experience, after which `weights` were kept; 0: its start

    def init_state(self) -> None:
        """Set the initial state."""
        self.start: list[float] = []  # accuracies at the beginning; empty: no checks
        self.counts = (0.0, 0)  # the best mean accuracy; iterations
        self.weights: dict[str, object] = {}  # where it was the best
        self.best_iteration = 0
        self._lost = 0.0  # by an older experience, at the check that stopped the training; 0: not stopped
        self._data: list[ValidationSamples] = []

    def before_training_exp(self, learner: LearnerView, **kwargs: object) -> None:
        """Do the first check, if there is an older experience."""
        self.init_state()
        if self.config.tolerance is not None and learner.experience.current_experience > 0:
            self.start = self._accuracies(learner)
            self._keep(learner, mean(self.start))

    def after_training_iteration(self, learner: LearnerView, **kwargs: object) -> None:
        """Check after each `every` iterations."""
        best, iterations = self.counts
        self.counts = (best, iterations + 1)
        if self.config.every is not None and (iterations + 1) % self.config.every == 0:
            self._check(learner)

    def after_training_epoch(self, learner: LearnerView, **kwargs: object) -> None:
        """Check, if `every` is null."""
        if self.config.every is None:
            self._check(learner)

    def after_training_exp(self, learner: LearnerView, **kwargs: object) -> None:
        """Check the iterations after the last check too, and restore the best weights after a stop."""
        if self.config.every is not None and self.counts[1] % self.config.every:
            self._check(learner)
        if self._lost:
            learner.model.load_state_dict(self.weights)
            best, iterations = self.counts
            lost = f"an older experience lost {self._lost:.4f} of its validation accuracy by iteration {iterations}"
            kept = f"restored the weights of iteration {self.best_iteration} (mean validation accuracy {best:.4f})"
            plugin_api.note(learner, f"forgetting_stop: {lost}; {kept}")
        plugin_api.undo_stop(learner)
        self.init_state()

    def _check(self, learner: LearnerView) -> None:
        """Keep the weights if they are the best so far, or stop."""
        if not self.start or self._lost or self.config.tolerance is None:
            return
        now = self._accuracies(learner)
        lost = drop(self.start, now)
        if lost > self.config.tolerance:
            self._lost = lost
            learner.stop_training()
        elif mean(now) > self.counts[0]:
            self._keep(learner, mean(now))

    def _keep(self, learner: LearnerView, value: float) -> None:
        self.counts = (value, self.counts[1])
        self.best_iteration = self.counts[1]
        self.weights = copy.deepcopy(learner.model.state_dict())

    def _accuracies(self, learner: LearnerView) -> list[float]:
        """Return the validation accuracy of each experience so far."""
        if not self._data:
            key = f"strategies.forgetting_stop.tolerance={self.config.tolerance}"
            experiences = learner.experience.origin_stream[: learner.experience.current_experience + 1]
            self._data = [gather_validation_samples(learner, [experience], key) for experience in experiences]
        return [accuracy(masked_logits(learner, samples), samples[1]) for samples in self._data]
