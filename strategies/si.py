"""Synaptic Intelligence: keep parameters that reduced the old losses near their values after the old experiences.

    L = L_CE + weight * sum_i Omega_i (theta_i - theta*_i)^2,  theta*: the values at the end of the newest experience
    w_i = - sum over iterations g_i (theta_i after - theta_i before),  g = d loss / d theta   the loss decrease due to i
    Omega_i <- max(0, Omega_i + w_i / (Delta_i^2 + damping)),  Delta_i: how far i moved in the experience

g is the gradient of the loss without this penalty ("task", as the authors' code and FACIL) or with it ("total", as van de Ven,
Avalanche and Mammoth). In both cases it is taken before clipping, and includes the terms of other strategies. New rows of a head
have no importance yet. Source: Zenke, Poole & Ganguli 2017 (1703.04200). Their code also keeps Omega from going below 0; it has
no upper bound, `largest: null`.

Peers: van de Ven's c = weight and epsilon = damping, with gradient "total", clip false (Omega may go below 0), largest null.
Mammoth's c and xi are the same, but its w is lr * g^2 of gradients clipped to [-1, 1]. FACIL's lamb and damping are ours.
Avalanche's si_lambda has a factor 1/2: weight = si_lambda / 2, eps = damping, gradient "total", clip false, largest 0.001. Its
Split MNIST (si_lambda 1, eps 0.1) is weight 0.5, damping 0.1. On a CPU Avalanche 0.6 keeps views of the parameters instead of
copies, so it sees no movement: w is 0, and the result is plain finetuning.
"""

import math
from typing import Annotated, Literal

from ..platform.config.settings import Gt, NonNegativeFloat, PositiveFloat, settings
from ..platform.methods.path_penalty import StepRecorder, zeros_like
from ..platform.methods.quadratic_penalty import NamedTensors, PenaltyPlugin, moved_to, parameter_copies, zero_padded
from ..platform.training.plugin import LearnerView

NEEDS_PAST = True


@settings
class Config:
    """Keep the parameters that reduced the old losses, by a path integral, near their old values (Synaptic Intelligence).

    weight: c, >= 0.
    damping: xi, > 0, added to a parameter's squared movement.
    gradient: of the loss without this penalty ("task") or with it ("total").
    clip: whether importances below 0, where the loss grew along the path, become 0.
    largest: upper bound of an importance; null: no bound, as in the paper. SGD diverges where weight * Omega * lr > 1.
    """

    weight: NonNegativeFloat = 1.0
    damping: PositiveFloat = 0.1
    gradient: Literal["task", "total"] = "task"
    clip: bool = True
    largest: Annotated[float, Gt(0)] | None = 1.0


def importances(old: NamedTensors, path: NamedTensors, moved: NamedTensors, config: Config) -> NamedTensors:
    """Return Omega after an experience, by parameter name.

    Args:
        old: Omega before it.
        path: w of the experience.
        moved: Delta of the experience.
        config: the settings.
    """
    updated = {}
    for name, w in path.items():
        added = w / (moved[name].square() + config.damping)
        omega = zero_padded(old[name], w.shape) + added if name in old else added
        updated[name] = omega.clamp(min=0.0 if config.clip else None, max=config.largest or math.inf)
    return old | updated


class SIPlugin(PenaltyPlugin[Config]):
    """Adds weight * penalty to the loss, and follows the parameters through each iteration."""

    STATE = ("penalty", "path", "start")

    def init_state(self) -> None:
        """Set the initial state."""
        super().init_state()
        self.path: NamedTensors = {}  # w of the experience so far
        self.start: NamedTensors = {}  # the parameters at its start
        self._steps = StepRecorder()

    def on_start(self, learner: LearnerView) -> None:
        """Start the path at the present parameters, or move that of a resumed experience to the device."""
        super().on_start(learner)
        self.path, self.start = moved_to(self.path, learner.device), moved_to(self.start, learner.device)
        if self.config.weight > 0 and not self.start:
            self.start = parameter_copies(learner.model)
            self.path = zeros_like(self.start)

    def after_backward(self, learner: LearnerView, **kwargs: object) -> None:
        """Record g."""
        if self.config.weight > 0:
            penalty = self.penalty if self.config.gradient == "task" else None
            self._steps.record(learner.model, penalty, self.config.weight)

    def after_update(self, learner: LearnerView, **kwargs: object) -> None:
        """Add one step to the path."""
        gradients, steps = self._steps.take(learner.model)
        for name, step in steps.items():
            self.path[name] = self.path[name] - gradients[name] * step

    def after_training_exp(self, learner: LearnerView, **kwargs: object) -> None:
        """Turn the path into importances, and anchor the penalty at the present parameters."""
        if self.path:
            moved = {name: now - self.start[name] for name, now in parameter_copies(learner.model).items()}
            self.penalty.anchor(learner.model, importances(self.penalty.importances, self.path, moved, self.config))
        self.path, self.start = {}, {}
