"""Gradients of remembered samples, and the base of methods that project the gradient by them (A-GEM, GEM).

Shapes: P parameters, M remembered samples in a mini-batch, E experiences.
"""

from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..training.learner_view import LearnerView
from ..training.plugin import Plugin, strategy_name
from .replay_memory import Columns, ReplayMemory, separate_logits


def trained_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that are trained."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def gradient_of(learner: LearnerView, minibatch: list[Tensor]) -> Tensor:
    """Return the gradient (P,) of the cross-entropy on a separate mini-batch [x, y, t]."""
    scaler = getattr(learner, "scaler", None)
    scale = 1.0 if scaler is None else scaler.get_scale()  # without it, small gradients would underflow in float16
    loss = scale * cross_entropy(separate_logits(learner, minibatch), minibatch[1])
    parameters = trained_parameters(learner.model)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    pairs = zip(parameters, gradients, strict=True)
    return (
        torch.cat([(torch.zeros_like(p) if gradient is None else gradient).flatten() for p, gradient in pairs]) / scale
    )


def nonnegative_quadratic(matrix: Tensor, vector: Tensor) -> Tensor:
    """Return the w >= 0 (E,) that minimises w' A w / 2 + b' w, for positive definite A (E, E) and b (E,).

    The algorithm is that of Lawson and Hanson 1974.
    """
    solution, free = torch.zeros_like(vector), torch.zeros(len(vector), dtype=torch.bool)
    threshold = 1e-12 * float(vector.abs().max())
    while True:
        descent = (-(matrix @ solution) - vector).masked_fill(free, -torch.inf)
        steepest = int(descent.argmax())
        if float(descent[steepest]) <= threshold:
            return solution
        free[steepest] = True
        while True:
            target = torch.zeros_like(vector)
            target[free] = torch.linalg.solve(matrix[free][:, free], -vector[free])
            blocked = free & (target <= 0)
            if not bool(blocked.any()):
                break
            # go only to where the first entry would become negative; fix that entry at 0 again
            steps = (solution / (solution - target)).masked_fill(~blocked, torch.inf)
            first = int(steps.argmin())
            solution = solution + steps[first] * (target - solution)
            solution[first], free[first] = 0.0, False
        solution = target


class ProjectionSettings(Protocol):
    """Settings of such a method."""

    @property
    def memory(self) -> int:
        """Return how many samples of each experience are remembered, >= 0."""


P = TypeVar("P", bound=ProjectionSettings)


class GradientProjectionPlugin(Plugin[P]):
    """Computes a reference gradient on remembered samples before each step, and projects the step's gradient by it.

    The memory keeps `memory` samples of each experience, chosen at random. A subclass implements `reference` and `project`.
    """

    STATE = ("memory",)

    def init_state(self) -> None:
        """Set the initial state."""
        self.memory = ReplayMemory(self.seed, strategy_name(self))
        self._reference: Tensor | None = None

    def reference(self, learner: LearnerView) -> Tensor:
        """Return the gradient that a step must not oppose: (P,), or (E, P) with a row for each of E experiences."""
        raise NotImplementedError

    def project(self, gradient: Tensor, reference: Tensor) -> Tensor:
        """Return the projected gradient (P,); of no use where gradient or reference is not finite, but it must return."""
        raise NotImplementedError

    def before_training_iteration(self, learner: LearnerView, **kwargs: Any) -> None:
        """Compute the reference with the network as it is before the step."""
        self._reference = self.reference(learner) if len(self.memory) else None

    @torch.no_grad()
    def after_backward(self, learner: LearnerView, **kwargs: Any) -> None:
        """Replace the gradient by the projected one; a parameter without a gradient stays without."""
        if self._reference is None:
            return
        parameters = trained_parameters(learner.model)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat_gradient = torch.cat([gradient.flatten() for gradient in gradients])
        is_finite = flat_gradient.isfinite().all() & self._reference.isfinite().all()  # not where float16 overflowed
        projected = torch.where(is_finite, self.project(flat_gradient, self._reference), flat_gradient)
        for gradient, new in zip(gradients, projected.split([p.numel() for p in parameters]), strict=True):
            gradient.copy_(new.view_as(gradient))
        self._reference = None

    def after_training_exp(self, learner: LearnerView, **kwargs: Any) -> None:
        """Remember the experience's samples with the smallest keys."""
        if self.config.memory > 0:
            self.memory.update(self.new_samples(learner), self._keep)

    def new_samples(self, learner: LearnerView) -> Columns:
        """Return the columns of the experience's samples."""
        return self.memory.new_samples(learner, learner.experience.dataset)

    def _keep(self, candidates: Columns) -> Tensor:
        """Return the positions of all old samples, and of the new ones with the smallest keys."""
        num_old = len(self.memory)
        new = candidates["key"][num_old:].argsort()[: self.config.memory].sort().values + num_old
        return torch.cat([torch.arange(num_old, device=new.device), new])
