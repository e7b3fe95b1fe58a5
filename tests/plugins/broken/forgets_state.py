"""A strategy that penalises large outputs. Its STATE does not name `count`."""

from retain import Plugin, settings


@settings
class Config:
    """Penalise large outputs.

    weight: of the mean square.
    """

    weight: float = 1.0


class Broken(Plugin[Config]):
    STATE = ()

    def __init__(self, config, seed=0):
        super().__init__(config, seed)
        self.count = 0

    def before_backward(self, learner, **kwargs):
        self.count += 1
        learner.loss = learner.loss + self.config.weight * min(self.count, 50) / 50 * learner.mb_output.pow(2).mean()
