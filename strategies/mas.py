"""Memory Aware Synapses: parameters that the network's outputs depend on are held where the old experiences left them.

    L = L_CE + weight * sum_i Omega_i (theta_i - theta*_i)^2,  theta*: as the newest experience left them
    Omega_t,i = mean over samples of |d ||f(x)||^2 / d theta_i|,  f(x): the logits
    Omega <- Omega + Omega_t   (alpha null), or   Omega <- alpha * Omega + (1 - alpha) * Omega_t

No labels are needed. The gradients are those of each sample alone, in evaluation mode, without augmentation; of a
task-incremental stream f(x) holds the outputs of the sample's own task. Omega_t is measured where this strategy's turn comes
at an experience's end: name `early_stopping`, which restores weights, before it.

Source: Aljundi et al. 2018 (1711.09601), the global version, which adds Omega up and has no bound (`largest: null`).
Peers (no bound either): Avalanche's lambda_reg = weight, with alpha 0.5 by default; it takes the size of the gradient of a
mini-batch's mean, in which samples cancel, and trains BatchNorm's statistics on the way. FACIL's lamb = 2 * weight (it has a
factor 1/2), alpha likewise, of ||f|| instead of its square.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..platform.methods.per_sample_gradients import gradient_sums, masked_predictions, training_samples
from ..platform.methods.quadratic_penalty import Named, PenaltyPlugin, decayed_sum
from ..platform.seeding import generator

NEUTRAL: dict[str, Any] | None = {"weight": 0.0}
CONFLICTS = {"joint": "joint trains once, so there are no old experiences whose parameters could be held"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Memory Aware Synapses: hold the parameters that the network's outputs depend on.

    weight: lambda, >= 0.
    alpha: what the old importances count in a mean with the new ones, in [0, 1]; null: they are added up.
    num_samples: of each experience, drawn at random, on which importance is measured; null: all.
    largest: an importance is at most this; null: no bound, as in the paper. SGD diverges where weight * Omega * lr > 1.
    """

    weight: float = 1.0
    alpha: float | None = None
    num_samples: int | None = 1000
    largest: float | None = 1.0

    def __post_init__(self) -> None:
        weight, alpha, num_samples = self.weight, self.alpha, self.num_samples
        if not 0 <= weight < math.inf:
            raise ValueError(f"{weight=}: must be >= 0 and finite")
        if alpha is not None and not 0 <= alpha <= 1:
            raise ValueError(f"{alpha=}: must be in [0, 1], or null to add up")
        if num_samples is not None and num_samples < 1:
            raise ValueError(f"{num_samples=}: must be >= 1, or null for all")
        if self.largest is not None and not self.largest > 0:
            raise ValueError(f"largest={self.largest}: must be > 0, or null for no bound")


def squared_norm(logits: Tensor, own: Tensor) -> Tensor:
    """||f(x)||^2 of each sample, (B, 1): of logits (B, C) those where `own` (B, C) is not 0."""
    return (logits * own).square().sum(1, keepdim=True)


def mixed(old: Named, new: Named, alpha: float | None) -> Named:
    """Omega after an experience."""
    if alpha is None or not old:
        return decayed_sum(old, new)
    return decayed_sum(old, {name: (1 - alpha) * tensor for name, tensor in new.items()}, alpha)


class MASPlugin(PenaltyPlugin):
    """Adds weight * penalty to the loss, and measures importances when an experience ends."""

    def __init__(self, config: Config, seed: int) -> None:
        super().__init__(config.weight)
        self.config, self.seed = config, seed

    def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """The experience that ends is one of those to be kept."""
        if self.weight > 0:
            omega = mixed(self.penalty.importances, self.importances(learner), self.config.alpha)
            bound = self.config.largest or math.inf
            self.penalty.anchor(learner.model, {name: tensor.clamp(max=bound) for name, tensor in omega.items()})

    def importances(self, learner: Any) -> Named:
        """Omega_t of the network on the experience's training samples."""
        number, length = learner.experience.current_experience, len(learner.experience.dataset)
        order = torch.randperm(length, generator=generator(self.seed, "mas samples", number))
        order = order[: self.config.num_samples]
        total: Named = {}
        for x, _, t in training_samples(learner, order):
            own = (masked_predictions(learner, x, t) > -torch.inf).to(x.dtype)
            total = decayed_sum(total, gradient_sums(learner.model, x, own, squared_norm, 1))
        return {name: tensor / len(order) for name, tensor in total.items()}


def build(config: Config, seed: int) -> MASPlugin:
    """The plugin; its random numbers are derived from `seed`."""
    return MASPlugin(config, seed)
