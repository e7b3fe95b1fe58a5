"""What layers give, and what the head is given, while a network is trained: with the graph, so that a loss can stand on it.

Shapes: B mini-batch, D features, K outputs.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .features import FEATURES, find_head


class ActivationCapture:
    """Keeps what the named layers gave in the last forward pass; `FEATURES`: what the head was given.

    Attach it where the training of an experience begins (and in `on_resume`), and detach it where it ends. A layer that is run
    several times in a pass counts with its last output.
    """

    def __init__(self, layers: Sequence[str] = (FEATURES,)) -> None:
        self.layers = tuple(layers)
        self.outputs: dict[str, Tensor] = {}
        self._handles: list[Any] = []

    def attach(self, model: nn.Module) -> None:
        """Watch this network from now on."""
        self.detach()
        modules = dict(model.named_modules())
        for layer in self.layers:
            if layer == FEATURES:
                handle: Any = find_head(model).register_forward_pre_hook(self._keep_input)
            else:
                handle = modules[layer].register_forward_hook(partial(self._keep, layer))
            self._handles.append(handle)

    def detach(self) -> None:
        """Leave the network as it was, and forget what was kept."""
        for handle in self._handles:
            handle.remove()
        self._handles, self.outputs = [], {}

    def _keep(self, layer: str, module: nn.Module, given: Any, output: Any) -> None:
        self.outputs[layer] = output[0] if isinstance(output, tuple) else output

    def _keep_input(self, module: nn.Module, given: tuple[Tensor, ...]) -> None:
        self.outputs[FEATURES] = given[0]


def layer_outputs(model: nn.Module, x: Tensor, layers: Sequence[str] = (FEATURES,)) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits (B, K) and the layers' outputs for `x` (B, *shape) in a pass of their own, in the model's mode."""
    capture = ActivationCapture(layers)
    capture.attach(model)
    try:
        logits, found = model(x), capture.outputs
    finally:
        capture.detach()
    return logits, found


@torch.no_grad()
def features_of(model: nn.Module, x: Tensor) -> Tensor:
    """Features (B, D), what the head is given for `x` (B, *shape), in the model's mode and without gradients."""
    return layer_outputs(model, x)[1][FEATURES]
