"""Find the BatchNorm layers of a network, copy their tensors, recompute their statistics, and replace them.

Shapes: C channels.
"""

import math
from collections.abc import Callable, Iterator
from itertools import chain

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import UserError
from .inference import evaluation_mode

_MIN_GROUP_SIZE = 16  # channels per group where a channel is one value
_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """Return the BatchNorm layers that keep running statistics, by name, in the network's order."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
    return {name: layer for name, layer in layers.items() if layer.running_mean is not None}


def batchnorm_tensors(model: nn.Module, affine: bool) -> dict[str, Tensor]:
    """Return copies of the BatchNorm layers' running statistics, by name; with `affine`, weights and biases too."""
    kinds = ("running_mean", "running_var", *(("weight", "bias") if affine else ()))
    copies: dict[str, Tensor] = {}
    for name, layer in batch_norms(model).items():
        tensors = {f"{name}.{kind}": getattr(layer, kind) for kind in kinds}
        copies |= {key: tensor.detach().clone() for key, tensor in tensors.items() if tensor is not None}
    return copies


def recompute_statistics(model: nn.Module, batches: Iterator[Tensor]) -> None:
    """Set the statistics of all BatchNorm layers to their cumulative average over `batches` (B, *shape each), B >= 2.

    Without any batch they do not change.
    """
    first = next(batches, None)
    if first is None:  # nothing to compute the statistics from
        return
    layers = batch_norms(model).values()
    momenta = [layer.momentum for layer in layers]
    with evaluation_mode(model):  # turns dropout off, and restores the modes
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # in torch: cumulative average
            layer.train()
        for x in chain([first], batches):
            model(x)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


def check_running_statistics(key: str, model: nn.Module) -> None:
    """Refuse a network without BatchNorm layers that keep running statistics; `key` is the strategy's path in the YAML."""
    if not batch_norms(model):
        raise UserError(
            f"{key}: the network has no BatchNorm layer with running statistics; leave it out, or choose such a network "
            f"(e.g. model.small_cnn.norm: batch)."
        )


def num_groups(layer: _BatchNorm, max_groups: int = 32) -> int:
    """Return the number of groups for a layer's C channels: `max_groups`, or fewer.

    There are fewer where `max_groups` does not divide C, or where a group would be a single channel. In a BatchNorm1d, where a
    channel is one value, a group has at least 16 channels: normalised pairs would be mere signs.
    """
    channels = layer.num_features
    if isinstance(layer, nn.BatchNorm1d):
        max_groups = min(max_groups, max(1, channels // _MIN_GROUP_SIZE))
    groups = math.gcd(max_groups, channels)
    return max(1, groups // 2) if groups == channels else groups


def replace_batchnorm(key: str, network: nn.Module, make: Callable[[_BatchNorm], nn.Module]) -> None:
    """Replace each BatchNorm layer by ``make(layer)``, on the same device and in the same mode.

    Args:
        key: the strategy's path in the YAML, for errors.
        network: changed in place.
        make: returns the new layer for an old one.

    Raises:
        UserError: the network has no BatchNorm layer, or one does more than normalise (timm's with an activation inside).
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
