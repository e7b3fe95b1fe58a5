"""Early stopping: few iterations forget little; end each experience at its best epoch on its validation split.

    stop after epoch e  when  e - b >= patience;  b: the last epoch with a score above the best so far by > min_delta
    score = validation accuracy (over all outputs of the head, or of the given task), or minus the mean validation cross-entropy

When the training of an experience ends, by patience or after its last epoch, parameters and buffers of epoch b are restored
(the optimizer's state is not). The last epoch counts too, a tie keeps the earlier epoch, and each experience starts anew. The
test stream and other experiences' data are never used. Under `cumulative` and `joint` the validation splits of all experiences
so far are used, because all their data are trained on. Other strategies' hooks at the end of an experience should see the
restored weights: name early_stopping before them.
Shapes: n validation samples, C classes.

Source: Prechelt 1998. Peers: Avalanche's EarlyStoppingPlugin restores only when its patience runs out, and never scores the
last epoch; its `margin` is our min_delta. FACIL lowers the learning rate where our patience ends.
"""

import copy
import math
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor
from torch.nn import functional as F

from ..platform.errors import UserError
from ..platform.methods.validation_samples import ValidationSamples, accuracy, gather_validation_samples, masked_logits
from ..platform.training import plugin_api
from ..platform.training.plugin import Plugin

NEUTRAL: dict[str, Any] | None = {"patience": None}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Stop an experience when its validation score stops improving, and restore its best epoch.

    patience: epochs without a gain before training stops; null: never stop, never restore, score nothing.
    min_delta: the least gain that counts, >= 0.
    metric: "accuracy" or "loss" (cross-entropy) on the experience's validation split.
    """

    patience: int | None = 3
    min_delta: float = 0.0
    metric: Literal["accuracy", "loss"] = "accuracy"

    def __post_init__(self) -> None:
        patience, min_delta, metric = self.patience, self.min_delta, self.metric
        if patience is not None and patience < 1:
            raise ValueError(f"{patience=}: must be >= 1 epoch, or null for none")
        if not 0 <= min_delta < math.inf:
            raise ValueError(f"{min_delta=}: must be >= 0 and finite")
        if metric not in ("accuracy", "loss"):
            raise ValueError(f"{metric=}: must be 'accuracy' or 'loss'")


def needs_validation(config: Config) -> bool:
    """Return whether the benchmark must set validation data aside."""
    return config.patience is not None


def score(logits: Tensor, y: Tensor, metric: Literal["accuracy", "loss"]) -> float:
    """Return accuracy, or minus the cross-entropy (-inf instead of NaN), which should rise; logits (n, C), y (n,)."""
    if metric == "accuracy":
        return accuracy(logits, y)
    loss = F.cross_entropy(logits, y).item()
    return -math.inf if math.isnan(loss) else -loss


def validation_data(learner: Any) -> ValidationSamples:
    """Return the validation splits of the data trained on; UserError if there are none."""
    experience = learner.experience
    cumulative = any(getattr(plugin, "accumulates", False) for plugin in learner.plugins)
    experiences = experience.origin_stream[: experience.current_experience + 1] if cumulative else [experience]
    samples = gather_validation_samples(learner, experiences)
    if samples is None:
        reason = "needs validation data, and has none: set the benchmark's `validation` above 0, or patience: null"
        raise UserError("strategies.early_stopping.patience: " + reason)
    return samples


class EarlyStoppingPlugin(Plugin):
    """Scores the network after each epoch, and decides before the next epoch whether it is trained."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._reset()

    def _reset(self) -> None:
        self._epoch, self._best_epoch, self._best = 0, 0, -math.inf
        self._weights: dict[str, Any] | None = None
        self._data: ValidationSamples | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return {} between experiences; mid-experience, the epoch counts and the best weights."""
        if self._weights is None:
            return {}
        return {"counts": [self._epoch, self._best_epoch, self._best], "weights": dict(self._weights)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state; the validation data are gathered again when needed."""
        self._reset()
        if state:
            self._epoch, self._best_epoch, self._best = state["counts"]
            self._weights = state["weights"]

    def before_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """Start anew; refuse before the first epoch if there are no validation data."""
        if self.config.patience is not None:
            self._reset()
            self._data = validation_data(learner)

    def before_training_epoch(self, learner: Any, **kwargs: Any) -> None:
        """Stop here, not in the epoch before: a stop at the very last epoch would carry over to the next experience."""
        if self.config.patience is not None and self._epoch - self._best_epoch >= self.config.patience:
            learner.stop_training()

    def after_training_epoch(self, learner: Any, **kwargs: Any) -> None:
        """Score the epoch, and keep its weights if they are the best."""
        if self.config.patience is None:
            return
        self._data = self._data or validation_data(learner)
        value = score(masked_logits(learner, self._data), self._data[1], self.config.metric)
        plugin_api.measure(learner, f"validation_{self.config.metric}", abs(value))  # the score of a loss is negative
        self._epoch += 1
        if self._weights is None or value > self._best + self.config.min_delta:
            self._best, self._best_epoch = value, self._epoch
            self._weights = copy.deepcopy(learner.model.state_dict())

    def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """Restore the best epoch, even if training ran to its last epoch."""
        if self._weights is None:
            return
        learner.model.load_state_dict(self._weights)
        best = self._best if self.config.metric == "accuracy" else -self._best
        plugin_api.note(
            learner,
            f"early_stopping: trained {self._epoch} of {learner.train_epochs} epochs, kept the weights of epoch "
            f"{self._best_epoch} (validation {self.config.metric} {best:.4f})",
        )
        self._reset()


def build(config: Config, seed: int) -> EarlyStoppingPlugin:
    """Return the plugin; it uses no random numbers."""
    return EarlyStoppingPlugin(config)
