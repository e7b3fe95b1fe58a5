"""A strategy that penalises large outputs. `predict` changes its state."""

from retain import Plugin, settings


@settings
class Config:
    """Penalise large outputs.

    weight: of the mean square.
    """

    weight: float = 1.0


class Broken(Plugin[Config]):
    STATE = ("count",)
    count = 0

    def predict(self, learner, x, network):
        self.count += 1
        return network(x)

    def before_backward(self, learner, **kwargs):
        learner.loss = learner.loss + self.config.weight * learner.mb_output.pow(2).mean()
