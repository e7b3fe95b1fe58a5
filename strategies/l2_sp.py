"""L2-SP: pull parameters back to a starting point instead of to 0.

    L = L_CE + weight * sum_i (theta_i - theta0_i)^2
    reference "experience":  theta0: all parameters at the start of the experience, from the second experience on
    reference "pretrained":  theta0: all but the head's at the start of the first experience, from the first experience on

Rows that a head gains are free. Source: Li, Grandvalet & Davoine 2018 (1802.01483). They pull a network to the pretrained weights
that it is finetuned from, which is "pretrained". Their alpha has a factor 1/2: weight = alpha / 2. Their beta, for new
parameters, is plain weight decay: ``training.optimizer.groups``. With "experience" the term is the penalty of EWC, SI and MAS
with equal importances (FACIL's and Mammoth's codes have none of this name; van de Ven calls it L2).
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch

from ..platform.errors import UserError
from ..platform.methods.quadratic_penalty import PenaltyPlugin
from ..platform.models.features import find_head

NEUTRAL: dict[str, Any] | None = {"weight": 0.0}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Pull parameters back to their values at the start of the experience, or to pretrained weights (L2-SP).

    weight: weight of the squared distance, >= 0.
    reference: "experience" (the start of each experience) or "pretrained" (the start of the first one; the head is free).
    """

    weight: float = 0.01
    reference: Literal["experience", "pretrained"] = "experience"

    def __post_init__(self) -> None:
        weight, reference = self.weight, self.reference
        if not 0 <= weight < math.inf:
            raise ValueError(f"{weight=}: must be >= 0 and finite")
        if reference not in ("experience", "pretrained"):
            raise ValueError(f"{reference=}: must be 'experience' or 'pretrained'")


def check_stream(config: Config, num_classes: int, num_experiences: int) -> None:
    """Refuse reference 'experience' if only one experience is trained on."""
    if config.weight > 0 and config.reference == "experience" and num_experiences < 2:
        key = "strategies.l2_sp.reference='experience'"
        raise UserError(f"{key}: acts from the second experience trained on, and there is one only; use 'pretrained'")


class L2SPPlugin(PenaltyPlugin):
    """Adds weight * squared distance to the loss."""

    def __init__(self, config: Config) -> None:
        super().__init__(config.weight)
        self.config = config
        self._num_trained = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the reference and the number of trained experiences."""
        return super().state_dict() | {"num_trained": self._num_trained}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the reference and the number of trained experiences."""
        super().load_state_dict(state)
        self._num_trained = state["num_trained"]

    def before_train_dataset_adaptation(self, learner: Any, **kwargs: Any) -> None:
        """Make the present parameters the reference, before the head grows."""
        pretrained = self.config.reference == "pretrained"
        if self.weight == 0 or pretrained != (self._num_trained == 0):
            return
        head = {id(parameter) for parameter in find_head(learner.model).parameters()} if pretrained else set()
        named = learner.model.named_parameters()
        self.penalty.anchor(learner.model, {n: torch.ones_like(p) for n, p in named if id(p) not in head})

    def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """Count the experience."""
        self._num_trained += 1


def build(config: Config, seed: int) -> L2SPPlugin:
    """Return the plugin; it uses no random numbers."""
    return L2SPPlugin(config)
