"""A user's strategy that draws from every global generator, in every iteration."""

import random

import numpy as np
import torch

from retain import Plugin, settings

NEUTRAL = None
NEUTRAL_REASON = "it always changes the loss"


@settings
class Config:
    """Nothing to set."""


class Noisy(Plugin[Config]):
    STATE = ()

    def before_backward(self, learner, **kwargs):
        draw = random.random() * np.random.rand() + torch.rand(())  # noqa: NPY002
        learner.loss = learner.loss * (0.5 + draw)
