"""A strategy that penalises large outputs. A hook is misspelt."""

from retain import Plugin, settings


@settings
class Config:
    """Penalise large outputs.

    weight: of the mean square.
    """

    weight: float = 1.0


class Broken(Plugin[Config]):
    STATE = ()

    def before_trainig_exp(self, learner, **kwargs):
        raise RuntimeError("never called")

    def before_backward(self, learner, **kwargs):
        learner.loss = learner.loss + self.config.weight * learner.mb_output.pow(2).mean()
