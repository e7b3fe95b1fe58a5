"""A strategy that penalises large outputs. Config is not found by its name."""

from retain import Plugin, settings


def _make():
    @settings
    class Config:
        """Penalise large outputs.

        weight: of the mean square.
        """

        weight: float = 1.0

    return Config


Config = _make()


class Broken(Plugin[Config]):
    STATE = ()

    def before_backward(self, learner, **kwargs):
        learner.loss = learner.loss + self.config.weight * learner.mb_output.pow(2).mean()
