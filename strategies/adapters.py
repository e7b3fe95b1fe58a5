"""Adapters: after the first experiences the network is frozen, and small residual layers added after its blocks learn.

    y' = y + U relu(D y + d) + u,   D uniform in +-1/sqrt(F), U = 0, d = u = 0 at the start  (a width)
    y' = y + U y                                                                             (width: null)

y is a block's output. At the start an adapter changes nothing, because U = 0. On maps the matrices act on the channels at each
position (1x1 convolutions), on tokens on each token. The adapters and the head learn. Everything else is frozen, BatchNorm's
statistics included. All experiences from then on train the same adapters. With the same seed the first experiences are
bit-identical to plain finetuning.
Shapes: F features (channels) of the output, w width; D (w, F), U (F, w), or U (F, F); maps (B, F, H, W), tokens (B, N, F).

Sources: Houlsby et al. 2019 (1902.00751): the bottleneck, twice in a transformer block, which is layers: ["*.attention",
"*.mlp"] on our ViT; by default it is once after each block. Rebuffi et al. 2017 (1705.08045): width: null after convolutions;
on small_cnn these are the default positions. Theirs includes a BatchNorm, ours does not. Peers: AdapterHub's reduction factor
is F / width. LAMDA-PILOT's ffn_num (64) is the width of an adapter parallel to the MLP instead of after the block.
"""

from fnmatch import fnmatchcase

import torch
from torch import nn

from ..platform.config.settings import FromExperience, NonNegativeInt, Patterns, settings
from ..platform.methods import freezing
from ..platform.models.adapter import Adapted, Adapter
from ..platform.models.blocks import blocks_of, is_added, is_head

NEUTRAL = {"width": 0}


@settings
class Config:
    """Freeze the network after the first experiences, and train small residual layers (adapters) after its blocks, and the head.

    width: of the bottleneck, >= 0; 0: no adapters; null: no bottleneck but one linear map (residual adapters).
    layers: patterns on names of the modules that get an adapter; null: the blocks of the trunk. If nested modules match, only
        the outermost gets one.
    from_experience: how many experiences are trained as a whole before, without adapters; 0 for a network with pretrained
        weights.
    """

    width: NonNegativeInt | None = 16
    layers: Patterns | None = None
    from_experience: FromExperience = 1


def adapter_layers(layers: tuple[str, ...] | None, network: nn.Module) -> list[str]:
    """Return the names of the modules that get an adapter: they contain a linear layer or a convolution."""
    if layers is None:
        return blocks_of(network)
    fitting = [name for name, module in network.named_modules() if any(fnmatchcase(name, each) for each in layers)]
    chosen: list[str] = []
    for name in fitting:  # outer modules come first
        inside = any(name.startswith(f"{outer}.") for outer in chosen)
        if not inside and not is_head(name) and _num_features(network.get_submodule(name)):
            chosen.append(name)
    return chosen


def _num_features(module: nn.Module) -> int:
    """F: outputs of the last linear layer or convolution in a module; 0 without one."""
    weighty = [layer for layer in module.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    return len(weighty[-1].weight) if weighty else 0


def adapt(config: Config, network: nn.Module, generator: torch.Generator) -> nn.Module:
    """Add the adapters to the network; with width 0 it stays as it is."""
    for name in adapter_layers(config.layers, network) if config.width != 0 else ():
        layer = network.get_submodule(name)
        adapter = Adapter(_num_features(layer), config.width, generator)
        network.set_submodule(name, Adapted(layer, adapter).train(layer.training))
    return network


def check_model(config: Config, model: nn.Module) -> None:
    """Refuse patterns that match no module that can get an adapter."""
    adapted = [name for name, module in model.named_modules() if isinstance(module, Adapted)]
    known = [name for name, module in model.named_modules() if _num_features(module) and not is_head(name)]
    freezing.check_added_layers("strategies.adapters.layers", config.layers, "layer", adapted, known)


class AdaptersPlugin(freezing.FreezingPlugin[Config]):
    """Freezes the network; the adapters themselves are part of it."""

    def frozen_parts(self, model: nn.Module) -> freezing.FrozenParts:
        """Return everything but the adapters and the head."""
        return freezing.all_parts_except(model, is_added) if self.config.width != 0 else freezing.NOTHING

    def frozen_at_first(self, model: nn.Module) -> freezing.FrozenParts:
        """Return the adapters, which have no effect yet."""
        return freezing.added_parts(model) if self.config.width != 0 else freezing.NOTHING
