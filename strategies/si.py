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
from dataclasses import dataclass
from typing import Any, Literal

import torch

from ..platform.methods.path_penalty import PathPlugin
from ..platform.methods.quadratic_penalty import NamedTensors, moved_to, parameter_copies, zero_padded

NEUTRAL: dict[str, Any] | None = {"weight": 0.0}
CONFLICTS = {"joint": "joint trains once, so there are no old experiences to protect"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Keep the parameters that reduced the old losses, by a path integral, near their old values (Synaptic Intelligence).

    weight: c, >= 0.
    damping: xi, > 0, added to a parameter's squared movement.
    gradient: of the loss without this penalty ("task") or with it ("total").
    clip: whether importances below 0, where the loss grew along the path, become 0.
    largest: upper bound of an importance; null: no bound, as in the paper. SGD diverges where weight * Omega * lr > 1.
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


class SIPlugin(PathPlugin):
    """Adds weight * penalty to the loss, and follows the parameters through each iteration."""

    def __init__(self, config: Config) -> None:
        super().__init__(config.weight, with_penalty=config.gradient == "total")
        self.config = config
        self._path: NamedTensors = {}  # w of the experience so far
        self._start: NamedTensors = {}  # the parameters at its start

    def state_dict(self) -> dict[str, Any]:
        """Return anchors, importances and, inside an experience, its start and the path so far."""
        return super().state_dict() | {"path": self._path, "start": self._start}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the state."""
        super().load_state_dict(state)
        self._path, self._start = dict(state["path"]), dict(state["start"])

    def on_resume(self, learner: Any) -> None:
        """Move all tensors to the device."""
        super().on_resume(learner)
        self._path, self._start = (moved_to(named, learner.device) for named in (self._path, self._start))

    def before_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """Start the path at the present parameters."""
        super().before_training_exp(learner, **kwargs)
        if self.weight > 0:
            self._start = parameter_copies(learner.model)
            self._path = {name: torch.zeros_like(tensor) for name, tensor in self._start.items()}

    def follow(self, learner: Any, gradients: NamedTensors, steps: NamedTensors) -> None:
        """Add one step to the path."""
        self._path = self._path | {name: self._path[name] - gradients[name] * step for name, step in steps.items()}

    def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """Turn the path into importances, and anchor the penalty at the present parameters."""
        if self._path:
            moved = {name: now - self._start[name] for name, now in parameter_copies(learner.model).items()}
            self.penalty.anchor(learner.model, importances(self.penalty.importances, self._path, moved, self.config))
        self._path, self._start = {}, {}


def build(config: Config, seed: int) -> SIPlugin:
    """Return the plugin; it uses no random numbers."""
    return SIPlugin(config)
