"""A strategy that penalises large outputs. Each time its settings are read, the weight is another."""

from retain import Plugin, settings


@settings
class Config:
    """Penalise large outputs.

    weight: of the mean square.
    """

    weight: float = 1.0

    def __post_init__(self):
        object.__setattr__(self, "weight", self.weight * 2)


class Broken(Plugin[Config]):
    STATE = ()

    def before_backward(self, learner, **kwargs):
        learner.loss = learner.loss + self.config.weight * learner.mb_output.pow(2).mean()
