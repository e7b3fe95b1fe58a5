"""PODNet's distillation: keep the maps' sums over width and height, and the features' direction, close to the old network's.

    L = L_CE + sqrt(C / N) * (spatial_weight * mean_layers mean_B |p(s) - p(t)| + flat_weight * mean_B (1 - cos(s_f, t_f)))
    p(a): sums over the width of a^2 (channels * H numbers) and over the height (channels * W), as one vector of length 1

s, t: a layer's maps in the network and in the teacher, a copy of the network from the start of the experience. s_f, t_f: the
features (the head's input). C: classes so far, including the N of this experience. Sums constrain less than single positions, so
maps may shift a little. The first experience has no teacher. Shapes: B batch, maps (B, channels, H, W), features (B, D).

Source: Douillard et al. 2020 (2004.13513); the squares are in the authors' code, not in the paper's equation. Peers: the
authors' pod_spatial and pod_flat scheduled_factor = spatial_weight and flat_weight (3 and 1 on CIFAR100, 8 and 10 on
ImageNet). They take each stage's maps before its last ReLU, ours are the outputs of the blocks. Their head of several
cosines per class is local_similarity. Their finetuning on a balanced memory is not part of this: see eeil.
"""

import torch
from torch import Tensor, nn

from ..platform.config.settings import NonNegativeFloat, Patterns, settings
from ..platform.methods.layer_distillation import LayerDistillation, check_maps, cosine_distance, growth, map_layers
from ..platform.models.features import FEATURES
from ..platform.training.plugin import LearnerView

NEUTRAL = {"spatial_weight": 0.0, "flat_weight": 0.0}
NEEDS_PAST = True
_KEY = "strategies.podnet.layers"


@settings
class Config:
    """Keep pooled maps of convolutional layers, and the features, close to the old network's (PODNet).

    spatial_weight: weight of the maps' term, >= 0.
    flat_weight: weight of the features' term, >= 0. Both grow by sqrt(all classes / new classes).
    layers: patterns on names of layers that output maps; null: the trunk's blocks with convolutions.
    """

    spatial_weight: NonNegativeFloat = 3.0
    flat_weight: NonNegativeFloat = 1.0
    layers: Patterns | None = None


def pooled(maps: Tensor) -> Tensor:
    """Return p of this file's formula, (B, channels * (H + W)), for maps (B, channels, H, W)."""
    squares = maps.square()
    sums = torch.cat([squares.sum(3).flatten(1), squares.sum(2).flatten(1)], dim=1)
    return nn.functional.normalize(sums)


def check_model(config: Config, model: nn.Module) -> None:
    """Refuse patterns that match no layer or one without convolutions, and a network without convolutions."""
    map_layers(model, config.layers, _KEY)


class PODNetPlugin(LayerDistillation[Config]):
    """Adds both terms to the loss from the second trained experience on."""

    WEIGHTS = ("spatial_weight", "flat_weight")

    def layers(self, model: nn.Module) -> list[str]:
        """Return the names of the layers that output maps, and of the features."""
        return [*map_layers(model, self.config.layers, _KEY), FEATURES]

    def reduced(self, layer: str, output: Tensor) -> Tensor:
        """Return pooled maps; features are unchanged."""
        if layer == FEATURES:
            return output
        check_maps(layer, output, _KEY)
        return pooled(output)

    def term(self, learner: LearnerView, student: dict[str, Tensor], teacher: dict[str, Tensor]) -> Tensor:
        """Return the sum of both terms, a scalar."""
        config = self.config
        spatial = [(s - teacher[layer]).norm(dim=1).mean() for layer, s in student.items() if layer != FEATURES]
        flat = cosine_distance(student[FEATURES], teacher[FEATURES])
        both = config.spatial_weight * torch.stack(spatial).mean() + config.flat_weight * flat
        return growth(self.num_classes(learner), learner) * both
