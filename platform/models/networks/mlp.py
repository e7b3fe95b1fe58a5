"""A multilayer perceptron: flatten, hidden layers (linear, normalisation, activation, dropout), growing head."""

from itertools import pairwise
from math import prod
from typing import Annotated, Literal

import torch
from annotated_types import MinLen
from torch import nn

from ...config.settings import Fraction, PositiveInt, settings
from ..heads import Classifier, Init, initialise
from ._layers import Activation, activation


@settings
class Config:
    """Multilayer perceptron.

    hidden: widths of the hidden layers.
    activation: relu, tanh, gelu or leaky_relu.
    norm: batch or layer normalisation before each activation; null: none.
    dropout: rate of dropout after each activation.
    init: kaiming (He 2015, for ReLU), xavier (Glorot 2010, for tanh), or torch (PyTorch's default).
    """

    hidden: Annotated[tuple[PositiveInt, ...], MinLen(1)] = (256, 256)
    activation: Activation = "relu"
    norm: Literal["batch", "layer"] | None = None
    dropout: Fraction = 0.0
    init: Init = "kaiming"


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
