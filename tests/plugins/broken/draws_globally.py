"""A strategy that penalises large outputs. It draws from torch's global generator when it is made."""

import torch

from retain import Plugin, settings


@settings
class Config:
    """Penalise large outputs.

    weight: of the mean square.
    """

    weight: float = 1.0


class Broken(Plugin[Config]):
    STATE = ("factor",)

    def __init__(self, config, seed=0):
        super().__init__(config, seed)
        self.factor = float(torch.rand(()))

    def before_backward(self, learner, **kwargs):
        learner.loss = learner.loss + self.config.weight * self.factor * learner.mb_output.pow(2).mean()
