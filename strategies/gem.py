"""GEM: the gradient is moved as little as is needed so that no past experience's loss grows (to first order).

    g~ = argmin_z || z - g ||^2 / 2   with  G z >= 0        (where G g >= 0 already: g~ = g)
       = g + G' v,   v = argmin_{v >= strength} v' (G G' + 1e-3 I) v / 2 + (G g)' v

g is the gradient of the whole loss on the mini-batch (P,), the rows of G (E, P) are those of the cross-entropy on all remembered
samples of each past experience, by the network as it is before the step. The dual is solved exactly, by an active set,
in float64. strength > 0 (the paper's memory strength, gamma) pushes on towards old gradients. What A-GEM's docstring says of
the memory, of tasks and of BatchNorm holds here too.
Shapes: P parameters, E past experiences.

Source: Lopez-Paz & Ranzato 2017 (1706.08840), equations 11 and 12; the 1e-3 is the authors' code's. Peers: Avalanche's GEM has
patterns_per_experience = memory and memory_strength = strength; Mammoth's has gamma = strength and buffer_size =
memory * experiences.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..platform.methods.gradient_projection import GradientProjectionPlugin, gradient_of
from ..platform.methods.replay_memory import REDUNDANT_MEMORY

NEUTRAL: dict[str, Any] | None = {"memory": 0}
ROLES = ("memory", "loss of its own")
CONFLICTS = REDUNDANT_MEMORY
_RIDGE = 1e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """GEM: let no step go against the gradient of any past experience.

    memory: how many samples of each experience are remembered, >= 0.
    strength: the least weight of each past gradient where the step is corrected, >= 0.
    """

    memory: int = 250
    strength: float = 0.5

    def __post_init__(self) -> None:
        memory, strength = self.memory, self.strength
        if memory < 0:
            raise ValueError(f"{memory=}: must be >= 0 samples of each experience")
        if not 0 <= strength < math.inf:
            raise ValueError(f"{strength=}: must be >= 0 and finite")


def projected(gradient: Tensor, references: Tensor, strength: float) -> Tensor:
    """g~ of this file's formula: gradient (P,) and references (E, P)."""
    g, rows = gradient.double(), references.double()
    products = (rows @ g).cpu()
    if bool((products >= 0).all()):
        return gradient
    among = (rows @ rows.T).cpu()
    among = (among + among.T) / 2 + _RIDGE * torch.eye(len(among), dtype=torch.float64)
    weights = strength + non_negative(among, products + strength * among.sum(1))
    return (g + weights.to(rows.device) @ rows).to(gradient.dtype)


def non_negative(matrix: Tensor, vector: Tensor) -> Tensor:
    """The w >= 0 (E,) that minimises w' A w / 2 + b' w, for positive definite A (E, E) and b (E,): Lawson and Hanson 1974."""
    found, free = torch.zeros_like(vector), torch.zeros(len(vector), dtype=torch.bool)
    least = 1e-12 * float(vector.abs().max())
    while True:
        descent = (-(matrix @ found) - vector).masked_fill(free, -torch.inf)
        best = int(descent.argmax())
        if float(descent[best]) <= least:
            return found
        free[best] = True
        while True:
            wanted = torch.zeros_like(vector)
            wanted[free] = torch.linalg.solve(matrix[free][:, free], -vector[free])
            blocked = free & (wanted <= 0)
            if not bool(blocked.any()):
                break
            # as far as the first that would become negative; that one is bound again
            steps = (found / (found - wanted)).masked_fill(~blocked, torch.inf)
            first = int(steps.argmin())
            found = found + steps[first] * (wanted - found)
            found[first], free[first] = 0.0, False
        found = wanted


class GEMPlugin(GradientProjectionPlugin):
    """Takes a gradient for each past experience before an iteration, and moves the gradient after the backward pass."""

    def __init__(self, config: Config, seed: int) -> None:
        super().__init__(config.memory, None, seed, "gem")
        self.config = config

    def remember(self, learner: Any, new: dict[str, Tensor]) -> None:
        """With the number of the experience."""
        number = learner.experience.current_experience
        super().remember(learner, new | {"experience": torch.full_like(new["y"], number)})

    def reference(self, learner: Any) -> Tensor:
        """A row for each past experience: (E, P)."""
        self.inputs(learner)  # on the device
        numbers = self.columns["experience"]
        rows = [(numbers == number).nonzero().flatten() for number in numbers.unique()]
        return torch.stack([gradient_of(learner, self.minibatch(learner, index)) for index in rows])

    def turn(self, gradient: Tensor, reference: Tensor) -> Tensor:
        """The nearest gradient that goes against none."""
        return projected(gradient, reference, self.config.strength)


def build(config: Config, seed: int) -> GEMPlugin:
    """The plugin; its random numbers are derived from `seed`."""
    return GEMPlugin(config, seed)
