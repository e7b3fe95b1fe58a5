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

import math
from dataclasses import dataclass
from typing import Any

import torch

from ..platform.methods.path_penalty import PathPlugin
from ..platform.methods.quadratic_penalty import NamedTensors, moved_to, parameter_copies, zero_padded

NEUTRAL: dict[str, Any] | None = {"weight": 0.0}
CONFLICTS = {"joint": "joint trains once, so there are no old experiences to protect"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Keep the parameters with large Fisher information, or that reduced the loss, near their old values (RWalk).

    weight: lambda, >= 0; importances are between 0 and 2.
    alpha: weight of the newest mini-batch in the running mean F, in (0, 1].
    interval: number of iterations after which the parameters' movement is scored.
    damping: epsilon, > 0, added to the squared movement.
    """

    weight: float = 1.0
    alpha: float = 0.9
    interval: int = 10
    damping: float = 0.1

    def __post_init__(self) -> None:
        weight, alpha, interval, damping = self.weight, self.alpha, self.interval, self.damping
        if not 0 <= weight < math.inf:
            raise ValueError(f"{weight=}: must be >= 0 and finite")
        if not 0 < alpha <= 1:
            raise ValueError(f"{alpha=}: must be in (0, 1]")
        if interval < 1:
            raise ValueError(f"{interval=}: must be >= 1 iteration")
        if not 0 < damping < math.inf:
            raise ValueError(f"{damping=}: must be > 0 and finite")


def scaled(named: NamedTensors) -> NamedTensors:
    """Return the tensors without negative values, divided by the largest value of all: in [0, 1]."""
    largest = torch.stack([tensor.max() for tensor in named.values()]).max().clamp(min=torch.finfo(torch.float32).tiny)
    return {name: tensor.relu() / largest for name, tensor in named.items()}


def importances(fisher: NamedTensors, scores: NamedTensors) -> NamedTensors:
    """Return F / max F + max(0, s) / max s."""
    f, s = scaled(fisher), scaled(scores)
    return {n: zero_padded(f[n], s[n].shape) + s[n] if n in s else f[n] for n in f}


class RWalkPlugin(PathPlugin):
    """Adds weight * penalty to the loss, and follows the parameters through each iteration."""

    def __init__(self, config: Config) -> None:
        super().__init__(config.weight, with_penalty=False)
        self.config = config
        # F; s of the past experiences; of this one: s, dL since the interval began, and the parameters then
        self._named: dict[str, NamedTensors] = {key: {} for key in ("fisher", "scores", "score", "gain", "start")}
        self._count = 0  # iterations of the interval

    def state_dict(self) -> dict[str, Any]:
        """Return anchors, importances, all values per parameter, and the position in the interval."""
        return super().state_dict() | self._named | {"count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the state."""
        super().load_state_dict(state)
        self._named = {key: dict(state[key]) for key in self._named}
        self._count = state["count"]

    def on_resume(self, learner: Any) -> None:
        """Move all tensors to the device."""
        super().on_resume(learner)
        self._named = {key: moved_to(named, learner.device) for key, named in self._named.items()}

    def before_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """Start the scores and the first interval of the experience."""
        super().before_training_exp(learner, **kwargs)
        if self.weight > 0:
            self._named = {key: moved_to(named, learner.device) for key, named in self._named.items()}
            self._named["score"] = {n: torch.zeros_like(p) for n, p in parameter_copies(learner.model).items()}
            self._begin(learner)

    def _begin(self, learner: Any) -> None:
        self._named["start"], self._count = parameter_copies(learner.model), 0
        self._named["gain"] = {name: torch.zeros_like(p) for name, p in self._named["start"].items()}

    def follow(self, learner: Any, gradients: NamedTensors, steps: NamedTensors) -> None:
        """Update F and the loss decrease; score the interval when it is over."""
        fisher, gain, alpha = self._named["fisher"], self._named["gain"], self.config.alpha
        for name, g in gradients.items():
            new = g.square()
            fisher[name] = alpha * new + (1 - alpha) * zero_padded(fisher[name], new.shape) if name in fisher else new
            gain[name] = gain[name] - g * steps[name]
        self._count += 1
        if self._count == self.config.interval:
            self._score(learner)

    def _score(self, learner: Any) -> None:
        score, fisher, gain = (self._named[key] for key in ("score", "fisher", "gain"))
        for name, parameter in parameter_copies(learner.model).items():
            if name in fisher:
                squared_change = (parameter - self._named["start"][name]).square()
                f = zero_padded(fisher[name], squared_change.shape)
                score[name] = score[name] + gain[name] / (0.5 * f * squared_change + self.config.damping)
        self._begin(learner)

    def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """Turn the scores into importances, and anchor the penalty at the current parameters."""
        if self._named["fisher"] and self.weight > 0:
            if self._count:
                self._score(learner)
            old, new = self._named["scores"], self._named["score"]
            self._named["scores"] = {
                n: (zero_padded(old[n], s.shape) + s) / 2 if n in old else s for n, s in new.items()
            }
            omega = importances(self._named["fisher"], self._named["scores"])
            self.penalty.anchor(learner.model, omega)
        self._named |= {"score": {}, "gain": {}, "start": {}}


def build(config: Config, seed: int) -> RWalkPlugin:
    """Return the plugin; it uses no random numbers."""
    return RWalkPlugin(config)
