"""Attention distillation: hold the network's attention maps to the old network's.

    L = L_CE + weight * mean_layers L_layer,   q = Q / |Q|,   over the H * W positions of a layer's maps A
    activation: Q = sum_channels A^2,                              L_layer = mean_B |q(s) - q(t)|_2
    gradcam:    Q = relu(sum_channels alpha A),                    L_layer = mean_B |q(s) - q(t)|_1
                alpha = the mean over positions of d logit_c / d A,   c = the teacher's class for the sample

s is the network. t is the teacher, the network as it was before the experience; the first experience has none. With "gradcam"
the maps show the evidence for a class (alpha is treated as a constant); together with `lwf` it is Learning without Memorizing.
A map that is 0 everywhere stays 0. Shapes: B batch, maps A (B, channels, H, W).

Sources: Zagoruyko & Komodakis 2017 (1612.03928, attention transfer, p = 2), Dhar et al. 2019 (1811.08051, LwM: L_AD;
Selvaraju et al. 2017 for Grad-CAM). Peers: FACIL's lwm has gamma = weight, beta = the weight of lwf * T^2 (its T is 2) and
gradcam_layer = layers; but it detaches the maps, so its L_AD has no gradient.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from ..platform.config.settings import NonNegativeFloat, Patterns, settings
from ..platform.methods.layer_distillation import LayerDistillation, check_maps, map_layers
from ..platform.methods.teacher import LOGITS, Teacher
from ..platform.models.activation_capture import layer_outputs
from ..platform.training.plugin import LearnerView

NEEDS_PAST = True
_KEY = "strategies.attention_distillation.layers"


@settings
class Config:
    """Hold attention maps of convolutional layers to those of the old network.

    weight: of the term, >= 0.
    kind: "activation" (squares, summed over channels) or "gradcam" (evidence for the old network's class, as LwM).
    layers: patterns on names of layers that output maps; null: the blocks of the trunk that contain convolutions, with
        "gradcam" only the last of them.
    """

    weight: NonNegativeFloat = 1.0
    kind: Literal["activation", "gradcam"] = "activation"
    layers: Patterns | None = None


def activation_map(maps: Tensor) -> Tensor:
    """Return q (B, H * W) of maps (B, channels, H, W)."""
    return nn.functional.normalize(maps.square().sum(1).flatten(1))


def gradcam_maps(logits: Tensor, classes: Tensor, maps: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return q (B, H * W) of each layer's maps, for the classes (B,).

    The logits (B, C) must be computed from the maps. Their graph is kept.
    """
    # maps of frozen layers stay as they are
    maps = {layer: each for layer, each in maps.items() if each.requires_grad}
    if not maps:
        return {}
    scores = logits.gather(1, classes.unsqueeze(1)).sum()
    slopes = torch.autograd.grad(scores, list(maps.values()), retain_graph=True)
    alphas = [slope.mean((2, 3), keepdim=True) for slope in slopes]
    evidence = [(alpha * each).sum(1).relu().flatten(1) for alpha, each in zip(alphas, maps.values(), strict=True)]
    return {layer: nn.functional.normalize(each.float()) for layer, each in zip(maps, evidence, strict=True)}


def selected_layers(config: Config, model: nn.Module) -> list[str]:
    """Return the names of the layers with maps to compare."""
    layers = map_layers(model, config.layers, _KEY)
    return layers[-1:] if config.kind == "gradcam" and config.layers is None else layers


def check_model(config: Config, model: nn.Module) -> None:
    """Refuse patterns that match no layer or one without convolutions, and a network without any."""
    selected_layers(config, model)


class GradCAMTeacher(Teacher):
    """A teacher that outputs the maps of evidence for its predicted class of each sample."""

    def outputs_for(self, x: Tensor) -> dict[str, Tensor]:
        """Return the logits, and q (B, H * W) of the layers."""
        assert self.model is not None, "there is no teacher"
        with torch.enable_grad():
            logits, maps = layer_outputs(self.model, x.detach().clone().requires_grad_(), self.layers)
            for layer, output in maps.items():
                check_maps(layer, output, _KEY)
            attention = gradcam_maps(logits, logits.argmax(1), maps)
        return {LOGITS: logits.detach().float()} | {layer: each.detach() for layer, each in attention.items()}


class AttentionDistillationPlugin(LayerDistillation[Config]):
    """Adds weight * the mean over the layers to the loss from the second trained experience on."""

    def init_state(self) -> None:
        """Set the initial state."""
        super().init_state()
        if self.config.kind == "gradcam":
            self.teacher = GradCAMTeacher()

    def layers(self, model: nn.Module) -> list[str]:
        """Return the layers that match the patterns."""
        return selected_layers(self.config, model)

    def reduced(self, layer: str, output: Tensor) -> Tensor:
        """Return the attention map; for Grad-CAM, which needs gradients, the maps themselves."""
        check_maps(layer, output, _KEY)
        return activation_map(output) if self.config.kind == "activation" else output

    def term(self, learner: LearnerView, student: dict[str, Tensor], teacher: dict[str, Tensor]) -> Tensor:
        """Return the weighted mean over the layers."""
        order = 2
        if self.config.kind == "gradcam":
            student, order = gradcam_maps(learner.mb_output, teacher[LOGITS].argmax(1), self.student_outputs), 1
        if not student:  # all compared layers are frozen
            return torch.zeros((), device=learner.device)
        return self.config.weight * attention_distance(student, teacher, order)


def attention_distance(student: dict[str, Tensor], teacher: dict[str, Tensor], order: int) -> Tensor:
    """Return the mean over layers of L_layer, for maps q (B, H * W) by layer and the norm's order."""
    terms = [torch.linalg.vector_norm(q - teacher[layer], order, dim=1).mean() for layer, q in student.items()]
    return torch.stack(terms).mean()
