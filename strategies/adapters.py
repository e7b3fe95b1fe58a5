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

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..platform.errors import UserError, comma_separated
from ..platform.methods.freezing import AddedLayersPlugin, check_from_experience
from ..platform.models.blocks import blocks_of, is_head

NEUTRAL: dict[str, Any] | None = {"width": 0}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Freeze the network after the first experiences, and train small residual layers (adapters) after its blocks, and the head.

    width: of the bottleneck, >= 0; 0: no adapters; null: no bottleneck but one linear map (residual adapters).
    layers: patterns on names of the modules that get an adapter; null: the blocks of the trunk. If nested modules match, only
        the outermost gets one.
    from_experience: how many experiences are trained as a whole before, without adapters; 0 for a network with pretrained
        weights.
    """

    width: int | None = 16
    layers: tuple[str, ...] | None = None
    from_experience: int = 1

    def __post_init__(self) -> None:
        width, from_experience = self.width, self.from_experience
        if width is not None and width < 0:
            raise ValueError(f"{width=}: must be >= 0, or null for a linear map")
        if self.layers is not None and (not self.layers or not all(self.layers)):
            raise ValueError(
                f"layers={list(self.layers)}: must hold patterns on names of modules, or be null for the blocks"
            )
        if from_experience < 0:
            raise ValueError(f"{from_experience=}: must be >= 0")


class Adapter(nn.Module):
    """The residual layer of this file's formula, on (B, F), (B, N, F) or (B, F, H, W)."""

    def __init__(self, num_features: int, width: int | None, generator: torch.Generator) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.zeros(num_features, num_features if width is None else width))
        self.down: nn.Parameter | None = None
        if width is not None:
            uniform = torch.rand(width, num_features, generator=generator) * 2 - 1
            self.down = nn.Parameter(uniform / math.sqrt(num_features))
            self.down_bias, self.up_bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(num_features))

    def forward(self, y: Tensor) -> Tensor:
        """Return the adapted features, in the same shape."""
        is_map = y.ndim == 4 and y.shape[1] == len(self.up)
        rows = y.movedim(1, -1) if is_map else y
        if self.down is None:
            added = functional.linear(rows, self.up)
        else:
            hidden = functional.linear(rows, self.down, self.down_bias).relu()
            added = functional.linear(hidden, self.up, self.up_bias)
        return y + (added.movedim(-1, 1) if is_map else added)


class Adapted(nn.Module):
    """A module followed by an adapter."""

    def __init__(self, layer: nn.Module, adapter: Adapter) -> None:
        super().__init__()
        self.layer, self.adapter = layer, adapter

    def forward(self, x: Tensor) -> Tensor:
        """Return the module's output, adapted."""
        return self.adapter(self.layer(x))  # type: ignore[no-any-return]


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
    for pattern in (config.layers or ("*",)) if config.width != 0 else ():
        if not any(fnmatchcase(name, pattern) for name in adapted):
            known = [name for name, module in model.named_modules() if _num_features(module) and not is_head(name)]
            key = f"strategies.adapters.layers={None if config.layers is None else list(config.layers)}"
            raise UserError(f"{key}: '{pattern}' fits no layer of the trunk. Known: {comma_separated(known)}.")


def check_stream(config: Config, num_classes: int, num_experiences: int) -> None:
    """Refuse to begin after the last trained experience."""
    if config.width != 0:
        check_from_experience("adapters", config.from_experience, num_experiences)


class AdaptersPlugin(AddedLayersPlugin):
    """Freezes the network; the adapters themselves are part of it."""

    def __init__(self, config: Config) -> None:
        super().__init__(config.from_experience, config.width != 0)


def build(config: Config, seed: int) -> AdaptersPlugin:
    """Return the plugin; the random numbers are sampled in `adapt`."""
    return AdaptersPlugin(config)
