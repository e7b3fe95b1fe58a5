"""A quadratic penalty that keeps each parameter near its old value, the more so the more it matters to what was learned.

    penalty = sum_i omega_i (theta_i - theta*_i)^2      omega: importances, theta*: anchors, by parameter name

If the head grew, only its old rows are penalised; new rows are free.
"""

from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor, nn

from ..training.learner_view import LearnerView
from ..training.plugin import Plugin

NamedTensors = dict[str, Tensor]


def parameter_copies(model: nn.Module) -> NamedTensors:
    """Return copies of the parameters, by name."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def leading_part(tensor: Tensor, shape: torch.Size) -> Tensor:
    """Return the first rows (and columns) of a tensor that grew."""
    return tensor if tensor.shape == shape else tensor[tuple(map(slice, shape))]


def zero_padded(tensor: Tensor, shape: torch.Size) -> Tensor:
    """Return the tensor, with zeros in the rows that it lacks."""
    if tensor.shape == shape:
        return tensor
    result = tensor.new_zeros(shape)
    result[tuple(map(slice, tensor.shape))] = tensor
    return result


def decayed_sum(old: NamedTensors, new: NamedTensors, decay: float = 1.0) -> NamedTensors:
    """Return decay * old + new, by name and in the new shapes; a name without a new value keeps the decayed old one."""
    result = {name: decay * tensor for name, tensor in old.items()}
    for name, tensor in new.items():
        result[name] = zero_padded(result[name], tensor.shape) + tensor if name in result else tensor
    return result


def penalty(parameters: NamedTensors, anchors: NamedTensors, importances: NamedTensors) -> Tensor:
    """Return sum_i omega_i (theta_i - theta*_i)^2, a scalar; of parameters that grew, over the part with an importance."""
    terms = [
        (
            omega * (leading_part(parameters[name], omega.shape) - leading_part(anchors[name], omega.shape)).square()
        ).sum()
        for name, omega in importances.items()
        if name in parameters
    ]
    return torch.stack(terms).sum()


class QuadraticPenalty:
    """The penalty with its anchors and importances; false until it has importances."""

    MERGED = True  # its entries are stored next to those of its plugin

    def __init__(self) -> None:
        self.anchors: NamedTensors = {}
        self.importances: NamedTensors = {}

    def __bool__(self) -> bool:
        return bool(self.importances)

    def loss(self, model: nn.Module) -> Tensor:
        """Return the penalty of the current network, a scalar with a gradient."""
        return penalty(dict(model.named_parameters()), self.anchors, self.importances)

    def anchor(self, model: nn.Module, importances: NamedTensors) -> None:
        """Set these importances, with the current network as the anchor, instead of the old ones."""
        self.anchors, self.importances = parameter_copies(model), importances

    def add(self, model: nn.Module, importances: NamedTensors) -> None:
        """Add a second penalty, with the current network as its anchor, to the existing one.

        The sum of two quadratics is a quadratic: omega = omega_1 + omega_2, around the mean of both anchors weighted by omega.
        The constant that remains has no gradient and is left out.
        """
        total = decayed_sum(self.importances, importances)
        for name, anchor in parameter_copies(model).items():
            if name not in importances:
                continue
            if name in self.anchors:
                share = torch.nan_to_num(importances[name] / total[name], nan=1.0)
                old_anchor = zero_padded(self.anchors[name], anchor.shape)
                anchor = old_anchor + share * (anchor - old_anchor)
            self.anchors[name] = anchor
        self.importances = total

    def to(self, device: torch.device) -> None:
        """Move the tensors to the network's device; called when the training of an experience begins or resumes."""
        self.anchors, self.importances = moved_to(self.anchors, device), moved_to(self.importances, device)

    def state_dict(self) -> dict[str, Any]:
        """Return anchors and importances."""
        return {"anchors": self.anchors, "importances": self.importances}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore anchors and importances."""
        self.anchors, self.importances = dict(state["anchors"]), dict(state["importances"])


class PenaltySettings(Protocol):
    """Settings with the penalty's weight."""

    @property
    def weight(self) -> float:
        """Return the weight, >= 0."""


P = TypeVar("P", bound=PenaltySettings)


class PenaltyPlugin(Plugin[P]):
    """Adds weight * penalty to the loss; a subclass sets `penalty` when an experience ends."""

    STATE: ClassVar[tuple[str, ...]] = ("penalty",)
    capturable = True

    def init_state(self) -> None:
        """Set the initial state."""
        self.penalty = QuadraticPenalty()

    def on_start(self, learner: LearnerView) -> None:
        """Move anchors and importances to the device."""
        self.penalty.to(learner.device)

    def before_backward(self, learner: LearnerView, **kwargs: Any) -> None:
        """Add the penalty to the loss."""
        if self.penalty and self.config.weight > 0:
            learner.loss = learner.loss + self.config.weight * self.penalty.loss(learner.model)


def moved_to(named: NamedTensors, device: torch.device) -> NamedTensors:
    """Return the tensors on a device."""
    return {name: tensor.to(device) for name, tensor in named.items()}
