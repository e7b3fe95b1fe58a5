"""BatchNorm layers: which a network has, and others put in their place.

Shapes: C channels.
"""

import math
from collections.abc import Callable

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import UserError

_LEAST = 16
_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """The BatchNorm layers that keep running statistics, by name, in the order of the network."""
    found = {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
    return {name: layer for name, layer in found.items() if layer.running_mean is not None}


def num_groups(layer: _BatchNorm, wanted: int = 32) -> int:
    """Groups of the layer's C channels: `wanted`, or fewer where C is not their multiple or a group would be a single channel.

    Where a channel is one value (BatchNorm1d), a group has at least 16 of them: normalised pairs would be mere signs.
    """
    channels = layer.num_features
    if isinstance(layer, nn.BatchNorm1d):
        wanted = min(wanted, max(1, channels // _LEAST))
    groups = math.gcd(wanted, channels)
    return max(1, groups // 2) if groups == channels else groups


def replace_batchnorm(key: str, network: nn.Module, make: Callable[[_BatchNorm], nn.Module]) -> None:
    """Put ``make(layer)`` in the place of each BatchNorm layer, on its device and in its mode.

    Args:
        key: the strategy's path in the YAML, for errors.
        network: changed in place.
        make: the new layer for an old one.

    Raises:
        UserError: there is none, or one does more than normalise (timm's with an activation inside).
    """
    layers = {name: module for name, module in network.named_modules() if isinstance(module, _BatchNorm)}
    if not layers:
        raise UserError(
            f"{key}: the network has no BatchNorm layer to replace; leave it out, or choose such a network "
            f"(e.g. model.small_cnn.norm: batch)."
        )
    other = [f"{name} ({type(layer).__name__})" for name, layer in layers.items() if type(layer) not in _PLAIN]
    if other:
        raise UserError(f"{key}: {other[0]} is no plain BatchNorm layer: it does more than normalise.")
    for name, layer in layers.items():
        device = next((tensor.device for tensor in layer.state_dict().values()), None)
        network.set_submodule(name, make(layer).to(device).train(layer.training))
