"""Stop an experience when an older one loses too much accuracy, measured on *old* validation samples.

    stop at the first check with   max_e (a_e(start) - a_e(now)) > tolerance     over the older experiences e
    then restore the check before it with the highest mean of a_e over all experiences so far, this one included

a_e is the accuracy on the validation split of experience e, over all outputs of the head or, where the task is given, over the
outputs of that task. `start` is the beginning of this experience and counts as a check. So each experience may cost each older
one at most `tolerance`. A network that forgets at once, as plain finetuning on new classes does, then learns almost nothing new.
That trade-off shows best with `every` at a few iterations, together with a strategy that reduces forgetting.

The strategy looks at samples of past experiences: validation splits, never test data, and no gradients of them. Most protocols
rule that out; naming the strategy allows it. The ledger records each stop. If early_stopping is used too, name it before this
strategy.
Shapes: n validation samples, C classes.

Source: our own. Chaudhry et al. 2018 (1801.10112) measure forgetting in this way, on test data. Peers: Avalanche's
EarlyStoppingPlugin can watch any stream's metric by name, and restores nothing unless its patience runs out.
"""

from dataclasses import dataclass
from statistics import mean
from typing import Any

from ..platform.errors import UserError
from ..platform.methods.validation_samples import ValidationSamples, accuracy, gather_validation_samples, masked_logits
from ..platform.training import plugin_api
from ..platform.training.plugin import Plugin

CONFLICTS = {"joint": "joint trains once, so there are no older experiences that could lose"}
NEUTRAL: dict[str, Any] | None = {"tolerance": None}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Stop an experience when an older one's validation accuracy drops too far (uses old validation data).

    tolerance: how much accuracy, in [0, 1), an older experience may lose; null: no checks.
    every: iterations between two checks; null: check after each epoch.
    """

    tolerance: float | None = 0.1
    every: int | None = None

    def __post_init__(self) -> None:
        tolerance, every = self.tolerance, self.every
        if tolerance is not None and not 0 <= tolerance < 1:
            raise ValueError(f"{tolerance=}: must be in [0, 1), or null for none")
        if every is not None and every < 1:
            raise ValueError(f"{every=}: must be >= 1 iteration, or null for an epoch")
        if tolerance is None and every is not None:
            raise ValueError(f"{every=}: is not used without a tolerance: leave it out")


def needs_validation(config: Config) -> bool:
    """Return whether the benchmark must set validation data aside."""
    return config.tolerance is not None


def drop(start: list[float], now: list[float]) -> float:
    """Return the largest loss of accuracy of an older experience; 0 where there is none.

    `now` also holds the new experience, last.
    """
    return max((before - after for before, after in zip(start[:-1], now[:-1], strict=True)), default=0.0)


class ForgettingStopPlugin(Plugin):
    """Scores all experiences so far at each check, and keeps the best weights."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._reset()

    def _reset(self) -> None:
        self._start: list[float] = []  # accuracies at the beginning; empty: no checks
        self._best, self._iterations, self._stopped = 0.0, 0, False
        self._weights: dict[str, Any] = {}
        self._data: list[ValidationSamples] = []

    def state_dict(self) -> dict[str, Any]:
        """Return the accuracies at the start, the best so far and its weights.

        It is empty between experiences.
        """
        if not self._start:
            return {}
        counts = [self._best, self._iterations]
        return {"start": list(self._start), "counts": counts, "weights": dict(self._weights)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the state; the validation data are gathered again at the next check."""
        self._reset()
        if state:
            self._start, self._weights = list(state["start"]), state["weights"]
            self._best, self._iterations = state["counts"]

    def before_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """Do the first check, if there is an older experience."""
        self._reset()
        if self.config.tolerance is not None and learner.experience.current_experience > 0:
            self._start = self._accuracies(learner)
            self._keep(learner, mean(self._start))

    def after_training_iteration(self, learner: Any, **kwargs: Any) -> None:
        """Check after each `every` iterations."""
        self._iterations += 1
        if self._start and self.config.every is not None and self._iterations % self.config.every == 0:
            self._check(learner)

    def after_training_epoch(self, learner: Any, **kwargs: Any) -> None:
        """Check, if `every` is null."""
        if self._start and self.config.every is None and not self._stopped:
            self._check(learner)

    def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """Check the iterations after the last check too, and restore the best weights after a stop."""
        if self._start and not self._stopped and self.config.every and self._iterations % self.config.every:
            self._check(learner)
        if self._stopped:
            learner.model.load_state_dict(self._weights)
        learner._stop_training = False  # Avalanche would carry a stop at the last iteration into the next experience
        self._reset()

    def _check(self, learner: Any) -> None:
        """Keep the weights if they are the best so far, or stop."""
        now = self._accuracies(learner)
        lost = drop(self._start, now)
        assert self.config.tolerance is not None
        if lost > self.config.tolerance:
            self._stopped = True
            learner.stop_training()
            text = f"forgetting_stop: an older experience lost {lost:.4f} of its validation accuracy by iteration "
            plugin_api.note(learner, f"{text}{self._iterations}; the best weights until then were put back")
        elif mean(now) > self._best:
            self._keep(learner, mean(now))

    def _keep(self, learner: Any, value: float) -> None:
        self._best = value
        self._weights = {name: tensor.detach().clone() for name, tensor in learner.model.state_dict().items()}

    def _accuracies(self, learner: Any) -> list[float]:
        """Return the validation accuracy of each experience so far."""
        if not self._data:
            number = learner.experience.current_experience
            per_experience = [
                gather_validation_samples(learner, [experience])
                for experience in learner.experience.origin_stream[: number + 1]
            ]
            self._data = [samples for samples in per_experience if samples is not None]
            if len(self._data) <= number:
                reason = "needs validation data of every experience: set the benchmark's `validation` above 0"
                raise UserError(f"strategies.forgetting_stop.tolerance={self.config.tolerance}: {reason}")
        return [accuracy(masked_logits(learner, samples), samples[1]) for samples in self._data]


def build(config: Config, seed: int) -> ForgettingStopPlugin:
    """Return the plugin; it uses no random numbers."""
    return ForgettingStopPlugin(config)
