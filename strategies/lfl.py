"""Less-Forgetting Learning: keep the features of new data close to the old network's, and keep the old decision boundaries.

    L = L_CE + weight * mean_{B,D} (f(x) - f_old(x))^2,  f: the features (the head's input)

The rows that the head had at the start of the experience keep their bits; rows that it gains learn. The old network is a copy
from the start of the experience, in evaluation mode. The first experience has no old network and trains the head too.
Shapes: B batch, D features, K rows of the head before it grew.

Source: Jung et al. 2016 (1607.00122), for new domains of the same classes, so they keep the whole head. Their lambda_e weights
half the squared distance of each sample: weight = lambda_e * D / 2. They start from the old weights, as all our strategies do.
Peer: Avalanche's lambda_e = weight. It passes the samples through the network a second time, in evaluation mode, for features.
"""

import torch
from torch import Tensor, nn

from ..platform.config.settings import NonNegativeFloat, settings
from ..platform.methods.layer_distillation import LayerDistillation
from ..platform.methods.quadratic_penalty import NamedTensors, leading_part, moved_to
from ..platform.models.features import FEATURES, find_head
from ..platform.training.plugin import LearnerView

NEUTRAL = {"weight": 0.0, "freeze_head": False}
NEEDS_PAST = True


@settings
class Config:
    """Keep the features of new data close to the old network's, and keep the head's old rows (Less-Forgetting Learning).

    weight: weight of the mean squared distance of features, >= 0.
    freeze_head: whether the rows that the head had before the experience are kept.
    """

    weight: NonNegativeFloat = 1.0
    freeze_head: bool = True


def feature_distance(new: Tensor, old: Tensor) -> Tensor:
    """Return mean_{B,D} (new - old)^2, a scalar, for features (B, D)."""
    return nn.functional.mse_loss(new, old)


class LFLPlugin(LayerDistillation[Config]):
    """Adds weight * distance of the features to the loss, and restores the head's old rows after each step."""

    STATE = (*LayerDistillation.STATE, "rows")
    capturable = True

    def init_state(self) -> None:
        """Set the initial state."""
        super().init_state()
        self.rows: NamedTensors = {}  # the head's parameters at the start of the experience

    def layers(self, model: nn.Module) -> list[str]:
        """Return the name of the features."""
        return [FEATURES]

    def term(self, learner: LearnerView, student: dict[str, Tensor], teacher: dict[str, Tensor]) -> Tensor:
        """Return the weighted distance, a scalar."""
        return self.config.weight * feature_distance(student[FEATURES], teacher[FEATURES])

    def on_start(self, learner: LearnerView) -> None:
        """Capture the features, and move the old rows to the device."""
        super().on_start(learner)
        self.rows = moved_to(self.rows, learner.device)

    def before_train_dataset_adaptation(self, learner: LearnerView, **kwargs: object) -> None:
        """Copy the head and the network, before the head grows."""
        super().before_train_dataset_adaptation(learner, **kwargs)
        if self.num_trained and self.config.freeze_head:
            # `num_old`: a head with all outputs from the start has rows for classes that are not seen yet
            head = find_head(learner.model).named_parameters()
            self.rows = {name: p.detach()[: self.num_old].clone() if p.ndim else p.detach().clone() for name, p in head}

    @torch.no_grad()
    def after_update(self, learner: LearnerView, **kwargs: object) -> None:
        """Restore the old rows, which momentum and weight decay may have changed."""
        for name, parameter in find_head(learner.model).named_parameters() if self.rows else ():
            leading_part(parameter.data, self.rows[name].shape).copy_(self.rows[name])

    def after_training_exp(self, learner: LearnerView, **kwargs: object) -> None:
        """Drop the teacher and the old rows."""
        super().after_training_exp(learner, **kwargs)
        self.rows = {}
