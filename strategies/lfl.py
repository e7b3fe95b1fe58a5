"""Less-Forgetting Learning: keep the features of new data close to the old network's, and keep the old decision boundaries.

    L = L_CE + weight * mean_{B,D} (f(x) - f_old(x))^2,  f: the features (the head's input)

The rows that the head had at the start of the experience keep their bits; rows that it gains learn. The old network is a copy
from the start of the experience, in evaluation mode. The first experience has no old network and trains the head too.
Shapes: B batch, D features, K rows of the head before it grew.

Source: Jung et al. 2016 (1607.00122), for new domains of the same classes, so they keep the whole head. Their lambda_e weights
half the squared distance of each sample: weight = lambda_e * D / 2. They start from the old weights, as all our strategies do.
Peer: Avalanche's lambda_e = weight. It passes the samples through the network a second time, in evaluation mode, for features.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..platform.methods.layer_distillation import LayerDistillation
from ..platform.methods.quadratic_penalty import NamedTensors, leading_part, moved_to
from ..platform.models.features import FEATURES, find_head

NEUTRAL: dict[str, Any] | None = {"weight": 0.0, "freeze_head": False}
CONFLICTS = {"joint": "joint trains once, so there is no old network to keep features of"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Keep the features of new data close to the old network's, and keep the head's old rows (Less-Forgetting Learning).

    weight: weight of the mean squared distance of features, >= 0.
    freeze_head: whether the rows that the head had before the experience are kept.
    """

    weight: float = 1.0
    freeze_head: bool = True

    def __post_init__(self) -> None:
        weight = self.weight
        if not 0 <= weight < math.inf:
            raise ValueError(f"{weight=}: must be >= 0 and finite")


def feature_distance(new: Tensor, old: Tensor) -> Tensor:
    """Return mean_{B,D} (new - old)^2, a scalar, for features (B, D)."""
    return nn.functional.mse_loss(new, old)


class LFLPlugin(LayerDistillation):
    """Adds weight * distance of the features to the loss, and restores the head's old rows after each step."""

    def __init__(self, config: Config) -> None:
        super().__init__(config.weight > 0)
        self.config = config
        self._rows: NamedTensors = {}  # the head's parameters at the start of the experience

    def layers(self, model: nn.Module) -> list[str]:
        """Return the name of the features."""
        return [FEATURES]

    def term(self, learner: Any, student: dict[str, Tensor], teacher: dict[str, Tensor]) -> Tensor:
        """Return the weighted distance, a scalar."""
        return self.config.weight * feature_distance(student[FEATURES], teacher[FEATURES])

    def state_dict(self) -> dict[str, Any]:
        """Return the counts, the teacher's tensors and the head's old rows."""
        return super().state_dict() | {"rows": self._rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the state; `on_resume` rebuilds the teacher."""
        super().load_state_dict(state)
        self._rows = dict(state["rows"])

    def on_resume(self, learner: Any) -> None:
        """Rebuild the teacher, and move the old rows to the device."""
        super().on_resume(learner)
        self._rows = moved_to(self._rows, learner.device)

    def before_train_dataset_adaptation(self, learner: Any, **kwargs: Any) -> None:
        """Copy the head and the network, before the head grows."""
        super().before_train_dataset_adaptation(learner, **kwargs)
        if self.num_trained and self.config.freeze_head:
            # `num_old`: a head with all outputs from the start has rows for classes that are not seen yet
            head = find_head(learner.model).named_parameters()
            self._rows = {
                name: p.detach()[: self.num_old].clone() if p.ndim else p.detach().clone() for name, p in head
            }

    @torch.no_grad()
    def after_update(self, learner: Any, **kwargs: Any) -> None:
        """Restore the old rows, which momentum and weight decay may have changed."""
        for name, parameter in find_head(learner.model).named_parameters() if self._rows else ():
            leading_part(parameter.data, self._rows[name].shape).copy_(self._rows[name])

    def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """Drop the teacher and the old rows."""
        super().after_training_exp(learner, **kwargs)
        self._rows = {}


def build(config: Config, seed: int) -> LFLPlugin:
    """Return the plugin; it uses no random numbers."""
    return LFLPlugin(config)
