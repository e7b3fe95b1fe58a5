"""How much each parameter matters to what was learned: per-sample gradients summed up, and the penalty that protects it.

    penalty = sum_i omega_i (theta_i - theta*_i)^2      omega: importances, theta*: anchors, by parameter's name

A head that grew is held in the rows that it had; new rows are free. Sums over samples are of powers of each sample's own
gradient, never of a mini-batch's mean: in closed form where a network is made of linear layers, whose gradient for a sample
is an outer product (sum_b (delta_b a_b^T)^2 = (delta^2)^T a^2), elsewhere by `torch.func`.
Shapes: B samples, C outputs, M values for a sample, R, K the rows that a head had.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ..training.plugin import Plugin

Named = dict[str, Tensor]


def parameter_copies(model: nn.Module) -> Named:
    """The parameters as they are."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def leading_part(tensor: Tensor, shape: torch.Size) -> Tensor:
    """The first rows (and columns) of a tensor that grew."""
    return tensor if tensor.shape == shape else tensor[tuple(map(slice, shape))]


def zero_padded(tensor: Tensor, shape: torch.Size) -> Tensor:
    """The tensor with zeros in the rows that it has not."""
    if tensor.shape == shape:
        return tensor
    result = tensor.new_zeros(shape)
    result[tuple(map(slice, tensor.shape))] = tensor
    return result


def decayed_sum(old: Named, new: Named, decay: float = 1.0) -> Named:
    """decay * old + new, by name and in the new shapes; what has no new value keeps the decayed old one."""
    result = {name: decay * tensor for name, tensor in old.items()}
    for name, tensor in new.items():
        result[name] = zero_padded(result[name], tensor.shape) + tensor if name in result else tensor
    return result


def penalty(parameters: Named, anchors: Named, importances: Named) -> Tensor:
    """sum_i omega_i (theta_i - theta*_i)^2, a scalar; of parameters that grew, the part that has an importance."""
    terms = [
        (
            omega * (leading_part(parameters[name], omega.shape) - leading_part(anchors[name], omega.shape)).square()
        ).sum()
        for name, omega in importances.items()
        if name in parameters
    ]
    return torch.stack(terms).sum()


class QuadraticPenalty:
    """The penalty with its anchors and importances, as the strategies keep it; false until it has some."""

    def __init__(self) -> None:
        self.anchors: Named = {}
        self.importances: Named = {}

    def __bool__(self) -> bool:
        return bool(self.importances)

    def loss(self, model: nn.Module) -> Tensor:
        """The penalty of the network as it is, a scalar with a gradient."""
        return penalty(dict(model.named_parameters()), self.anchors, self.importances)

    def anchor(self, model: nn.Module, importances: Named) -> None:
        """These importances, around the network as it is, in the place of what there was."""
        self.anchors, self.importances = parameter_copies(model), importances

    def add(self, model: nn.Module, importances: Named) -> None:
        """Put a second penalty, around the network as it is, onto the one there was.

        The sum of two quadratics is one again: omega = omega_1 + omega_2 around the mean of both anchors, weighted by omega,
        and a constant, which has no gradient and is left out.
        """
        total = decayed_sum(self.importances, importances)
        for name, anchor in parameter_copies(model).items():
            if name not in importances:
                continue
            if name in self.anchors:
                share = torch.nan_to_num(importances[name] / total[name], nan=1.0)
                held = zero_padded(self.anchors[name], anchor.shape)
                anchor = held + share * (anchor - held)
            self.anchors[name] = anchor
        self.importances = total

    def to(self, device: torch.device) -> None:
        """Bring it to where the network is; called where the training of an experience begins or goes on."""
        self.anchors, self.importances = moved_to(self.anchors, device), moved_to(self.importances, device)

    def state_dict(self) -> dict[str, Any]:
        """Anchors and importances."""
        return {"anchors": self.anchors, "importances": self.importances}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them over."""
        self.anchors, self.importances = dict(state["anchors"]), dict(state["importances"])


class PenaltyPlugin(Plugin):
    """Adds weight * penalty to the loss; a subclass puts something into `penalty` when an experience ends."""

    def __init__(self, weight: float) -> None:
        self.weight, self.penalty = weight, QuadraticPenalty()

    def state_dict(self) -> dict[str, Any]:
        """Anchors and importances."""
        return self.penalty.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them over."""
        self.penalty.load_state_dict(state)

    def on_resume(self, learner: Any) -> None:
        """Bring them to the device."""
        self.penalty.to(learner.device)

    def before_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """Bring them to the device."""
        self.penalty.to(learner.device)

    def before_backward(self, learner: Any, **kwargs: Any) -> None:
        """Add the penalty to the loss."""
        if self.penalty and self.weight > 0:
            learner.loss = learner.loss + self.weight * self.penalty.loss(learner.model)


def moved_to(named: Named, device: torch.device) -> Named:
    """The tensors on a device."""
    return {name: tensor.to(device) for name, tensor in named.items()}
