"""Stochastic weight averaging: each experience ends with the mean of the weights after its last epochs.

    weights <- mean of the weights after epochs e with  e > start * E,   E: the epochs of the experience

Averages of weights along the path of SGD lie in flatter regions than its last point, and move less far from where the experience
began. The average becomes the network: the next experience, teachers and memories use it. Running statistics of BatchNorm are
averaged like weights. The paper instead recomputes them under the averaged weights, in a pass over the training data: name
recompute_batchnorm after this one for that. Where E epochs give only one point (E = 1, `start` near 1), that is the last epoch,
and nothing changes. The paper keeps the learning rate high while it averages: ``training.schedule`` constant.
Shapes: those of the network's tensors.

Source: Izmailov et al. 2018 (1803.05407). Peers: torch.optim.swa_utils.AveragedModel (use_buffers=True) is the same mean.
Lightning's StochasticWeightAveraging has our `start` as swa_epoch_start (0.8), and anneals the learning rate.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..platform.training.plugin import Plugin

NEUTRAL: dict[str, Any] | None = {"start": None}
_REASON = "each decides which weights an experience ends with"
CONFLICTS = {"early_stopping": _REASON, "forgetting_stop": _REASON}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """End each experience with the mean of its weights over the last epochs.

    start: share of an experience's epochs before averaging starts, in [0, 1); null: no averaging.
    """

    start: float | None = 0.5

    def __post_init__(self) -> None:
        start = self.start
        if start is not None and not 0 <= start < 1:
            raise ValueError(f"{start=}: must be in [0, 1), or null for no average")


@torch.no_grad()
def add(average: dict[str, Tensor], weights: dict[str, Tensor], num_before: int) -> None:
    """Add one more point to an average of `num_before` points, in place.

    Integer tensors (counters) are copied.
    """
    for name, tensor in average.items():
        if tensor.is_floating_point():
            tensor.lerp_(weights[name], 1 / (num_before + 1))
        else:
            tensor.copy_(weights[name])


class SWAPlugin(Plugin):
    """Adds a point after each of the last epochs; the average becomes the network where training ends."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._reset()

    def _reset(self) -> None:
        self._average: dict[str, Tensor] = {}
        self._epoch = self._num_points = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the average so far, and the counts of epochs and points."""
        return {"average": dict(self._average), "counts": [self._epoch, self._num_points]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the average and the counts."""
        self._average, (self._epoch, self._num_points) = dict(state["average"]), state["counts"]

    def on_resume(self, learner: Any) -> None:
        """Move the average to the device."""
        self._average = {name: tensor.to(learner.device) for name, tensor in self._average.items()}

    def before_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """Start a new average."""
        self._reset()

    def after_training_epoch(self, learner: Any, **kwargs: Any) -> None:
        """Add a point to the average, if enough epochs have passed."""
        self._epoch += 1
        if self.config.start is None or self._epoch <= self.config.start * learner.train_epochs:
            return
        weights = learner.model.state_dict()
        if self._average:
            add(self._average, weights, self._num_points)
        else:
            self._average = {name: tensor.detach().clone() for name, tensor in weights.items()}
        self._num_points += 1

    def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """Load the average into the network."""
        if self._num_points > 1:
            learner.model.load_state_dict(self._average)
        self._reset()


def build(config: Config, seed: int) -> SWAPlugin:
    """Return the plugin; it uses no random numbers."""
    return SWAPlugin(config)
