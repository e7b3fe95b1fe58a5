"""The networks of timm, ``timm:NAME`` in the YAML, with a growing head; an optional package: pip install "retain[timm]".

model: {"timm:convnext_atto": {pretrained: true, resize: 96}}
"""

from typing import Any

import torch
from torch import nn

from ...config.settings import settings
from ...data.cache import DataFolders
from ...data.streams import Stream
from ...errors import UserError, nearest
from . import _pretrained
from ._pretrained import PretrainedConfig, Trunk


@settings
class Config(PretrainedConfig):
    """A network of timm, named "timm:NAME": resnet18, convnext_atto, vit_tiny_patch16_224, ..."""


def build(config: Config, shape: tuple[int, ...], num_classes: int, generator: torch.Generator) -> nn.Module:
    """Build the network for pictures of `shape` (C, H, W) that are normalised as its weights expect.

    Raises:
        UserError: timm is not installed, the network does not take such samples, or its weights are missing.
    """
    return _pretrained.build(f"model.timm:{config.name}", _make, config, shape, num_classes, generator)


def build_for(
    config: Config, stream: Stream, folders: DataFolders, num_classes: int, generator: torch.Generator
) -> nn.Module:
    """Build the network for the pictures of a stream and its normalisation; errors as in `build`."""
    return _pretrained.build_for(f"model.timm:{config.name}", _make, config, stream, folders, num_classes, generator)


def _make(key: str, config: PretrainedConfig, channels: int) -> Trunk:
    """The network as timm makes it for features."""
    try:
        import timm
    except ImportError:
        raise UserError(f'{key}: needs the package timm: pip install "retain[timm]".') from None
    known = timm.list_models()
    architecture = config.name.partition(".")[0]  # resnet18.a1_in1k names the weights too
    if architecture not in known:
        raise UserError(f"{key}: timm has no such network.{nearest(architecture, known)} See timm.list_models().")
    try:
        network: Any = timm.create_model(
            config.name, pretrained=config.pretrained is True, num_classes=0, in_chans=channels, scriptable=False
        )
    except (OSError, RuntimeError) as error:
        reason = f"its weights cannot be had: {error}" if config.pretrained is True else str(error)
        raise UserError(f"{key}.pretrained={config.pretrained}: {reason}") from None
    expected = network.pretrained_cfg
    classifier = expected.get("classifier") or ()
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    prefixes = tuple(f"{name}." for name in names)
    return Trunk(network, None, prefixes, tuple(expected["mean"]), tuple(expected["std"]))
