"""Gradients and steps of the parameters, for penalties with importances collected along the training path (SI, RWalk)."""

import torch
from torch import nn

from .quadratic_penalty import NamedTensors, QuadraticPenalty, leading_part, parameter_copies


class StepRecorder:
    """Records an iteration's gradients, and the step that each parameter makes.

    Call `record` in `after_backward`, before anything changes the gradients, and `take` in `after_update`.
    """

    def __init__(self) -> None:
        self._before: NamedTensors = {}  # the parameters before the step; below: their gradients
        self._gradients: NamedTensors = {}

    def record(self, model: nn.Module, penalty: QuadraticPenalty | None = None, weight: float = 0.0) -> None:
        """Record the gradients: 0 where float16 overflowed, as the step will be.

        `penalty`: its gradient, times `weight`, is subtracted.
        """
        self._before = parameter_copies(model)
        named = model.named_parameters()
        self._gradients = {n: torch.nan_to_num(p.grad, 0.0, 0.0, 0.0) for n, p in named if p.grad is not None}
        if penalty is None:
            return
        for name, omega in penalty.importances.items():
            if name in self._gradients:
                pull = leading_part(self._before[name], omega.shape) - leading_part(penalty.anchors[name], omega.shape)
                leading_part(self._gradients[name], omega.shape).sub_(2 * weight * omega * pull)

    def take(self, model: nn.Module) -> tuple[NamedTensors, NamedTensors]:
        """Return the gradients and the steps of the parameters that have one, by name, and forget them; {} without a record."""
        named, gradients = dict(model.named_parameters()), self._gradients
        steps = {name: named[name].detach() - self._before[name] for name in gradients}
        self._gradients, self._before = {}, {}
        return gradients, steps


def zeros_like(named: NamedTensors) -> NamedTensors:
    """Return zeros in the tensors' shapes, by name."""
    return {name: torch.zeros_like(tensor) for name, tensor in named.items()}
