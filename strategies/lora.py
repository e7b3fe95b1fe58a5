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

from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from ..platform.config.settings import FromExperience, NonNegativeInt, Patterns, PositiveFloat, settings
from ..platform.methods import freezing
from ..platform.models.blocks import is_added, is_head
from ..platform.models.low_rank import LoRAConv2d, LoRALinear

NEUTRAL = {"rank": 0}


@settings
class Config:
    """Train only low-rank additions to frozen weights, and the head, after the first experiences (LoRA).

    rank: r of the additions, >= 0; 0: none.
    alpha: the additions are multiplied by alpha / rank, > 0.
    layers: patterns on names of linear and Conv2d layers, e.g. ["*.qkv"]; null: all of the trunk.
    from_experience: how many experiences first train the whole network, without the additions; 0 for a network with good
        weights.
    """

    rank: NonNegativeInt = 8
    alpha: PositiveFloat = 4.0
    layers: Patterns | None = None
    from_experience: FromExperience = 1


def adapt(config: Config, network: nn.Module, generator: torch.Generator) -> nn.Module:
    """Add the low-rank additions to the network's layers; with rank 0 the network is unchanged."""
    candidates = [name for name, layer in network.named_modules() if type(layer) in (nn.Linear, nn.Conv2d)]
    for name in candidates if config.rank else ():
        if is_head(name) or not (config.layers is None or any(fnmatchcase(name, pattern) for pattern in config.layers)):
            continue
        layer: Any = network.get_submodule(name)
        kind: Any = LoRALinear if isinstance(layer, nn.Linear) else LoRAConv2d
        added = kind(layer, config.rank, config.alpha / config.rank, generator)
        network.set_submodule(name, added.train(layer.training))
    return network


def check_model(config: Config, model: nn.Module) -> None:
    """Refuse patterns that match no layer that can be adapted, and a network without such layers."""
    adapted = [name for name, layer in model.named_modules() if isinstance(layer, LoRALinear | LoRAConv2d)]
    known = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    freezing.check_added_layers("strategies.lora.layers", config.layers, "linear or Conv2d layer", adapted, known)


class LoRAPlugin(freezing.FreezingPlugin[Config]):
    """Freezes the weights; the additions themselves belong to the network."""

    def frozen_parts(self, model: nn.Module) -> freezing.FrozenParts:
        """Return everything but the additions and the head."""
        return freezing.all_parts_except(model, is_added) if self.config.rank else freezing.NOTHING

    def frozen_at_first(self, model: nn.Module) -> freezing.FrozenParts:
        """Return the additions, which have no effect yet."""
        return freezing.added_parts(model) if self.config.rank else freezing.NOTHING
