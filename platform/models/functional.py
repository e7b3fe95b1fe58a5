"""Run a network with other parameters and buffers than its own, which stay as they are."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call


def call_with(model: nn.Module, tensors: Mapping[str, Tensor], x: Tensor) -> Any:
    """Return what a network computes for `x` with some of its parameters and buffers replaced.

    Use this and not `torch.func.functional_call`, which damages a network with a module that has two names: its tied weights are
    swapped twice, and the network is left with the replaced ones.

    Args:
        model: the network.
        tensors: the replacements, by their names in `named_parameters` and `named_buffers` or in a state dict.
        x: its input.
    """
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    replaced = {tensor: tensors[name] for name, tensor in named if name in tensors}
    places = {
        f"{path}.{attribute}" if path else attribute: replaced[tensor]
        for path, module in model.named_modules()  # each module once
        for attribute, tensor in _tensors_of(module)
        if tensor in replaced
    }
    return functional_call(model, places, (x,), tie_weights=False)


def _tensors_of(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Return the parameters and buffers that a module holds itself, under all of their names."""
    return [
        *module.named_parameters(recurse=False, remove_duplicate=False),
        *module.named_buffers(recurse=False, remove_duplicate=False),
    ]
