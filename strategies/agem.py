"""A-GEM: project the gradient where a step would raise the loss on remembered samples, so that to first order it does not.

    g~ = g                                where g . r >= 0
    g~ = g - (g . r / r . r) r            else

g (P,) is the gradient of the whole loss on the mini-batch. r (P,) is that of the cross-entropy on a mini-batch sampled from
memory. Both are over all trained parameters. The memory keeps the same number of samples of each experience, chosen at random
when its training ends. Only their gradient is used; they are not trained on. On a task-incremental stream each sample is
classified among its task's outputs. The reference pass runs in training mode, as in the peers, so BatchNorm's statistics see it.
Shapes: M remembered in a mini-batch, P parameters.

Source: Chaudhry et al. 2019 (1812.00420), equation 11. Peers: Avalanche's AGEM has patterns_per_experience = memory and
sample_size = sample_size (sampled evenly from the experiences). Mammoth's has minibatch_size = sample_size and a memory of
buffer_size in all, that is memory = buffer_size / experiences.
"""

import torch
from torch import Tensor

from ..platform.config.settings import NonNegativeInt, PositiveInt, settings
from ..platform.methods.gradient_projection import GradientProjectionPlugin, gradient_of
from ..platform.training.plugin import LearnerView

NEEDS_PAST = True
ROLES = ("memory", "second loss")


@settings
class Config:
    """Project each gradient so that no step opposes the gradient of remembered samples (A-GEM).

    memory: how many samples of each experience are remembered, >= 0.
    sample_size: remembered samples for the reference gradient in each iteration, >= 1.
    """

    memory: NonNegativeInt = 250
    sample_size: PositiveInt = 256


def project_gradient(gradient: Tensor, reference: Tensor) -> Tensor:
    """Return g~ of this file's formula, for gradient (P,) and reference (P,)."""
    product = gradient @ reference
    against = torch.where(product < 0, product / reference.square().sum(), 0.0)
    return gradient - against * reference


class AGEMPlugin(GradientProjectionPlugin[Config]):
    """Uses one reference gradient, on samples from the whole memory."""

    def separate_batch_size(self, batch_size: int, num_trained: int) -> int:
        """Return how many remembered samples a reference gradient is computed on."""
        return min(self.config.sample_size, self.config.memory * num_trained)

    def reference(self, learner: LearnerView) -> Tensor:
        """Return the gradient (P,) that a step must not oppose."""
        index = self.memory.sample(learner, self.config.sample_size)
        return gradient_of(learner, self.memory.minibatch(learner, index))

    def project(self, gradient: Tensor, reference: Tensor) -> Tensor:
        """Return the projected gradient (P,)."""
        return project_gradient(gradient, reference)
