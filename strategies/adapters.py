"""Adapters: after the first experiences the network stays, and small residual layers put behind its blocks learn.

    y' = y + U relu(D y + d) + u,   D uniform in +-1/sqrt(F), U = 0, d = u = 0 at the start  (a width)
    y' = y + U y                                                                             (width: null)

of each block's output y, so that the network's function is at first unchanged; on maps the matrices act on the channels of each
place (1x1 convolutions), on tokens on each token. They and the head learn; everything else is frozen, BatchNorm's statistics
included. All experiences from then on train the same adapters; with the same seed the first ones have the bits of plain
finetuning.
Shapes: F features (channels) of the output, w width; D (w, F), U (F, w), or U (F, F); maps (B, F, H, W), tokens (B, N, F).

Sources: Houlsby et al. 2019 (1902.00751): the bottleneck, twice in a transformer block, which is layers: ["*.attention",
"*.mlp"] on our ViT; by default it is once behind each block. Rebuffi et al. 2017 (1705.08045): width: null behind
convolutions, on small_cnn the default's places; theirs has a BatchNorm of its own, ours none. Peers: AdapterHub's reduction
factor is F / width; LAMDA-PILOT's ffn_num (64) is width, of an adapter beside the MLP instead of behind the block.
"""

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..platform.errors import UserError, listed
from ..platform.methods.freezing import AddedLayersPlugin, check_from_experience
from ..platform.models.blocks import blocks_of, is_head

NEUTRAL: dict[str, Any] | None = {"width": 0}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Adapters: small residual layers behind frozen blocks learn, and the head, after the first experiences.

    width: of the bottleneck, >= 0; 0: no adapters; null: no bottleneck, one linear map (residual adapters).
    layers: patterns on names of modules behind which they stand; null: the blocks of the trunk. Of modules inside of one
        another that fit, the outer one counts.
    from_experience: how many experiences are trained as a whole before, without adapters; 0 for a network that comes with
        good weights.
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
            drawn = torch.rand(width, num_features, generator=generator) * 2 - 1
            self.down = nn.Parameter(drawn / math.sqrt(num_features))
            self.down_bias, self.up_bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(num_features))

    def forward(self, y: Tensor) -> Tensor:
        """The same shape."""
        is_map = y.ndim == 4 and y.shape[1] == len(self.up)
        rows = y.movedim(1, -1) if is_map else y
        if self.down is None:
            added = functional.linear(rows, self.up)
        else:
            hidden = functional.linear(rows, self.down, self.down_bias).relu()
            added = functional.linear(hidden, self.up, self.up_bias)
        return y + (added.movedim(-1, 1) if is_map else added)


class Adapted(nn.Module):
    """A module with an adapter behind it."""

    def __init__(self, layer: nn.Module, adapter: Adapter) -> None:
        super().__init__()
        self.layer, self.adapter = layer, adapter

    def forward(self, x: Tensor) -> Tensor:
        """What the module gives, adapted."""
        return self.adapter(self.layer(x))  # type: ignore[no-any-return]


def places(layers: tuple[str, ...] | None, network: nn.Module) -> list[str]:
    """Names of the modules behind which adapters stand: they end in a linear layer or a convolution."""
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
    """F: outputs of the last linear layer or convolution in a module; 0 where it has none."""
    weighty = [layer for layer in module.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    return len(weighty[-1].weight) if weighty else 0


def adapt(config: Config, network: nn.Module, generator: torch.Generator) -> nn.Module:
    """Put the adapters into the network; with width 0 it stays as it is."""
    for name in places(config.layers, network) if config.width != 0 else ():
        layer = network.get_submodule(name)
        adapter = Adapter(_num_features(layer), config.width, generator)
        network.set_submodule(name, Adapted(layer, adapter).train(layer.training))
    return network


def check_model(config: Config, model: nn.Module) -> None:
    """Refuse patterns that fit no module behind which an adapter can stand."""
    adapted = [name for name, module in model.named_modules() if isinstance(module, Adapted)]
    for pattern in (config.layers or ("*",)) if config.width != 0 else ():
        if not any(fnmatchcase(name, pattern) for name in adapted):
            known = [name for name, module in model.named_modules() if _num_features(module) and not is_head(name)]
            key = f"strategies.adapters.layers={None if config.layers is None else list(config.layers)}"
            raise UserError(f"{key}: '{pattern}' fits no layer of the trunk. Known: {listed(known)}.")


def check_stream(config: Config, num_classes: int, num_experiences: int) -> None:
    """Refuse to begin only after the last experience that is trained on."""
    if config.width != 0:
        check_from_experience("adapters", config.from_experience, num_experiences)


class AdaptersPlugin(AddedLayersPlugin):
    """Freezes; the adapters themselves are the network's."""

    def __init__(self, config: Config) -> None:
        super().__init__(config.from_experience, config.width != 0)


def build(config: Config, seed: int) -> AdaptersPlugin:
    """The plugin; what is random is drawn in `adapt`."""
    return AdaptersPlugin(config)
