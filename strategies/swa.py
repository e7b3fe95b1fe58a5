"""Stochastic weight averaging: each experience ends with the mean of the weights after its last epochs.

    weights <- mean of the weights after epochs e with  e > start * E,   E: the epochs of the experience

Averages of weights along the path of SGD lie in flatter regions than its last point, and move less far from where the experience
began. The average becomes the network: the next experience, teachers and memories use it. Running statistics of BatchNorm are
averaged like weights. The paper instead recomputes them under the averaged weights, in a pass over the training data: name
recompute_batchnorm too for that. Where another strategy ends the experience early, so that there is only one point, the weights
stay as they are. The ledger records which epochs were averaged. The paper keeps the learning rate high while it averages:
``training.schedule`` constant.
Shapes: those of the network's tensors.

Source: Izmailov et al. 2018 (1803.05407). Peers: torch.optim.swa_utils.AveragedModel (use_buffers=True) is the same mean.
Lightning's StochasticWeightAveraging has our `start` as swa_epoch_start (0.8), and anneals the learning rate.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from ..platform.config.settings import Fraction, settings
from ..platform.training import plugin_api
from ..platform.training.plugin import EndOrder, LearnerView, Plugin

NEUTRAL = {"start": None}
ROLES = ("final weights",)


@settings
class Config:
    """End each experience with the mean of its weights over the last epochs.

    start: share of an experience's epochs before averaging starts, in [0, 1); null: no averaging.
    """

    start: Fraction | None = 0.5


def check_training(config: Config, epochs: Sequence[int]) -> dict[str, str]:
    """Return the problem of a start that leaves a single epoch; `epochs`: those of each experience that is trained on."""
    least = min(epochs)
    if config.start is None or sum(e > config.start * least for e in range(1, least + 1)) > 1:
        return {}
    reason = f"leaves one of the {least} epochs of an experience, so there is nothing to average"
    return {"start": f"{reason}. Lower it, or raise training.epochs"}


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


class SWAPlugin(Plugin[Config]):
    """Adds a point after each of the last epochs; the average becomes the network where training ends."""

    STATE = ("average", "counts")
    end_order = EndOrder.REPLACE_WEIGHTS

    def init_state(self) -> None:
        """Set the initial state."""
        self.average: dict[str, Tensor] = {}
        self.counts = (0, 0)  # epochs, points of the average

    def before_training_exp(self, learner: LearnerView, **kwargs: object) -> None:
        """Start a new average."""
        self.init_state()

    def on_resume(self, learner: LearnerView) -> None:
        """Move the average to the device."""
        self.average = {name: tensor.to(learner.device) for name, tensor in self.average.items()}

    def after_training_epoch(self, learner: LearnerView, **kwargs: object) -> None:
        """Add a point to the average, if enough epochs have passed."""
        epochs, points = self.counts
        epochs += 1
        if self.config.start is not None and epochs > self.config.start * learner.train_epochs:
            weights = learner.model.state_dict()
            if points:
                add(self.average, weights, points)
            else:
                self.average = copy.deepcopy(weights)
            points += 1
        self.counts = (epochs, points)

    def after_training_exp(self, learner: LearnerView, **kwargs: object) -> None:
        """Load the average into the network."""
        epochs, points = self.counts
        if points > 1:
            learner.model.load_state_dict(self.average)
            text = f"swa: the weights are the mean of those after epochs {epochs - points + 1} to {epochs}"
            plugin_api.note(learner, f"{text} of {learner.train_epochs}")
        self.init_state()
