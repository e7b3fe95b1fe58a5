"""A head that grows with the classes, the classifier that contains it, and weight initialisation.

Shapes: B batch, D features, C classes.
"""

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from ..errors import comma_separated

Init = Literal["kaiming", "xavier", "torch"]
_MAX_LISTED = 30  # layers in an error message


class Head(nn.Module):
    """A linear layer (B, D) -> (B, C) whose C grows: old rows stay bit-identical, new rows are sampled from a generator."""

    def __init__(self, num_features: int, num_classes: int, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(0, num_features))
        self.bias = nn.Parameter(torch.empty(0))
        self.grow(num_classes, generator)

    @property
    def num_classes(self) -> int:
        """Return C, the number of rows."""
        return self.weight.shape[0]

    def grow(self, num_classes: int, generator: torch.Generator) -> None:
        """Add rows up to `num_classes`, uniform in +-1/sqrt(D) as in nn.Linear; a smaller `num_classes` changes nothing."""
        added = num_classes - self.num_classes
        if added <= 0:
            return
        num_features = self.weight.shape[1]
        bound = 1 / math.sqrt(num_features)
        rows = (torch.rand(added, num_features + 1, generator=generator) * 2 - 1) * bound
        rows = rows.to(self.weight.device, self.weight.dtype)
        self.weight = nn.Parameter(torch.cat([self.weight.detach(), rows[:, :-1]]))
        self.bias = nn.Parameter(torch.cat([self.bias.detach(), rows[:, -1]]))

    def shrink(self, num_classes: int) -> None:
        """Keep the first `num_classes` rows, to fit a head that is to be loaded."""
        self.weight = nn.Parameter(self.weight.detach()[:num_classes].clone())
        self.bias = nn.Parameter(self.bias.detach()[:num_classes].clone())

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits (B, C) for features (B, D)."""
        return functional.linear(features, self.weight, self.bias)


class Classifier(nn.Module):
    """The form of every network here: a `trunk` that computes features, and a growing `head`."""

    def __init__(self, trunk: nn.Module, num_features: int, num_classes: int, generator: torch.Generator) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = Head(num_features, num_classes, generator)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Return features (B, D), the head's input, for inputs (B, *shape)."""
        return self.trunk(x)  # type: ignore[no-any-return]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (B, C) for inputs (B, *shape)."""
        return self.head(self.features(x))  # type: ignore[no-any-return]


@torch.no_grad()
def reset_weights(model: nn.Module, initial: dict[str, torch.Tensor], draw: torch.Generator) -> None:
    """Give a network its `initial` tensors.

    Rows that a tensor has gained since are sampled uniformly in +-1/sqrt(D) with `draw`; those of a bias are 0.
    """
    for name, tensor in model.state_dict().items():
        saved = initial[name]
        if tensor.ndim and not tensor.is_floating_point():
            continue  # not weights: Avalanche's heads mark the outputs in use
        if tensor.shape == saved.shape:
            tensor.copy_(saved)
            continue
        tensor[: len(saved)].copy_(saved)
        added = tensor[len(saved) :]
        bound = added[0].numel() ** -0.5 if added.ndim > 1 else 0.0
        added.copy_((torch.rand(added.shape, generator=draw) * 2 - 1) * bound)


def summarise_layers(names: Iterable[str]) -> str:
    """List the layers of the named parameters for an error message.

    Of a deep network, only outer modules are listed, such as ``trunk.stage1.*``.
    """
    layers = [name.split(".")[:-1] or [name] for name in names]
    for depth in range(max(map(len, layers), default=0), 0, -1):
        shown = {".".join(parts[:depth]) + (".*" if len(parts) > depth else "") for parts in layers}
        if len(shown) <= _MAX_LISTED or depth == 1:
            return comma_separated(shown)
    return ""


def initialise(module: nn.Module, init: Init, generator: torch.Generator) -> None:
    """Initialise linear and convolutional layers: Kaiming (He 2015, for ReLU) or Xavier (Glorot 2010), biases 0.

    "torch" is PyTorch's default: weights and biases uniform in +-1/sqrt(fan-in).
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            if init == "torch":
                bound = 1 / math.sqrt(layer.weight[0].numel())
                for parameter in layer.parameters():
                    nn.init.uniform_(parameter, -bound, bound, generator=generator)
                continue
            if init == "kaiming":
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            else:
                nn.init.xavier_uniform_(layer.weight, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
