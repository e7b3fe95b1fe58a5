"""GEM: project the gradient, changing it as little as possible, so that to first order no past experience's loss grows.

    g~ = argmin_z || z - g ||^2 / 2   with  G z >= 0        (where G g >= 0 already: g~ = g)
       = g + G' v,   v = argmin_{v >= strength} v' (G G' + 1e-3 I) v / 2 + (G g)' v

g (P,) is the gradient of the whole loss on the mini-batch. Each row of G (E, P) is the gradient of the cross-entropy on all
remembered samples of one past experience, by the network before the step. The dual is solved exactly, by an active set method,
in float64. strength > 0 (the paper's memory strength, gamma) pushes further towards old gradients. What A-GEM's docstring says
about the memory, tasks and BatchNorm holds here too.
Shapes: P parameters, E past experiences.

Source: Lopez-Paz & Ranzato 2017 (1706.08840), equations 11 and 12; the 1e-3 is from the authors' code. Peers: Avalanche's GEM
has patterns_per_experience = memory and memory_strength = strength. Mammoth's has gamma = strength and buffer_size =
memory * experiences.
"""

import torch
from torch import Tensor

from ..platform.config.settings import NonNegativeFloat, NonNegativeInt, settings
from ..platform.methods.gradient_projection import GradientProjectionPlugin, gradient_of, nonnegative_quadratic
from ..platform.methods.replay_memory import Columns
from ..platform.training.plugin import LearnerView

NEEDS_PAST = True
ROLES = ("memory", "second loss")
_RIDGE = 1e-3


@settings
class Config:
    """Project each gradient so that no step opposes the gradient of any past experience (GEM).

    memory: remembered samples of each experience, >= 0.
    strength: smallest weight of each past gradient where the step is corrected, >= 0.
    """

    memory: NonNegativeInt = 250
    strength: NonNegativeFloat = 0.5


def project_gradient(gradient: Tensor, references: Tensor, strength: float) -> Tensor:
    """Return g~ (P,) of this file's formula for a gradient (P,) and references (E, P)."""
    g, rows = gradient.double(), references.double()
    products = (rows @ g).cpu()
    if bool((products >= 0).all()) or not bool(products.isfinite().all()):
        return gradient
    gram = (rows @ rows.T).cpu()
    gram = (gram + gram.T) / 2 + _RIDGE * torch.eye(len(gram), dtype=torch.float64)
    weights = strength + nonnegative_quadratic(gram, products + strength * gram.sum(1))
    return (g + weights.to(rows.device) @ rows).to(gradient.dtype)


class GEMPlugin(GradientProjectionPlugin[Config]):
    """Computes a gradient per past experience before an iteration, and changes the gradient after the backward pass."""

    def separate_batch_size(self, batch_size: int, num_trained: int) -> int:
        """Return how many remembered samples of an experience its gradient is computed on."""
        return self.config.memory if num_trained else 0

    def new_samples(self, learner: LearnerView) -> Columns:
        """Return the columns of the experience's samples, with its number."""
        new = super().new_samples(learner)
        return new | {"experience": torch.full_like(new["y"], learner.experience.current_experience)}

    def reference(self, learner: LearnerView) -> Tensor:
        """Return one gradient per past experience: (E, P)."""
        numbers = self.memory.columns["experience"]
        rows = [(numbers == number).nonzero().flatten() for number in numbers.unique()]
        return torch.stack([gradient_of(learner, self.memory.minibatch(learner, index)) for index in rows])

    def project(self, gradient: Tensor, reference: Tensor) -> Tensor:
        """Return the nearest gradient (P,) that opposes none of the references."""
        return project_gradient(gradient, reference, self.config.strength)
