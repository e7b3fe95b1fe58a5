"""Capture what layers compute while the network runs, with the autograd graph, so that a loss can use it.

Shapes: B mini-batch, D features, K outputs.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .features import FEATURES, find_head


class LayerRun(NamedTuple):
    """One run of a layer: its name, its first input and its (first) output."""

    layer: str
    input: Tensor
    output: Tensor


class ActivationCapture:
    """Keeps what the named layers compute in forward passes; `FEATURES` stands for the head's input.

    `outputs` holds the output of each layer's last run, by name. With `every_run`, `runs` holds all runs in order instead.

    Either attach it when the training of an experience begins (and in `on_resume`), and detach it when the training ends; or use
    ``with capture.attached(model):`` for some passes.

    Args:
        layers: names of modules, or `FEATURES`.
        every_run: keep all runs, with inputs.
        transform: what is kept of an output, computed at once: a later layer may change the output in place.
    """

    def __init__(
        self,
        layers: Sequence[str] = (FEATURES,),
        *,
        every_run: bool = False,
        transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.layers = tuple(layers)
        self.every_run, self.transform = every_run, transform
        self.outputs: dict[str, Tensor] = {}
        self.runs: list[LayerRun] = []
        self._handles: list[RemovableHandle] = []

    def attach(self, model: nn.Module) -> None:
        """Register hooks on the layers of this network, replacing those of an earlier network."""
        self.detach()
        modules = dict(model.named_modules())
        for layer in self.layers:
            store = partial(self._store, layer)
            if layer == FEATURES:  # before it runs: the head may change its input in place
                handle = find_head(model).register_forward_pre_hook(store)
            else:
                handle = modules[layer].register_forward_hook(store)
            self._handles.append(handle)

    def detach(self) -> None:
        """Remove the hooks and drop what was captured."""
        self._remove_hooks()
        self.outputs, self.runs = {}, []

    @contextmanager
    def attached(self, model: nn.Module) -> Iterator[None]:
        """Capture this network's layers in the ``with`` block; what was captured is kept after it."""
        self.attach(model)
        try:
            yield
        finally:
            self._remove_hooks()

    def _remove_hooks(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _store(self, layer: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Any = None) -> None:
        output = inputs[0] if layer == FEATURES else output[0] if isinstance(output, tuple) else output
        output = output if self.transform is None else self.transform(output)
        if self.every_run:
            self.runs.append(LayerRun(layer, inputs[0], output))
        else:
            self.outputs[layer] = output


def layer_outputs(model: nn.Module, x: Tensor, layers: Sequence[str] = (FEATURES,)) -> tuple[Tensor, dict[str, Tensor]]:
    """Return logits (B, K) and layer outputs for `x` (B, *shape), from a separate forward pass in the model's mode."""
    capture = ActivationCapture(layers)
    with capture.attached(model):
        logits = model(x)
    return logits, capture.outputs


@torch.no_grad()
def features_of(model: nn.Module, x: Tensor) -> Tensor:
    """Return features (B, D), the head's input for `x` (B, *shape), in the model's mode and without gradients."""
    return layer_outputs(model, x)[1][FEATURES]
