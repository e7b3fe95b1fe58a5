"""Memory Aware Synapses: keep parameters that the network's outputs depend on near their values after the old experiences.

    L = L_CE + weight * sum_i Omega_i (theta_i - theta*_i)^2,  theta*: the values at the end of the newest experience
    Omega_t,i = mean over samples of |d ||f(x)||^2 / d theta_i|,  f(x): the logits
    Omega <- Omega + Omega_t   (alpha null), or   Omega <- alpha * Omega + (1 - alpha) * Omega_t

No labels are needed. Gradients are per sample, in evaluation mode, without augmentation. In a task-incremental stream f(x) holds
the outputs of the sample's task. Omega_t is measured at the end of an experience, in the order in which strategies are named:
name `early_stopping`, which restores weights, before this one.

Source: Aljundi et al. 2018 (1711.09601), the global version, which sums Omega up and has no bound (`largest: null`).
Peers (no bound either): Avalanche's lambda_reg = weight, with alpha 0.5 by default. It takes the absolute gradient of a
mini-batch's mean, in which samples cancel, and updates BatchNorm's statistics meanwhile. FACIL's lamb = 2 * weight (it has a
factor 1/2); its alpha is ours; it uses ||f|| instead of its square.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..platform.methods.per_sample_gradients import gradient_sums, masked_predictions, training_samples
from ..platform.methods.quadratic_penalty import NamedTensors, PenaltyPlugin, decayed_sum
from ..platform.seeding import generator

NEUTRAL: dict[str, Any] | None = {"weight": 0.0}
CONFLICTS = {"joint": "joint trains once, so there are no old experiences to protect"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Keep the parameters that the network's outputs depend on near their old values (Memory Aware Synapses).

    weight: lambda, >= 0.
    alpha: weight, in [0, 1], of the old importances in a mean with the new ones; null: they are summed.
    num_samples: randomly sampled per experience to measure importance; null: all.
    largest: upper bound of an importance; null: no bound, as in the paper. SGD diverges where weight * Omega * lr > 1.
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
    """Return ||f(x)||^2 of each sample (B, 1), over the logits (B, C) where `own` (B, C) is not 0."""
    return (logits * own).square().sum(1, keepdim=True)


def mix_importances(old: NamedTensors, new: NamedTensors, alpha: float | None) -> NamedTensors:
    """Return Omega after an experience."""
    if alpha is None or not old:
        return decayed_sum(old, new)
    return decayed_sum(old, {name: (1 - alpha) * tensor for name, tensor in new.items()}, alpha)


class MASPlugin(PenaltyPlugin):
    """Adds weight * penalty to the loss, and measures importances when an experience ends."""

    def __init__(self, config: Config, seed: int) -> None:
        super().__init__(config.weight)
        self.config, self.seed = config, seed

    def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """Update Omega, and anchor the penalty at the present parameters."""
        if self.weight > 0:
            omega = mix_importances(self.penalty.importances, self.importances(learner), self.config.alpha)
            bound = self.config.largest or math.inf
            self.penalty.anchor(learner.model, {name: tensor.clamp(max=bound) for name, tensor in omega.items()})

    def importances(self, learner: Any) -> NamedTensors:
        """Return Omega_t of the network on the experience's training samples."""
        number, length = learner.experience.current_experience, len(learner.experience.dataset)
        order = torch.randperm(length, generator=generator(self.seed, "mas samples", number))
        order = order[: self.config.num_samples]
        total: NamedTensors = {}
        for x, _, t in training_samples(learner, order):
            own = (masked_predictions(learner, x, t) > -torch.inf).to(x.dtype)
            total = decayed_sum(total, gradient_sums(learner.model, x, own, squared_norm, 1))
        return {name: tensor / len(order) for name, tensor in total.items()}


def build(config: Config, seed: int) -> MASPlugin:
    """Return the plugin; its random numbers are derived from `seed`."""
    return MASPlugin(config, seed)
