"""LoRA: after the first experiences each layer's weights are frozen, and a product of two thin matrices, added to them, learns.

    h = W x + b + alpha / r * B A x,   A uniform in +-1/sqrt(I), B = 0 at the start

So at first the network's function is unchanged. For a convolution W is the matrix whose rows are its filters. A, B and the head
learn; W, b and the normalisation layers are frozen, BatchNorm's statistics included. All later experiences train the same A and
B one after the other. With the same seed the first experiences have the bits of plain finetuning.
Shapes: I inputs of a layer (of a convolution channels x kernel), O outputs, r rank; A (r, I), B (O, r).

Source: Hu et al. 2022 (2106.09685). rank and alpha are PEFT's r and lora_alpha. Both are 8 there, for Adam; with SGD a product of
two matrices diverges sooner than the weights themselves, so alpha is 4 here. PEFT's target_modules are `layers`; the default is
all linear and Conv2d layers of the trunk. A convolution adds B A to its filters, as in Microsoft's loralib. torch's
MultiheadAttention reads its weights without calling its layers; in a network with it only the other layers are adapted.
"""

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..platform.errors import UserError, comma_separated
from ..platform.methods.freezing import AddedLayersPlugin, check_from_experience
from ..platform.models.blocks import is_head

NEUTRAL: dict[str, Any] | None = {"rank": 0}
_CONVOLUTION = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Train only low-rank additions to frozen weights, and the head, after the first experiences (LoRA).

    rank: r of the additions, >= 0; 0: none.
    alpha: the additions are multiplied by alpha / rank, > 0.
    layers: patterns on names of linear and Conv2d layers, e.g. ["*.qkv"]; null: all of the trunk.
    from_experience: how many experiences first train the whole network, without the additions; 0 for a network with good
        weights.
    """

    rank: int = 8
    alpha: float = 4.0
    layers: tuple[str, ...] | None = None
    from_experience: int = 1

    def __post_init__(self) -> None:
        rank, alpha, from_experience = self.rank, self.alpha, self.from_experience
        if rank < 0:
            raise ValueError(f"{rank=}: must be >= 0")
        if not 0 < alpha < math.inf:
            raise ValueError(f"{alpha=}: must be > 0 and finite")
        if self.layers is not None and (not self.layers or not all(self.layers)):
            raise ValueError(f"layers={list(self.layers)}: must hold patterns on names of layers, or be null for all")
        if from_experience < 0:
            raise ValueError(f"{from_experience=}: must be >= 0")


def merged_weight(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Return W + scale * B A for a weight (O, ...) with I numbers per row, a (r, I) and b (O, r)."""
    return weight + scale * (b @ a).view_as(weight)


def init_factors(weight: Tensor, rank: int, generator: torch.Generator) -> tuple[nn.Parameter, nn.Parameter]:
    """Return A (r, I), sampled, and B (O, r), zeros, for a weight (O, ...)."""
    num_in = weight[0].numel()
    initial = (torch.rand(rank, num_in, generator=generator) * 2 - 1) / math.sqrt(num_in)
    return nn.Parameter(initial.to(weight)), nn.Parameter(weight.new_zeros(len(weight), rank))


class LoRALinear(nn.Linear):
    """A linear layer with a low-rank addition."""

    def __init__(self, layer: nn.Linear, rank: int, scale: float, generator: torch.Generator) -> None:
        super().__init__(layer.in_features, layer.out_features, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.lora_a, self.lora_b = init_factors(layer.weight, rank, generator)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs (..., O) of inputs (..., I); B and A are applied one after the other, which costs less."""
        added = functional.linear(functional.linear(x, self.lora_a), self.lora_b)
        return functional.linear(x, self.weight, self.bias) + self.scale * added


class LoRAConv2d(nn.Conv2d):
    """A convolution with a low-rank addition."""

    def __init__(self, layer: nn.Conv2d, rank: int, scale: float, generator: torch.Generator) -> None:
        arguments: Any = {name: getattr(layer, name) for name in _CONVOLUTION}
        super().__init__(**arguments | {"device": "meta"})
        self.weight, self.bias = layer.weight, layer.bias
        self.lora_a, self.lora_b = init_factors(layer.weight, rank, generator)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """Return maps (B, O, H', W') of maps (B, C, H, W)."""
        weight = merged_weight(self.weight, self.lora_a, self.lora_b, self.scale)
        return self._conv_forward(x, weight, self.bias)  # type: ignore[no-any-return]


def adapt(config: Config, network: nn.Module, generator: torch.Generator) -> nn.Module:
    """Add the low-rank additions to the network's layers; with rank 0 the network is unchanged."""
    candidates = [name for name, layer in network.named_modules() if type(layer) in (nn.Linear, nn.Conv2d)]
    for name in candidates if config.rank else ():
        if is_head(name) or not (config.layers is None or any(fnmatchcase(name, pattern) for pattern in config.layers)):
            continue
        layer: Any = network.get_submodule(name)
        kind: Any = LoRALinear if isinstance(layer, nn.Linear) else LoRAConv2d
        network.set_submodule(
            name, kind(layer, config.rank, config.alpha / config.rank, generator).train(layer.training)
        )
    return network


def check_model(config: Config, model: nn.Module) -> None:
    """Refuse patterns that match no layer that can be adapted, and a network without such layers."""
    adapted = [name for name, layer in model.named_modules() if isinstance(layer, LoRALinear | LoRAConv2d)]
    for pattern in (config.layers or ("*",)) if config.rank else ():
        if not any(fnmatchcase(name, pattern) for name in adapted):
            known = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
            key = f"strategies.lora.layers={None if config.layers is None else list(config.layers)}"
            raise UserError(
                f"{key}: '{pattern}' fits no linear or Conv2d layer of the trunk. Known: {comma_separated(known)}."
            )


def check_stream(config: Config, num_classes: int, num_experiences: int) -> None:
    """Refuse to start only after the last experience that is trained on."""
    if config.rank:
        check_from_experience("lora", config.from_experience, num_experiences)


class LoRAPlugin(AddedLayersPlugin):
    """Freezes the weights; the additions themselves belong to the network."""

    def __init__(self, config: Config) -> None:
        super().__init__(config.from_experience, config.rank > 0)


def build(config: Config, seed: int) -> LoRAPlugin:
    """Return the plugin; `adapt` does the random initialisation."""
    return LoRAPlugin(config)
