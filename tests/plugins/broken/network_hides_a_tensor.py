"""A network of two linear layers. A tensor is no buffer, so it is not saved."""

from math import prod

import torch
from torch import nn

from retain import Classifier, settings


@settings
class Config:
    """Two linear layers. There are no settings."""


class Trunk(nn.Module):
    def __init__(self, linear, hidden):
        super().__init__()
        self.linear, self.hidden = linear, hidden

    def forward(self, x):
        return (self.linear(x.flatten(1)) + self.hidden).relu()


def build(config, shape, num_classes, generator):
    linear = nn.Linear(prod(shape), 16)
    nn.init.kaiming_uniform_(linear.weight, generator=generator)
    nn.init.zeros_(linear.bias)
    hidden = torch.randn(16, generator=generator)
    return Classifier(Trunk(linear, hidden), 16, num_classes, generator)
