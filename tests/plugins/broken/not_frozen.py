"""A strategy that penalises large outputs. Its settings can be changed."""

from dataclasses import dataclass

from retain import Plugin


@dataclass
class Config:
    """Penalise large outputs.

    weight: of the mean square.
    """

    weight: float = 1.0


class Broken(Plugin[Config]):
    STATE = ()

    def before_backward(self, learner, **kwargs):
        learner.loss = learner.loss + self.config.weight * learner.mb_output.pow(2).mean()
