"""A multilayer perceptron.

Shapes: B batch, D features of the last hidden layer, C classes.
"""

from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Literal

import torch
from torch import nn

from ..heads import Head, Init, initialise


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Multilayer perceptron: `hidden` widths, `activation` relu or tanh, `dropout` after each layer, `init` kaiming or xavier."""

    hidden: tuple[int, ...] = (256, 256)
    activation: Literal["relu", "tanh"] = "relu"
    dropout: float = 0.0
    init: Init = "kaiming"

    def __post_init__(self) -> None:
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden={list(self.hidden)}: must hold at least one width, each at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout}: must be in [0, 1)")


class MLP(nn.Module):
    """Flatten, hidden layers (`features`), growing head."""

    def __init__(self, config: Config, shape: tuple[int, ...], num_classes: int, generator: torch.Generator) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        for num_in, num_out in pairwise((prod(shape), *config.hidden)):
            layers += [nn.Linear(num_in, num_out), nn.ReLU() if config.activation == "relu" else nn.Tanh()]
            if config.dropout:
                layers.append(nn.Dropout(config.dropout))
        self.trunk = nn.Sequential(*layers)
        initialise(self.trunk, config.init, generator)
        self.head = Head(config.hidden[-1], num_classes, generator)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Inputs (B, *shape) -> features (B, D)."""
        return self.trunk(x)  # type: ignore[no-any-return]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Inputs (B, *shape) -> logits (B, C)."""
        return self.head(self.trunk(x))  # type: ignore[no-any-return]


def build(config: Config, shape: tuple[int, ...], num_classes: int, generator: torch.Generator) -> nn.Module:
    """Build the network for samples of `shape` (channels first) with `num_classes` outputs to begin with."""
    return MLP(config, shape, num_classes, generator)
