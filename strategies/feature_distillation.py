"""Feature distillation: keep the outputs of chosen layers close to those of the old network (`lwf` does so for the logits).

    L = L_CE + weight * mean_layers L_layer
    cosine: L_layer = mean_B (1 - cos(s, t))      s, t: outputs of the network and of the teacher for a sample, flattened
    mse:    L_layer = mean_{B,D} (s - t)^2

The teacher is a copy of the network from the start of the experience. The first experience has no teacher. "cosine" leaves the
norms free. On the features it is LUCIR's less-forget constraint, without the growing weight (see `lucir`). A layer in which
every unit is off has no direction; its cosine distance is 1.
Shapes: B batch, D units of a layer.

Sources: Romero et al. 2015 (1412.6550, hints: mse), Hou et al. 2019 (LUCIR, CVPR; its equation 6: cosine).
Peers: FACIL's lucir has lamb, PyCIL's ucir has lambda, Avalanche's FeatureDistillation has mode "cosine". Each is `weight` on
the features, where they do not scale it.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from ..platform.config.settings import NonNegativeFloat, Patterns, settings
from ..platform.errors import UserError
from ..platform.methods.layer_distillation import LayerDistillation, cosine_distance
from ..platform.models.blocks import is_head
from ..platform.models.features import FEATURES, select_layers
from ..platform.training.plugin import LearnerView

NEEDS_PAST = True


@settings
class Config:
    """Keep the features, or other layers' outputs, close to those of the old network.

    weight: weight of the term, >= 0.
    layers: patterns on layer names; "features" is the input of the head.
    loss: "cosine" (compares directions) or "mse" (compares values).
    """

    weight: NonNegativeFloat = 1.0
    layers: Patterns = (FEATURES,)
    loss: Literal["cosine", "mse"] = "cosine"


def feature_distillation(student: Tensor, teacher: Tensor, loss: Literal["cosine", "mse"]) -> Tensor:
    """Return L_layer of this file's formula, a scalar, for student and teacher outputs (B, ...)."""
    return nn.functional.mse_loss(student, teacher) if loss == "mse" else cosine_distance(student, teacher)


def check_model(config: Config, model: nn.Module) -> None:
    """Refuse a pattern that matches no layer, and one that matches the head, which grows."""
    key = "strategies.feature_distillation.layers"
    for name in select_layers(model, config.layers, key):
        if is_head(name):
            raise UserError(
                f"{key}={list(config.layers)}: fits '{name}'; outputs are what lwf distils, name the trunk's layers."
            )


class FeatureDistillationPlugin(LayerDistillation[Config]):
    """Adds weight * the mean over the layers to the loss, from the second trained experience on."""

    def layers(self, model: nn.Module) -> list[str]:
        """Return the names of the layers that match the patterns."""
        return select_layers(model, self.config.layers, "strategies.feature_distillation.layers")

    def term(self, learner: LearnerView, student: dict[str, Tensor], teacher: dict[str, Tensor]) -> Tensor:
        """Return weight * the mean over the layers, a scalar."""
        terms = [feature_distillation(output, teacher[layer], self.config.loss) for layer, output in student.items()]
        return self.config.weight * torch.stack(terms).mean()
