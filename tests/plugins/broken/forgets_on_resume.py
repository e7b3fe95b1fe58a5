"""A strategy that penalises large outputs. What `on_start` must do again, `before_training_exp` does once."""

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
        self.factor = 0.0

    def before_training_exp(self, learner, **kwargs):
        self.factor = self.config.weight

    def before_backward(self, learner, **kwargs):
        learner.loss = learner.loss + self.factor * learner.mb_output.pow(2).mean()
