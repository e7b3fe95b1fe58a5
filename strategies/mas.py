"""Memory Aware Synapses: keep parameters that the network's outputs depend on near their values after the old experiences.

    L = L_CE + weight * sum_i Omega_i (theta_i - theta*_i)^2,  theta*: the values at the end of the newest experience
    Omega_t,i = mean over samples of |d ||f(x)||^2 / d theta_i|,  f(x): the logits
    Omega <- Omega + Omega_t   (alpha null), or   Omega <- alpha * Omega + (1 - alpha) * Omega_t

No labels are needed. Gradients are per sample, in evaluation mode, without augmentation. In a task-incremental stream f(x) holds
the outputs of the sample's task. Omega_t is measured at the end of an experience, after strategies
such as `early_stopping` have restored weights.

Source: Aljundi et al. 2018 (1711.09601), the global version, which sums Omega up and has no bound (`largest: null`).
Peers (no bound either): Avalanche's lambda_reg = weight, with alpha 0.5 by default. It takes the absolute gradient of a
mini-batch's mean, in which samples cancel, and updates BatchNorm's statistics meanwhile. FACIL's lamb = 2 * weight (it has a
factor 1/2); its alpha is ours; it uses ||f|| instead of its square.
"""

import math
from typing import Annotated

import torch
from torch import Tensor

from ..platform.config.settings import Gt, NonNegativeFloat, PositiveInt, UnitInterval, settings
from ..platform.methods.per_sample_gradients import gradient_sums, masked_predictions, training_samples
from ..platform.methods.quadratic_penalty import NamedTensors, PenaltyPlugin, decayed_sum
from ..platform.seeding import generator
from ..platform.training.plugin import LearnerView

NEEDS_PAST = True


@settings
class Config:
    """Keep the parameters that the network's outputs depend on near their old values (Memory Aware Synapses).

    weight: lambda, >= 0.
    alpha: weight, in [0, 1], of the old importances in a mean with the new ones; null: they are summed.
    num_samples: randomly sampled per experience to measure importance; null: all.
    largest: upper bound of an importance; null: no bound, as in the paper. SGD diverges where weight * Omega * lr > 1.
    """

    weight: NonNegativeFloat = 1.0
    alpha: UnitInterval | None = None
    num_samples: PositiveInt | None = 1000
    largest: Annotated[float, Gt(0)] | None = 1.0


def squared_norm(logits: Tensor, own: Tensor) -> Tensor:
    """Return ||f(x)||^2 of each sample (B, 1), over the logits (B, C) where `own` (B, C) is not 0."""
    return (logits * own).square().sum(1, keepdim=True)


def mix_importances(old: NamedTensors, new: NamedTensors, alpha: float | None) -> NamedTensors:
    """Return Omega after an experience."""
    if alpha is None or not old:
        return decayed_sum(old, new)
    return decayed_sum(old, {name: (1 - alpha) * tensor for name, tensor in new.items()}, alpha)


class MASPlugin(PenaltyPlugin[Config]):
    """Adds weight * penalty to the loss, and measures importances when an experience ends."""

    def after_training_exp(self, learner: LearnerView, **kwargs: object) -> None:
        """Update Omega, and anchor the penalty at the present parameters."""
        if self.config.weight > 0:
            omega = mix_importances(self.penalty.importances, self.importances(learner), self.config.alpha)
            bound = self.config.largest or math.inf
            self.penalty.anchor(learner.model, {name: tensor.clamp(max=bound) for name, tensor in omega.items()})

    def importances(self, learner: LearnerView) -> NamedTensors:
        """Return Omega_t of the network on the experience's training samples."""
        number, length = learner.experience.current_experience, len(learner.experience.dataset)
        order = torch.randperm(length, generator=generator(self.seed, "mas samples", number))
        order = order[: self.config.num_samples]
        total: NamedTensors = {}
        for x, _, t in training_samples(learner, order):
            own = (masked_predictions(learner, x, t) > -torch.inf).to(x.dtype)
            total = decayed_sum(total, gradient_sums(learner.model, x, own, squared_norm, 1))
        return {name: tensor / len(order) for name, tensor in total.items()}
