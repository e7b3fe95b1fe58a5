"""A strategy that penalises large outputs. CONFLICTS is misspelt."""

from retain import Plugin, settings


@settings
class Config:
    """Penalise large outputs.

    weight: of the mean square.
    """

    weight: float = 1.0


CONFLICT = {"joint": "there is no past to keep"}


class Broken(Plugin[Config]):
    STATE = ()

    def before_backward(self, learner, **kwargs):
        learner.loss = learner.loss + self.config.weight * learner.mb_output.pow(2).mean()
