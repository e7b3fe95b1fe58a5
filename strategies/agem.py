"""A-GEM: the gradient is turned, where it would undo what is remembered, so that it does not (to first order).

    g~ = g                                where g . r >= 0
    g~ = g - (g . r / r . r) r            else

g is the gradient of the whole loss on the mini-batch (P,), r that of the cross-entropy on a mini-batch drawn from memory,
both over all parameters that are trained. The memory keeps as many samples of each experience, chosen at random when its training
ends; only their gradient is used, they are not trained on. On a task-incremental stream each sample counts among its own
task's outputs. The reference pass runs in training mode, as in the peers, so that BatchNorm's statistics see it.
Shapes: M remembered in a mini-batch, P parameters.

Source: Chaudhry et al. 2019 (1812.00420), equation 11. Peers: Avalanche's AGEM has patterns_per_experience = memory and
sample_size = sample_size (drawn evenly from the experiences); Mammoth's has minibatch_size = sample_size and a memory of
buffer_size in all, that is memory = buffer_size / experiences.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..platform.methods.gradient_projection import GradientProjectionPlugin, gradient_of
from ..platform.methods.replay_memory import REDUNDANT_MEMORY

NEUTRAL: dict[str, Any] | None = {"memory": 0}
ROLES = ("memory", "loss of its own")
CONFLICTS = REDUNDANT_MEMORY


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """A-GEM: let no step go against the gradient of remembered samples.

    memory: how many samples of each experience are remembered, >= 0.
    sample_size: remembered samples that the reference gradient is taken of in each iteration, >= 1.
    """

    memory: int = 250
    sample_size: int = 256

    def __post_init__(self) -> None:
        memory, sample_size = self.memory, self.sample_size
        if memory < 0:
            raise ValueError(f"{memory=}: must be >= 0 samples of each experience")
        if sample_size < 1:
            raise ValueError(f"{sample_size=}: must be >= 1 sample")


def projected(gradient: Tensor, reference: Tensor) -> Tensor:
    """g~ of this file's formula: gradient (P,) and reference (P,)."""
    product = gradient @ reference
    against = torch.where(product < 0, product / reference.square().sum(), 0.0)
    return gradient - against * reference


class AGEMPlugin(GradientProjectionPlugin):
    """The reference is one gradient, on samples drawn from the whole memory."""

    def reference(self, learner: Any) -> Tensor:
        """What the gradient must not go against: (P,)."""
        return gradient_of(learner, self.minibatch(learner, self.draw(learner)))

    def turn(self, gradient: Tensor, reference: Tensor) -> Tensor:
        """The gradient (P,) that is followed."""
        return projected(gradient, reference)


def build(config: Config, seed: int) -> AGEMPlugin:
    """The plugin; its random numbers are derived from `seed`."""
    return AGEMPlugin(config.memory, config.sample_size, seed, "agem")
