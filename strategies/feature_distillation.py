"""Feature distillation: layers are held to what the old network gives there, rather than its outputs (see lwf for those).

    L = L_CE + weight * mean_layers L_layer
    cosine: L_layer = mean_B (1 - cos(s, t))      s, t: what the network and the teacher give for a sample, flattened
    mse:    L_layer = mean_{B,D} (s - t)^2

The teacher is the network as the experience found it; the first experience has none. "cosine" leaves the norms free, and
on the features it is the less-forget constraint of LUCIR (without its growing weight, see lucir); a layer in which every
unit is off has no direction and counts 1. Shapes: B batch, D units of a layer.

Sources: Romero et al. 2015 (1412.6550, hints: mse), Hou et al. 2019 (LUCIR, CVPR; its equation 6: cosine).
Peers: FACIL's lucir has lamb, Avalanche's FeatureDistillation mode "cosine"; PyCIL's ucir lambda: all are `weight` on the
features, where they do not scale it.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..platform.errors import UserError
from ..platform.methods.layer_distillation import LayerDistillation, distance
from ..platform.models.blocks import is_head
from ..platform.models.features import FEATURES, select_layers

NEUTRAL: dict[str, Any] | None = {"weight": 0.0}
CONFLICTS = {"joint": "joint trains once, so there is no old network to distil from"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Hold the features, or other layers, to those of the old network.

    weight: of the term, >= 0.
    layers: patterns on names of layers; "features" is what the head is given.
    loss: "cosine" (directions) or "mse" (values).
    """

    weight: float = 1.0
    layers: tuple[str, ...] = (FEATURES,)
    loss: Literal["cosine", "mse"] = "cosine"

    def __post_init__(self) -> None:
        weight, loss = self.weight, self.loss
        if not 0 <= weight < math.inf:
            raise ValueError(f"{weight=}: must be >= 0 and finite")
        if not self.layers or not all(self.layers):
            raise ValueError(f"layers={list(self.layers)}: must hold at least one pattern, none of them empty")
        if loss not in ("cosine", "mse"):
            raise ValueError(f"{loss=}: must be 'cosine' or 'mse'")


def feature_distillation(student: Tensor, teacher: Tensor, loss: Literal["cosine", "mse"]) -> Tensor:
    """L_layer of this file's formula, a scalar: (B, ...) and (B, ...)."""
    return nn.functional.mse_loss(student, teacher) if loss == "mse" else distance(student, teacher)


def check_model(config: Config, model: nn.Module) -> None:
    """Refuse a pattern that fits no layer, and one that fits the head, which grows."""
    key = "strategies.feature_distillation.layers"
    for name in select_layers(model, config.layers, key):
        if is_head(name):
            raise UserError(
                f"{key}={list(config.layers)}: fits '{name}'; outputs are what lwf distils, name the trunk's layers."
            )


class FeatureDistillationPlugin(LayerDistillation):
    """Adds weight * the mean over the layers to the loss from the second trained experience on."""

    def __init__(self, config: Config) -> None:
        super().__init__(config.weight > 0)
        self.config = config

    def layers(self, model: nn.Module) -> list[str]:
        """Those that fit the patterns."""
        return select_layers(model, self.config.layers, "strategies.feature_distillation.layers")

    def term(self, learner: Any, student: dict[str, Tensor], teacher: dict[str, Tensor]) -> Tensor:
        """The mean over the layers."""
        terms = [feature_distillation(output, teacher[layer], self.config.loss) for layer, output in student.items()]
        return self.config.weight * torch.stack(terms).mean()


def build(config: Config, seed: int) -> FeatureDistillationPlugin:
    """The plugin; it draws no random numbers."""
    return FeatureDistillationPlugin(config)
