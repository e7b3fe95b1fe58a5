"""A strategy that penalises large outputs. A setting is not described."""

from retain import Plugin, settings


@settings
class Config:
    """Penalise large outputs."""

    weight: float = 1.0


class Broken(Plugin[Config]):
    STATE = ()

    def before_backward(self, learner, **kwargs):
        learner.loss = learner.loss + self.config.weight * learner.mb_output.pow(2).mean()
