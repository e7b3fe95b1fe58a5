"""A strategy that penalises large outputs. It also acts with a weight of 0."""

from retain import Plugin, settings


@settings
class Config:
    """Penalise large outputs.

    weight: of the mean square.
    """

    weight: float = 1.0


class Broken(Plugin[Config]):
    STATE = ()

    def before_backward(self, learner, **kwargs):
        learner.loss = learner.loss + (self.config.weight + 0.1) * learner.mb_output.pow(2).mean()
