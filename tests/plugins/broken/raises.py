"""A strategy that penalises large outputs. It divides by zero."""

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
        learner.loss = learner.loss + 1 / len([])
