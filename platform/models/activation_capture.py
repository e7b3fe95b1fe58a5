"""Capture layer outputs and the head's input during training, with the autograd graph, so that a loss can use them.

Shapes: B mini-batch, D features, K outputs.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .features import FEATURES, find_head


class ActivationCapture:
    """Keeps the outputs of the named layers in the last forward pass; `FEATURES` stands for the head's input.

    Attach it when the training of an experience begins (and in `on_resume`), and detach it when the training ends. If a layer
    runs several times in a pass, its last output counts.
    """

    def __init__(self, layers: Sequence[str] = (FEATURES,)) -> None:
        self.layers = tuple(layers)
        self.outputs: dict[str, Tensor] = {}
        self._handles: list[Any] = []

    def attach(self, model: nn.Module) -> None:
        """Register hooks on the layers of this network, replacing those of an earlier network."""
        self.detach()
        modules = dict(model.named_modules())
        for layer in self.layers:
            if layer == FEATURES:
                handle: Any = find_head(model).register_forward_pre_hook(self._store_head_input)
            else:
                handle = modules[layer].register_forward_hook(partial(self._store_output, layer))
            self._handles.append(handle)

    def detach(self) -> None:
        """Remove the hooks and drop the captured outputs."""
        for handle in self._handles:
            handle.remove()
        self._handles, self.outputs = [], {}

    def _store_output(self, layer: str, module: nn.Module, inputs: Any, output: Any) -> None:
        self.outputs[layer] = output[0] if isinstance(output, tuple) else output

    def _store_head_input(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.outputs[FEATURES] = inputs[0]


def layer_outputs(model: nn.Module, x: Tensor, layers: Sequence[str] = (FEATURES,)) -> tuple[Tensor, dict[str, Tensor]]:
    """Return logits (B, K) and layer outputs for `x` (B, *shape), from a separate forward pass in the model's mode."""
    capture = ActivationCapture(layers)
    capture.attach(model)
    try:
        logits, outputs = model(x), capture.outputs
    finally:
        capture.detach()
    return logits, outputs


@torch.no_grad()
def features_of(model: nn.Module, x: Tensor) -> Tensor:
    """Return features (B, D), the head's input for `x` (B, *shape), in the model's mode and without gradients."""
    return layer_outputs(model, x)[1][FEATURES]
