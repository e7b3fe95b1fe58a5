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
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..platform.methods.replay_memory import NEEDLESS, MemoryPlugin, logits_apart

NEUTRAL: dict[str, Any] | None = {"memory": 0}
ROLES = ("memory", "loss of its own")
CONFLICTS = NEEDLESS


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


def trained(model: nn.Module) -> list[nn.Parameter]:
    """The parameters whose gradients count."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def gradient_of(strategy: Any, minibatch: list[Tensor]) -> Tensor:
    """Gradient (P,) of the cross-entropy on a mini-batch [x, y, t] of its own."""
    scaler = getattr(strategy, "scaler", None)
    scale = 1.0 if scaler is None else scaler.get_scale()  # with float16 small gradients would be lost
    loss = scale * cross_entropy(logits_apart(strategy, minibatch), minibatch[1])
    parameters = trained(strategy.model)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    pairs = zip(parameters, found, strict=True)
    return (
        torch.cat([(torch.zeros_like(p) if gradient is None else gradient).flatten() for p, gradient in pairs]) / scale
    )


class AGEMPlugin(MemoryPlugin):
    """Takes the reference gradient before each iteration, and turns the gradient after the backward pass."""

    def __init__(self, memory: int, sample_size: int | None, seed: int, name: str) -> None:
        """`memory`: of each experience."""
        super().__init__(memory, sample_size, seed, name)
        self._reference: Tensor | None = None

    def keep(self, strategy: Any, candidates: dict[str, Tensor]) -> Tensor:
        """All old ones, and of the new ones those with the smallest keys."""
        num_old = len(self)
        new = candidates["key"][num_old:].argsort()[: self.memory].sort().values + num_old
        return torch.cat([torch.arange(num_old, device=new.device), new])

    def reference(self, strategy: Any) -> Tensor:
        """What the gradient must not go against: (P,)."""
        return gradient_of(strategy, self.minibatch(strategy, self.draw(strategy)))

    def turn(self, gradient: Tensor, reference: Tensor) -> Tensor:
        """The gradient (P,) that is followed."""
        return projected(gradient, reference)

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """The reference, by the network as it is before the step."""
        self._reference = self.reference(strategy) if len(self) else None

    @torch.no_grad()
    def after_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Turn the gradient; a parameter that has none stays without."""
        if self._reference is None:
            return
        parameters = trained(strategy.model)
        own = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        together = torch.cat([gradient.flatten() for gradient in own])
        if not bool(together.isfinite().all() & self._reference.isfinite().all()):  # float16 overflowed
            self._reference = None
            return
        turned = self.turn(together, self._reference)
        for gradient, new in zip(own, turned.split([p.numel() for p in parameters]), strict=True):
            gradient.copy_(new.view_as(gradient))
        self._reference = None


def build(config: Config, seed: int) -> AGEMPlugin:
    """The plugin; its random numbers are derived from `seed`."""
    return AGEMPlugin(config.memory, config.sample_size, seed, "agem")
