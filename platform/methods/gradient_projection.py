"""Gradients of remembered samples, and the base of methods that turn the gradient by them (A-GEM, GEM).

Shapes: P parameters, M remembered samples in a mini-batch.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .replay_memory import MemoryPlugin, separate_logits


def trained(model: nn.Module) -> list[nn.Parameter]:
    """The parameters whose gradients count."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def gradient_of(learner: Any, minibatch: list[Tensor]) -> Tensor:
    """Gradient (P,) of the cross-entropy on a mini-batch [x, y, t] of its own."""
    scaler = getattr(learner, "scaler", None)
    scale = 1.0 if scaler is None else scaler.get_scale()  # with float16 small gradients would be lost
    loss = scale * cross_entropy(separate_logits(learner, minibatch), minibatch[1])
    parameters = trained(learner.model)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    pairs = zip(parameters, found, strict=True)
    return (
        torch.cat([(torch.zeros_like(p) if gradient is None else gradient).flatten() for p, gradient in pairs]) / scale
    )


class GradientProjectionPlugin(MemoryPlugin):
    """Take a reference gradient on remembered samples before each step, and turn the step's gradient by it.

    The memory keeps `memory` samples of each experience, chosen at random. A subclass implements `reference` and `turn`.
    """

    def __init__(self, memory: int, sample_size: int | None, seed: int, name: str) -> None:
        """`memory`: of each experience."""
        super().__init__(memory, sample_size, seed, name)
        self._reference: Tensor | None = None

    def keep(self, learner: Any, candidates: dict[str, Tensor]) -> Tensor:
        """All old ones, and of the new ones those with the smallest keys."""
        num_old = len(self)
        new = candidates["key"][num_old:].argsort()[: self.memory].sort().values + num_old
        return torch.cat([torch.arange(num_old, device=new.device), new])

    def reference(self, learner: Any) -> Tensor:
        """What the gradient must not go against: (P,), or a row (E, P) for each of E experiences."""
        raise NotImplementedError

    def turn(self, gradient: Tensor, reference: Tensor) -> Tensor:
        """The gradient (P,) that is followed."""
        raise NotImplementedError

    def before_training_iteration(self, learner: Any, **kwargs: Any) -> None:
        """The reference, by the network as it is before the step."""
        self._reference = self.reference(learner) if len(self) else None

    @torch.no_grad()
    def after_backward(self, learner: Any, **kwargs: Any) -> None:
        """Turn the gradient; a parameter that has none stays without."""
        if self._reference is None:
            return
        parameters = trained(learner.model)
        own = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        together = torch.cat([gradient.flatten() for gradient in own])
        if not bool(together.isfinite().all() & self._reference.isfinite().all()):  # float16 overflowed
            self._reference = None
            return
        turned = self.turn(together, self._reference)
        for gradient, new in zip(own, turned.split([p.numel() for p in parameters]), strict=True):
            gradient.copy_(new.view_as(gradient))
        self._reference = None
