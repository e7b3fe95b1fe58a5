"""A strategy that penalises large outputs. It declares no neutral settings."""

from retain import Plugin, settings


@settings
class Config:
    """Penalise large outputs.

    strength: of the mean square.
    """

    strength: float = 1.0


class Broken(Plugin[Config]):
    STATE = ()

    def before_backward(self, learner, **kwargs):
        learner.loss = learner.loss + self.config.strength * learner.mb_output.pow(2).mean()
