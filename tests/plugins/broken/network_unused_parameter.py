"""A network of two linear layers. A parameter is not used."""

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
        self.linear, self.scale = linear, nn.Parameter(torch.ones(16))

    def forward(self, x):
        return self.linear(x.flatten(1)).relu()


def build(config, shape, num_classes, generator):
    linear = nn.Linear(prod(shape), 16)
    nn.init.kaiming_uniform_(linear.weight, generator=generator)
    nn.init.zeros_(linear.bias)
    return Classifier(Trunk(linear), 16, num_classes, generator)
