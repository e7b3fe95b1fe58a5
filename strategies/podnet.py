"""PODNet's distillation: maps are held to the old network's in sums over their width and height, features in direction.

    L = L_CE + sqrt(C / N) * (spatial_weight * mean_layers mean_B |p(s) - p(t)| + flat_weight * mean_B (1 - cos(s_f, t_f)))
    p(a): sums over the width of a^2 (channels * H numbers) and over the height (channels * W), as one vector of length 1

s, t: a layer's maps in the network and in the teacher, which is the network as the experience found it; s_f, t_f: the
features, what the head is given; C classes so far with the N of this experience. Sums say less than places, so that maps may
move a little. The first experience has no teacher. Shapes: B batch, maps (B, channels, H, W), features (B, D).

Source: Douillard et al. 2020 (2004.13513); the squares are in the authors' code, not in the paper's equation. Peers: the
authors' pod_spatial and pod_flat scheduled_factor = spatial_weight and flat_weight (3 and 1 on CIFAR100, 8 and 10 on
ImageNet). They take each stage's maps before its last ReLU, ours are those that blocks give. Their head of several
cosines a class is local_similarity; their finetuning on a balanced memory is not part of this: see eeil.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..platform.methods.layer_distillation import LayerDistillation, check_maps, distance, growth, map_layers
from ..platform.models.features import FEATURES

NEUTRAL: dict[str, Any] | None = {"spatial_weight": 0.0, "flat_weight": 0.0}
CONFLICTS = {"joint": "joint trains once, so there is no old network to distil from"}
_KEY = "strategies.podnet.layers"


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """PODNet's distillation: pooled maps of convolutional layers, and the features.

    spatial_weight: of the maps' term, >= 0.
    flat_weight: of the features' term, >= 0. Both grow by sqrt(all classes / new classes).
    layers: patterns on names of layers that give maps; null: the blocks of the trunk that hold convolutions.
    """

    spatial_weight: float = 3.0
    flat_weight: float = 1.0
    layers: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("spatial_weight", "flat_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)}: must be >= 0 and finite")
        if self.layers is not None and not (self.layers and all(self.layers)):
            raise ValueError(f"layers={list(self.layers)}: must hold at least one pattern, none empty, or be null")


def pooled(maps: Tensor) -> Tensor:
    """p of this file's formula: maps (B, channels, H, W) -> (B, channels * (H + W))."""
    squares = maps.square()
    sums = torch.cat([squares.sum(3).flatten(1), squares.sum(2).flatten(1)], dim=1)
    return nn.functional.normalize(sums)


def check_model(config: Config, model: nn.Module) -> None:
    """Refuse patterns that fit no layer or one without convolutions, and a network without."""
    map_layers(model, config.layers, _KEY)


class PODNetPlugin(LayerDistillation):
    """Adds both terms to the loss from the second trained experience on."""

    def __init__(self, config: Config) -> None:
        super().__init__(config.spatial_weight > 0 or config.flat_weight > 0)
        self.config = config

    def layers(self, model: nn.Module) -> list[str]:
        """The layers that give maps, and the features."""
        return [*map_layers(model, self.config.layers, _KEY), FEATURES]

    def reduced(self, layer: str, output: Tensor) -> Tensor:
        """Maps are pooled."""
        if layer == FEATURES:
            return output
        check_maps(layer, output, _KEY)
        return pooled(output)

    def term(self, learner: Any, student: dict[str, Tensor], teacher: dict[str, Tensor]) -> Tensor:
        """Both terms."""
        config = self.config
        spatial = [(s - teacher[layer]).norm(dim=1).mean() for layer, s in student.items() if layer != FEATURES]
        flat = distance(student[FEATURES], teacher[FEATURES])
        both = config.spatial_weight * torch.stack(spatial).mean() + config.flat_weight * flat
        return growth(self.num_classes(learner), learner) * both


def build(config: Config, seed: int) -> PODNetPlugin:
    """The plugin; it draws no random numbers."""
    return PODNetPlugin(config)
