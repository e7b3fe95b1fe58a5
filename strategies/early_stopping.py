"""Early stopping: few iterations forget little; end each experience at its best epoch on its validation split.

    stop after epoch e  when  e - b >= patience;  b: the last epoch with a score above the best so far by > min_delta
    score = validation accuracy (over all outputs of the head, or of the given task), or minus the mean validation cross-entropy

When the training of an experience ends, by patience or after its last epoch, parameters and buffers of epoch b are restored
(the optimizer's state is not). The last epoch counts too, a tie keeps the earlier epoch, and each experience starts anew. The
test stream and other experiences' data are never used. Under `cumulative` and `joint` the validation splits of all experiences
so far are used, because all their data are trained on. Strategies that act at the end of an experience see the restored weights,
in whatever order they are named (in a plain Avalanche script: name early_stopping before them).
Shapes: n validation samples, C classes.

Source: Prechelt 1998. Peers: Avalanche's EarlyStoppingPlugin restores only when its patience runs out, and never scores the
last epoch; its `margin` is our min_delta. FACIL lowers the learning rate where our patience ends.
"""

import copy
import math
from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor
from torch.nn import functional as F

from ..platform.config.settings import NonNegativeFloat, PositiveInt, settings
from ..platform.methods.validation_samples import ValidationSamples, accuracy, gather_validation_samples, masked_logits
from ..platform.training import plugin_api
from ..platform.training.plugin import EndOrder, LearnerView, Plugin

NEUTRAL = {"patience": None}
ROLES = ("final weights",)


@settings
class Config:
    """Stop an experience when its validation score stops improving, and restore its best epoch.

    patience: epochs without a gain before training stops, below the epochs of every experience; null: never stop, never
        restore, score nothing.
    min_delta: the least gain that counts, >= 0.
    metric: "accuracy" or "loss" (cross-entropy) on the experience's validation split.
    """

    patience: PositiveInt | None = 3
    min_delta: NonNegativeFloat = 0.0
    metric: Literal["accuracy", "loss"] = "accuracy"


def needs_validation(config: Config) -> bool:
    """Return whether the benchmark must set validation data aside."""
    return config.patience is not None


def check_training(config: Config, epochs: Sequence[int]) -> dict[str, str]:
    """Return the problem of a patience that can never run out; `epochs`: those of each experience that is trained on."""
    if config.patience is None or config.patience < min(epochs):
        return {}
    reason = f"must be below {min(epochs)}, the epochs of an experience: training would never stop early"
    return {"patience": f"{reason}. Lower it, or raise training.epochs"}


def score(logits: Tensor, y: Tensor, metric: Literal["accuracy", "loss"]) -> float:
    """Return accuracy, or minus the cross-entropy (-inf instead of NaN), which should rise; logits (n, C), y (n,)."""
    if metric == "accuracy":
        return accuracy(logits, y)
    loss = F.cross_entropy(logits, y).item()
    return -math.inf if math.isnan(loss) else -loss


def validation_data(learner: LearnerView) -> ValidationSamples:
    """Return the validation splits of the data trained on; UserError if there are none."""
    experience = learner.experience
    cumulative = any(getattr(plugin, "accumulates", False) for plugin in learner.plugins)
    experiences = experience.origin_stream[: experience.current_experience + 1] if cumulative else [experience]
    return gather_validation_samples(learner, experiences, "strategies.early_stopping.patience")


class EarlyStoppingPlugin(Plugin[Config]):
    """Scores the network after each epoch, and decides before the next epoch whether it is trained."""

    STATE = ("counts", "weights")
    end_order = EndOrder.REPLACE_WEIGHTS

    def init_state(self) -> None:
        """Set the initial state."""
        self.counts: tuple[int, int, float] = (0, 0, -math.inf)  # epochs so far, the best of them, its score
        self.weights: dict[str, Any] | None = None  # after the best epoch
        self._data: ValidationSamples | None = None

    def before_training_exp(self, learner: LearnerView, **kwargs: object) -> None:
        """Start anew; refuse before the first epoch if there are no validation data."""
        if self.config.patience is not None:
            self.init_state()
            self._data = validation_data(learner)

    def before_training_epoch(self, learner: LearnerView, **kwargs: object) -> None:
        """Stop here, not in the epoch before: a stop at the very last epoch would carry over to the next experience."""
        epoch, best_epoch, _ = self.counts
        if self.config.patience is not None and epoch - best_epoch >= self.config.patience:
            learner.stop_training()

    def after_training_epoch(self, learner: LearnerView, **kwargs: object) -> None:
        """Score the epoch, and keep its weights if they are the best."""
        if self.config.patience is None:
            return
        self._data = self._data or validation_data(learner)
        value = score(masked_logits(learner, self._data), self._data[1], self.config.metric)
        plugin_api.measure(learner, f"validation_{self.config.metric}", abs(value))  # the score of a loss is negative
        epoch, best_epoch, best = self.counts
        epoch += 1
        if self.weights is None or value > best + self.config.min_delta:
            best_epoch, best = epoch, value
            self.weights = copy.deepcopy(learner.model.state_dict())
        self.counts = (epoch, best_epoch, best)

    def after_training_exp(self, learner: LearnerView, **kwargs: object) -> None:
        """Restore the best epoch, even if training ran to its last epoch."""
        if self.weights is None:
            return
        learner.model.load_state_dict(self.weights)
        epoch, best_epoch, best = self.counts
        kept = f"kept the weights of epoch {best_epoch} (validation {self.config.metric} {abs(best):.4f})"
        plugin_api.note(learner, f"early_stopping: trained {epoch} of {learner.train_epochs} epochs, {kept}")
        self.init_state()
