"""A penalty with importances that are collected along the training path (SI, RWalk)."""

from typing import Any

import torch

from .quadratic_penalty import NamedTensors, PenaltyPlugin, leading_part, parameter_copies


class PathPlugin(PenaltyPlugin):
    """Follows the parameters through each iteration: a subclass overrides `follow`.

    `with_penalty`: whether the gradients are those of the loss with the penalty.
    """

    def __init__(self, weight: float, with_penalty: bool) -> None:
        super().__init__(weight)
        self.with_penalty = with_penalty
        self._before: NamedTensors = {}  # the parameters before this iteration's step; below: their gradients
        self._gradients: NamedTensors = {}

    def follow(self, learner: Any, gradients: NamedTensors, steps: NamedTensors) -> None:
        """Use an iteration's gradients, before anything changed them, and the step of each parameter."""
        raise NotImplementedError

    def after_backward(self, learner: Any, **kwargs: Any) -> None:
        """Keep the gradients: 0 where float16 overflowed, as the step will be."""
        if self.weight == 0:
            return
        self._before = parameter_copies(learner.model)
        named = learner.model.named_parameters()
        self._gradients = {n: torch.nan_to_num(p.grad, 0.0, 0.0, 0.0) for n, p in named if p.grad is not None}
        for name, omega in self.penalty.importances.items():
            if not self.with_penalty and name in self._gradients:
                pull = leading_part(self._before[name], omega.shape) - leading_part(
                    self.penalty.anchors[name], omega.shape
                )
                leading_part(self._gradients[name], omega.shape).sub_(2 * self.weight * omega * pull)

    def after_update(self, learner: Any, **kwargs: Any) -> None:
        """Call `follow`."""
        if self._gradients:
            named = dict(learner.model.named_parameters())
            steps = {name: named[name].detach() - self._before[name] for name in self._gradients}
            self.follow(learner, self._gradients, steps)
        self._gradients, self._before = {}, {}
