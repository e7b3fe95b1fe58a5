"""Synaptic Intelligence: parameters that brought the old losses down are held where the old experiences left them.

    L = L_CE + weight * sum_i Omega_i (theta_i - theta*_i)^2,  theta*: as the newest experience left them
    w_i = - sum over iterations g_i (theta_i after - theta_i before),  g = d loss / d theta   the loss that i brought down
    Omega_i <- max(0, Omega_i + w_i / (Delta_i^2 + damping)),  Delta_i: how far i went in the experience

g is the gradient of the loss without this penalty ("task", as the authors' code and FACIL) or with it ("total", as van de Ven,
Avalanche and Mammoth); before clipping either way, and with the terms of other strategies. Rows of a head that are new have
no importance yet. Source: Zenke, Poole & Ganguli 2017 (1703.04200), whose code also keeps Omega from going below 0; it has
no bound above, `largest: null`.

Peers: van de Ven's c = weight and epsilon = damping, with gradient "total", clip false (Omega may go below 0), largest null.
Mammoth's c and xi likewise, but its w is lr * g^2 of gradients clipped to [-1, 1]. FACIL's lamb and damping are ours.
Avalanche's si_lambda has a factor 1/2, weight = si_lambda / 2, eps = damping, gradient "total", clip false, largest 0.001: its
Split MNIST (si_lambda 1, eps 0.1) is weight 0.5, damping 0.1. On a CPU Avalanche 0.6 keeps views of the parameters instead of
copies, so that for it nothing ever moves: w is 0, and what it gives is plain finetuning.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch

from ..platform.methods.path_penalty import PathPlugin
from ..platform.methods.quadratic_penalty import Named, moved_to, parameter_copies, zero_padded

NEUTRAL: dict[str, Any] | None = {"weight": 0.0}
CONFLICTS = {"joint": "joint trains once, so there are no old experiences whose parameters could be held"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Synaptic Intelligence: hold the parameters that brought the old losses down (path integral).

    weight: c, >= 0.
    damping: xi, > 0, in the squared way that a parameter went.
    gradient: of the loss without this penalty ("task") or with it ("total").
    clip: importances below 0, where the loss went up along the way, become 0.
    largest: an importance is at most this; null: no bound, as in the paper. SGD diverges where weight * Omega * lr > 1.
    """

    weight: float = 1.0
    damping: float = 0.1
    gradient: Literal["task", "total"] = "task"
    clip: bool = True
    largest: float | None = 1.0

    def __post_init__(self) -> None:
        weight, damping, gradient, largest = self.weight, self.damping, self.gradient, self.largest
        if not 0 <= weight < math.inf:
            raise ValueError(f"{weight=}: must be >= 0 and finite")
        if not 0 < damping < math.inf:
            raise ValueError(f"{damping=}: must be > 0 and finite")
        if gradient not in ("task", "total"):
            raise ValueError(f"{gradient=}: must be 'task' or 'total'")
        if largest is not None and not largest > 0:
            raise ValueError(f"{largest=}: must be > 0, or null for no bound")


def importances(old: Named, path: Named, moved: Named, config: Config) -> Named:
    """Omega after an experience: `old` before it, `path` w and `moved` Delta in it, each by parameter's name."""
    found = {}
    for name, w in path.items():
        added = w / (moved[name].square() + config.damping)
        omega = zero_padded(old[name], w.shape) + added if name in old else added
        found[name] = omega.clamp(min=0.0 if config.clip else None, max=config.largest or math.inf)
    return old | found


class SIPlugin(PathPlugin):
    """Adds weight * penalty to the loss and follows the parameters through each iteration."""

    def __init__(self, config: Config) -> None:
        super().__init__(config.weight, with_penalty=config.gradient == "total")
        self.config = config
        self._path: Named = {}  # w of the experience so far
        self._start: Named = {}  # the parameters at its start

    def state_dict(self) -> dict[str, Any]:
        """Anchors and importances and, inside an experience, its start and the path so far."""
        return super().state_dict() | {"path": self._path, "start": self._start}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them over."""
        super().load_state_dict(state)
        self._path, self._start = dict(state["path"]), dict(state["start"])

    def on_resume(self, learner: Any) -> None:
        """Bring everything to the device."""
        super().on_resume(learner)
        self._path, self._start = (moved_to(named, learner.device) for named in (self._path, self._start))

    def before_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """The path begins here."""
        super().before_training_exp(learner, **kwargs)
        if self.weight > 0:
            self._start = parameter_copies(learner.model)
            self._path = {name: torch.zeros_like(tensor) for name, tensor in self._start.items()}

    def follow(self, learner: Any, gradients: Named, steps: Named) -> None:
        """Go a step along the path."""
        self._path = self._path | {name: self._path[name] - gradients[name] * step for name, step in steps.items()}

    def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """The path becomes importances, around the parameters as they are now."""
        if self._path:
            moved = {name: now - self._start[name] for name, now in parameter_copies(learner.model).items()}
            self.penalty.anchor(learner.model, importances(self.penalty.importances, self._path, moved, self.config))
        self._path, self._start = {}, {}


def build(config: Config, seed: int) -> SIPlugin:
    """The plugin; it draws no random numbers."""
    return SIPlugin(config)
