"""A multilayer perceptron: flatten, hidden layers (linear, normalisation, activation, dropout), growing head."""

from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Literal

import torch
from torch import nn

from ..heads import Classifier, Init, initialise
from ._layers import Activation, activation


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Multilayer perceptron.

    hidden: widths of the hidden layers.
    activation: relu, tanh, gelu or leaky_relu.
    norm: batch or layer normalisation before each activation; null: none.
    dropout: rate of dropout after each activation.
    init: kaiming (He 2015, for ReLU), xavier (Glorot 2010, for tanh), or torch (PyTorch's default).
    """

    hidden: tuple[int, ...] = (256, 256)
    activation: Activation = "relu"
    norm: Literal["batch", "layer"] | None = None
    dropout: float = 0.0
    init: Init = "kaiming"

    def __post_init__(self) -> None:
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden={list(self.hidden)}: must hold at least one width, each at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout}: must be in [0, 1)")


@torch.random.fork_rng(devices=[])  # torch's layers initialise themselves with the global generator
def build(config: Config, shape: tuple[int, ...], num_classes: int, generator: torch.Generator) -> nn.Module:
    """Build the network for samples of `shape` (channels first), with `num_classes` initial outputs."""
    layers: list[nn.Module] = [nn.Flatten()]
    for num_in, num_out in pairwise((prod(shape), *config.hidden)):
        layers.append(nn.Linear(num_in, num_out))
        if config.norm is not None:
            layers.append(nn.BatchNorm1d(num_out) if config.norm == "batch" else nn.LayerNorm(num_out))
        layers.append(activation(config.activation))
        if config.dropout:
            layers.append(nn.Dropout(config.dropout))
    trunk = nn.Sequential(*layers)
    initialise(trunk, config.init, generator)
    return Classifier(trunk, config.hidden[-1], num_classes, generator)
