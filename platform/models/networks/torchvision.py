"""The classification networks of torchvision, ``torchvision:NAME`` in the YAML, with a growing head.

model: {"torchvision:mobilenet_v2": {pretrained: weights/mobilenet_v2-b0353104.pth, resize: 96}}
"""

import re
from typing import Any

import torch
from torch import nn

from ...config.settings import settings
from ...data.cache import DataFolders
from ...data.streams import Stream
from ...errors import UserError, comma_separated, nearest
from . import _pretrained
from ._pretrained import PretrainedConfig, Trunk


@settings
class Config(PretrainedConfig):
    """A network of torchvision, named "torchvision:NAME": resnet18, mobilenet_v2, efficientnet_b0, ..."""


def build(config: Config, shape: tuple[int, ...], num_classes: int, generator: torch.Generator) -> nn.Module:
    """Build the network for pictures of `shape` (C, H, W) that are normalised as its weights expect.

    Raises:
        UserError: the network does not take such samples, or its weights are missing or belong to another network.
    """
    return _pretrained.build(f"model.torchvision:{config.name}", _make, config, shape, num_classes, generator)


def build_for(
    config: Config, stream: Stream, folders: DataFolders, num_classes: int, generator: torch.Generator
) -> nn.Module:
    """Build the network for the pictures of a stream and its normalisation; errors as in `build`."""
    key = f"model.torchvision:{config.name}"
    return _pretrained.build_for(key, _make, config, stream, folders, num_classes, generator)


def _make(key: str, config: PretrainedConfig, channels: int) -> Trunk:
    """The network without its last linear layer; layers before it, such as dropout, stay."""
    from torchvision import models

    known = models.list_models(module=models)
    if config.name not in known:
        raise UserError(
            f"{key}: torchvision has no such network.{nearest(config.name, known)} Known: {comma_separated(known)}."
        )
    network = models.get_model(config.name)
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear or hasattr(network, "aux_logits"):
        reason = "its training has several outputs" if linear else "its classifier is no linear layer"
        raise UserError(f"{key}: cannot be given a head that grows: {reason}.")
    network.set_submodule(linear[-1], nn.Identity())
    if channels != 3:
        _replace_first(network, channels)
    weights = models.get_model_weights(config.name).DEFAULT
    state = _downloaded(key, weights) if config.pretrained is True else None
    expected = weights.transforms()
    return Trunk(network, state, (f"{linear[-1]}.",), tuple(expected.mean), tuple(expected.std))


def _replace_first(network: nn.Module, channels: int) -> None:
    """Replace an untrained network's first convolution by one for `channels`, initialised as PyTorch does it."""
    name, first = next((name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d))
    size, stride, padding = first.kernel_size, first.stride, first.padding
    bias = first.bias is not None
    network.set_submodule(name, nn.Conv2d(channels, first.out_channels, size, stride, padding, bias=bias))  # type: ignore[arg-type]


def _downloaded(key: str, weights: Any) -> dict[str, torch.Tensor]:
    """torchvision's weights from its cache or the internet, with their hash checked."""
    try:
        state: dict[str, torch.Tensor] = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:  # URLError is an OSError
        raise UserError(
            f"{key}.pretrained=true: its weights cannot be downloaded from {weights.url}: {error}. Without a network: put the "
            f"file somewhere and give its path as `pretrained`."
        ) from None
    # DenseNets' files are older than the names of their layers: norm.1 is now norm1
    return {
        re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)", r"\1\2", name): value for name, value in state.items()
    }
