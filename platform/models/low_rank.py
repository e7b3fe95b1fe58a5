"""Linear layers and convolutions with a low-rank addition to their weights (LoRA; formula in strategies/lora.py).

Shapes: I inputs of a layer (of a convolution channels x kernel), O outputs, r rank; A (r, I), B (O, r).
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_CONVOLUTION = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")


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
