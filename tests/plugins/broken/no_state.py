"""A strategy that penalises large outputs. It has no STATE."""

from retain import Plugin, settings


@settings
class Config:
    """Penalise large outputs.

    weight: of the mean square.
    """

    weight: float = 1.0


class Broken(Plugin[Config]):
    def before_backward(self, learner, **kwargs):
        learner.loss = learner.loss + self.config.weight * learner.mb_output.pow(2).mean()
