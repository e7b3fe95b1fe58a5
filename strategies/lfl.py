"""Less-Forgetting Learning: the features of new data are held to those of the old network, and the old boundaries stay.

    L = L_CE + weight * mean_{B,D} (f(x) - f_old(x))^2,  f: what the head is given

The rows that the head had when the experience began are kept to the bit; rows that it gains learn. The old network is that
which the experience found, in evaluation mode; the first experience has none and trains the head too.
Shapes: B batch, D features, K rows of the head before it grew.

Source: Jung et al. 2016 (1607.00122), for new domains of the same classes, so that their whole head stays. Their lambda_e is
of half the squared distance of each sample, weight = lambda_e * D / 2; they start from the old weights, as all of ours do.
Peer: Avalanche's lambda_e = weight; it passes the samples through the network a second time, in evaluation mode, for features.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..platform.methods.layer_distillation import LayerDistillation
from ..platform.methods.quadratic_penalty import Named, leading_part, moved_to
from ..platform.models.features import FEATURES, find_head

NEUTRAL: dict[str, Any] | None = {"weight": 0.0, "freeze_head": False}
CONFLICTS = {"joint": "joint trains once, so there is no old network whose features could be held"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Less-Forgetting Learning: hold the features of new data and the head's old rows.

    weight: of the mean squared distance of features, >= 0.
    freeze_head: the rows that the head had before the experience stay.
    """

    weight: float = 1.0
    freeze_head: bool = True

    def __post_init__(self) -> None:
        weight = self.weight
        if not 0 <= weight < math.inf:
            raise ValueError(f"{weight=}: must be >= 0 and finite")


def feature_distance(new: Tensor, old: Tensor) -> Tensor:
    """mean_{B,D} (new - old)^2, a scalar, of features (B, D)."""
    return nn.functional.mse_loss(new, old)


class LFLPlugin(LayerDistillation):
    """Adds weight * distance of the features to the loss, and puts the old rows of the head back after each step."""

    def __init__(self, config: Config) -> None:
        super().__init__(config.weight > 0)
        self.config = config
        self._rows: Named = {}  # the head's parameters as the experience found them

    def layers(self, model: nn.Module) -> list[str]:
        """What the head is given."""
        return [FEATURES]

    def term(self, learner: Any, student: dict[str, Tensor], teacher: dict[str, Tensor]) -> Tensor:
        """The weighted distance."""
        return self.config.weight * feature_distance(student[FEATURES], teacher[FEATURES])

    def state_dict(self) -> dict[str, Any]:
        """Beside the teacher's, the old rows."""
        return super().state_dict() | {"rows": self._rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them over."""
        super().load_state_dict(state)
        self._rows = dict(state["rows"])

    def on_resume(self, learner: Any) -> None:
        """Make the old network and watch the new one."""
        super().on_resume(learner)
        self._rows = moved_to(self._rows, learner.device)

    def before_train_dataset_adaptation(self, learner: Any, **kwargs: Any) -> None:
        """The head has not grown yet: keep it, and the network."""
        super().before_train_dataset_adaptation(learner, **kwargs)
        if self.num_trained and self.config.freeze_head:
            head = find_head(
                learner.model
            ).named_parameters()  # with all outputs from the start it has rows of no class yet
            self._rows = {
                name: p.detach()[: self.num_old].clone() if p.ndim else p.detach().clone() for name, p in head
            }

    @torch.no_grad()
    def after_update(self, learner: Any, **kwargs: Any) -> None:
        """Whatever momentum and weight decay did: the old rows stay."""
        for name, parameter in find_head(learner.model).named_parameters() if self._rows else ():
            leading_part(parameter.data, self._rows[name].shape).copy_(self._rows[name])

    def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """The old network has done its work."""
        super().after_training_exp(learner, **kwargs)
        self._rows = {}


def build(config: Config, seed: int) -> LFLPlugin:
    """The plugin; it draws no random numbers."""
    return LFLPlugin(config)
