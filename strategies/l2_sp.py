"""L2-SP: pull parameters back to a starting point instead of to 0.

    L = L_CE + weight * sum_i (theta_i - theta0_i)^2
    reference "experience":  theta0: all parameters at the start of the experience, from the second experience on
    reference "pretrained":  theta0: all but the head's at the start of the first experience, from the first experience on

Rows that a head gains are free. Source: Li, Grandvalet & Davoine 2018 (1802.01483). They pull a network to the pretrained weights
that it is finetuned from, which is "pretrained". Their alpha has a factor 1/2: weight = alpha / 2. Their beta, for new
parameters, is plain weight decay: ``training.optimizer.groups``. With "experience" the term is the penalty of EWC, SI and MAS
with equal importances (FACIL's and Mammoth's codes have none of this name; van de Ven calls it L2).
"""

from typing import Literal

import torch

from ..platform.config.settings import NonNegativeFloat, settings
from ..platform.errors import UserError
from ..platform.methods.quadratic_penalty import PenaltyPlugin
from ..platform.models.features import find_head
from ..platform.training.plugin import LearnerView


@settings
class Config:
    """Pull parameters back to their values at the start of the experience, or to pretrained weights (L2-SP).

    weight: weight of the squared distance, >= 0.
    reference: "experience" (the start of each experience) or "pretrained" (the start of the first one; the head is free).
    """

    weight: NonNegativeFloat = 0.01
    reference: Literal["experience", "pretrained"] = "experience"


def check_stream(config: Config, num_classes: int, num_experiences: int) -> None:
    """Refuse reference 'experience' if only one experience is trained on."""
    if config.weight > 0 and config.reference == "experience" and num_experiences < 2:
        key = "strategies.l2_sp.reference='experience'"
        raise UserError(f"{key}: acts from the second experience trained on, and there is one only; use 'pretrained'")


class L2SPPlugin(PenaltyPlugin[Config]):
    """Adds weight * squared distance to the loss."""

    STATE = ("penalty", "num_trained")
    num_trained = 0  # number of experiences

    def before_train_dataset_adaptation(self, learner: LearnerView, **kwargs: object) -> None:
        """Make the present parameters the reference, before the head grows."""
        pretrained = self.config.reference == "pretrained"
        if self.config.weight == 0 or pretrained != (self.num_trained == 0):
            return
        head = {id(parameter) for parameter in find_head(learner.model).parameters()} if pretrained else set()
        named = learner.model.named_parameters()
        self.penalty.anchor(learner.model, {n: torch.ones_like(p) for n, p in named if id(p) not in head})

    def after_training_exp(self, learner: LearnerView, **kwargs: object) -> None:
        """Count the experience."""
        self.num_trained += 1
