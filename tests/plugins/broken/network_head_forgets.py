"""A network of two linear layers. When its head grows, the old classes are drawn again."""

from math import prod

import torch
from torch import nn

from retain import settings


@settings
class Config:
    """Two linear layers. There are no settings."""


class Head(nn.Linear):
    def __init__(self, num_classes, generator):
        super().__init__(16, num_classes)
        self.num_classes = 0
        self.grow(num_classes, generator)

    def grow(self, num_classes, generator):
        if num_classes > self.num_classes:
            self.num_classes = num_classes
            self.weight = nn.Parameter(torch.randn(num_classes, 16, generator=generator) / 4)
            self.bias = nn.Parameter(torch.zeros(num_classes))


class Network(nn.Module):
    def __init__(self, trunk, head):
        super().__init__()
        self.trunk, self.head = trunk, head

    def forward(self, x):
        return self.head(self.trunk(x))


def build(config, shape, num_classes, generator):
    linear = nn.Linear(prod(shape), 16)
    nn.init.kaiming_uniform_(linear.weight, generator=generator)
    nn.init.zeros_(linear.bias)
    return Network(nn.Sequential(nn.Flatten(), linear, nn.ReLU()), Head(num_classes, generator))
