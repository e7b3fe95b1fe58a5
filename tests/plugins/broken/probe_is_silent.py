"""A probe that measures the mean output on random samples. It measures nothing."""

import torch

from retain import Probe, settings


@settings
class Config:
    """Mean output. There are no settings."""


class Broken(Probe):
    def __init__(self, context):
        self.x = torch.randn(8, *context.stream.shape, generator=torch.Generator().manual_seed(context.seed))
        self.count = 0

    def after_experience(self, learner, number):
        return {}


def build(config, context):
    return Broken(context)
