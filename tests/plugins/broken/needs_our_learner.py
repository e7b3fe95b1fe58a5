"""A strategy that penalises large outputs. That is no fault: it uses a name that only retain's learner has."""

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
        learner.loss = learner.loss + self.config.weight * learner.mb_output.pow(2).mean() / (1 + learner.seed_data % 3)
