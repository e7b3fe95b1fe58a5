"""Stop an experience when it costs too much of an older one, measured on *old* validation samples.

    stop at the first check with   max_e (a_e(start) - a_e(now)) > tolerance     over the older experiences e
    then put back the check with the highest mean of a_e over all experiences so far, this one included, before that one

a_e is the accuracy on the validation split of experience e, among all outputs of the head or, where the task is given, among its
own; `start` is the beginning of this experience and counts as a check. So each experience may cost each older one at most
`tolerance`. A network that forgets at once, as plain finetuning on new classes, then learns next to nothing new: that is the
trade, seen best with `every` a few iterations and beside a strategy that keeps something.

It looks at samples of past experiences (validation splits, never test data, no gradient of them), which most protocols rule
out: naming it allows that; the ledger tells each stop. If early_stopping is used too, name it before this one.
Shapes: n validation samples, C classes.

Source: our own; Chaudhry et al. 2018 (1801.10112) measure forgetting so, on test data. Peers: Avalanche's
EarlyStoppingPlugin can watch any stream's metric by name, and puts nothing back unless its patience runs out.
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
    """Stop an experience when an older one's validation accuracy drops too far (looks at old validation data).

    tolerance: how much of its accuracy, in [0, 1), an older experience may lose; null: nothing is looked at.
    every: iterations between two checks; null: after each epoch.
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
    """Whether the benchmark must set validation data aside."""
    return config.tolerance is not None


def drop(start: list[float], now: list[float]) -> float:
    """The most that one of the older experiences lost; 0 where there is none. `now` has the new experience too, last."""
    return max((before - after for before, after in zip(start[:-1], now[:-1], strict=True)), default=0.0)


class ForgettingStopPlugin(Plugin):
    """Scores all experiences so far at each check, and keeps the weights of the best."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._reset()

    def _reset(self) -> None:
        self._start: list[float] = []  # accuracies at the beginning; empty: nothing is watched
        self._best, self._iterations, self._stopped = 0.0, 0, False
        self._weights: dict[str, Any] = {}
        self._data: list[ValidationSamples] = []

    def state_dict(self) -> dict[str, Any]:
        """Empty between experiences; inside one, where it began, the best so far and its weights."""
        if not self._start:
            return {}
        counts = [self._best, self._iterations]
        return {"start": list(self._start), "counts": counts, "weights": dict(self._weights)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The validation data are gathered again when they are needed."""
        self._reset()
        if state:
            self._start, self._weights = list(state["start"]), state["weights"]
            self._best, self._iterations = state["counts"]

    def before_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """The beginning is the first check, where there is an older experience."""
        self._reset()
        if self.config.tolerance is not None and learner.experience.current_experience > 0:
            self._start = self._accuracies(learner)
            self._keep(learner, mean(self._start))

    def after_training_iteration(self, learner: Any, **kwargs: Any) -> None:
        """Check when it is time."""
        self._iterations += 1
        if self._start and self.config.every is not None and self._iterations % self.config.every == 0:
            self._check(learner)

    def after_training_epoch(self, learner: Any, **kwargs: Any) -> None:
        """Check, unless iterations count."""
        if self._start and self.config.every is None and not self._stopped:
            self._check(learner)

    def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """Look at the iterations after the last check too; put the best weights back if it cost too much."""
        if self._start and not self._stopped and self.config.every and self._iterations % self.config.every:
            self._check(learner)
        if self._stopped:
            learner.model.load_state_dict(self._weights)
        learner._stop_training = False  # in Avalanche a stop at the last iteration would reach into the next experience
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
        """Validation accuracy of each experience so far."""
        if not self._data:
            number = learner.experience.current_experience
            found = [
                gather_validation_samples(learner, [one]) for one in learner.experience.origin_stream[: number + 1]
            ]
            self._data = [samples for samples in found if samples is not None]
            if len(self._data) <= number:
                reason = "needs validation data of every experience: set the benchmark's `validation` above 0"
                raise UserError(f"strategies.forgetting_stop.tolerance={self.config.tolerance}: {reason}")
        return [accuracy(masked_logits(learner, samples), samples[1]) for samples in self._data]


def build(config: Config, seed: int) -> ForgettingStopPlugin:
    """The plugin; it draws no random numbers."""
    return ForgettingStopPlugin(config)
