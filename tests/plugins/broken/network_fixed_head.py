"""A network of two linear layers. That is no fault: its head does not grow."""

from math import prod

from torch import nn

from retain import settings


@settings
class Config:
    """Two linear layers. There are no settings."""


def build(config, shape, num_classes, generator):
    linear = nn.Linear(prod(shape), 16)
    nn.init.kaiming_uniform_(linear.weight, generator=generator)
    nn.init.zeros_(linear.bias)
    head = nn.Linear(16, num_classes)
    nn.init.kaiming_uniform_(head.weight, generator=generator)
    nn.init.zeros_(head.bias)
    return nn.Sequential(nn.Flatten(), linear, nn.ReLU(), head)
