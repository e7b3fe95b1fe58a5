"""A network of two linear layers. It counts its passes, also in evaluation mode."""

from math import prod

import torch
from torch import nn

from retain import Classifier, settings


@settings
class Config:
    """Two linear layers. There are no settings."""


class Trunk(nn.Module):
    def __init__(self, linear):
        super().__init__()
        self.linear = linear
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x):
        self.passes += 1
        return self.linear(x.flatten(1)).relu()


def build(config, shape, num_classes, generator):
    linear = nn.Linear(prod(shape), 16)
    nn.init.kaiming_uniform_(linear.weight, generator=generator)
    nn.init.zeros_(linear.bias)
    return Classifier(Trunk(linear), 16, num_classes, generator)
