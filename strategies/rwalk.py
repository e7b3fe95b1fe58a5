"""Riemannian Walk: keep parameters near their old values by their Fisher information and by how much their movement helped.

    L = L_CE + weight * sum_i (F_i / max F + max(0, s_i) / max s) (theta_i - theta*_i)^2,  theta*: the newest
    F <- alpha * g^2 + (1 - alpha) * F              at each iteration, g: gradient of the mini-batch's loss, from the first on
    s_t,i = sum over intervals of dL_i / (F_i dtheta_i^2 / 2 + damping),  dL_i = - sum in the interval of g_i (step of i)
    s <- s_t after the first experience, (s + s_t) / 2 after others

g is without this penalty, before clipping; the maxima are over the whole network. F is a running mean of squared mini-batch
gradients (EWC++) and needs no separate pass. An interval that an experience's end cuts short is scored as it is.

Source: Chaudhry et al. 2018 (1801.10112), equations 6-8. Peers: Avalanche's ewc_lambda = weight, ewc_alpha = alpha, delta_t =
interval; its damping is 1e-7, it computes g in a separate pass in evaluation mode, and drops an interval that is cut short.
FACIL's lamb = 2 * weight (it has a factor 1/2), its damping is ours, and its F is measured after training. The paper also replays
old samples in class-incremental streams: add `replay`.
"""

from typing import Annotated

import torch

from ..platform.config.settings import Interval, NonNegativeFloat, PositiveFloat, PositiveInt, settings
from ..platform.methods.path_penalty import StepRecorder, zeros_like
from ..platform.methods.quadratic_penalty import NamedTensors, PenaltyPlugin, moved_to, parameter_copies, zero_padded
from ..platform.training.plugin import LearnerView

NEEDS_PAST = True


@settings
class Config:
    """Keep the parameters with large Fisher information, or that reduced the loss, near their old values (RWalk).

    weight: lambda, >= 0; importances are between 0 and 2.
    alpha: weight of the newest mini-batch in the running mean F, in (0, 1].
    interval: number of iterations after which the parameters' movement is scored.
    damping: epsilon, > 0, added to the squared movement.
    """

    weight: NonNegativeFloat = 1.0
    alpha: Annotated[float, Interval(gt=0, le=1)] = 0.9
    interval: PositiveInt = 10
    damping: PositiveFloat = 0.1


def scaled(named: NamedTensors) -> NamedTensors:
    """Return the tensors without negative values, divided by the largest value of all: in [0, 1]."""
    largest = torch.stack([tensor.max() for tensor in named.values()]).max().clamp(min=torch.finfo(torch.float32).tiny)
    return {name: tensor.relu() / largest for name, tensor in named.items()}


def importances(fisher: NamedTensors, scores: NamedTensors) -> NamedTensors:
    """Return F / max F + max(0, s) / max s."""
    f, s = scaled(fisher), scaled(scores)
    return {n: zero_padded(f[n], s[n].shape) + s[n] if n in s else f[n] for n in f}


class RWalkPlugin(PenaltyPlugin[Config]):
    """Adds weight * penalty to the loss, and follows the parameters through each iteration."""

    STATE = ("penalty", "fisher", "scores", "score", "gain", "start", "count")

    def init_state(self) -> None:
        """Set the initial state."""
        super().init_state()
        self.fisher: NamedTensors = {}  # F
        self.scores: NamedTensors = {}  # s of the past experiences
        self.score: NamedTensors = {}  # s of this one
        self.gain: NamedTensors = {}  # dL since the interval began
        self.start: NamedTensors = {}  # the parameters then
        self.count = 0  # iterations of the interval
        self._steps = StepRecorder()

    def on_start(self, learner: LearnerView) -> None:
        """Start the scores and the first interval, or move those of a resumed experience to the device."""
        super().on_start(learner)
        for name in ("fisher", "scores", "score", "gain", "start"):
            setattr(self, name, moved_to(getattr(self, name), learner.device))
        if self.config.weight > 0 and not self.start:
            self.score = zeros_like(parameter_copies(learner.model))
            self._begin(learner)

    def _begin(self, learner: LearnerView) -> None:
        self.start, self.count = parameter_copies(learner.model), 0
        self.gain = zeros_like(self.start)

    def after_backward(self, learner: LearnerView, **kwargs: object) -> None:
        """Record g."""
        if self.config.weight > 0:
            self._steps.record(learner.model, self.penalty, self.config.weight)

    def after_update(self, learner: LearnerView, **kwargs: object) -> None:
        """Update F and the loss decrease; score the interval when it is over."""
        alpha = self.config.alpha
        gradients, steps = self._steps.take(learner.model)
        if not gradients:
            return
        for name, g in gradients.items():
            new, old = g.square(), self.fisher.get(name)
            self.fisher[name] = new if old is None else alpha * new + (1 - alpha) * zero_padded(old, new.shape)
            self.gain[name] = self.gain[name] - g * steps[name]
        self.count += 1
        if self.count == self.config.interval:
            self._add_score(learner)

    def _add_score(self, learner: LearnerView) -> None:
        for name, parameter in parameter_copies(learner.model).items():
            if name in self.fisher:
                squared_change = (parameter - self.start[name]).square()
                f = zero_padded(self.fisher[name], squared_change.shape)
                added = self.gain[name] / (0.5 * f * squared_change + self.config.damping)
                self.score[name] = self.score[name] + added
        self._begin(learner)

    def after_training_exp(self, learner: LearnerView, **kwargs: object) -> None:
        """Turn the scores into importances, and anchor the penalty at the current parameters."""
        if self.fisher and self.config.weight > 0:
            if self.count:
                self._add_score(learner)
            for name, new in self.score.items():
                old = self.scores.get(name)
                self.score[name] = new if old is None else (zero_padded(old, new.shape) + new) / 2
            self.scores = self.score
            self.penalty.anchor(learner.model, importances(self.fisher, self.scores))
        self.score, self.gain, self.start = {}, {}, {}
