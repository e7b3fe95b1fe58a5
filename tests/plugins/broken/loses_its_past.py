"""A strategy that penalises large outputs. It has a `state_dict` and no `load_state_dict`."""

from retain import Plugin, settings


@settings
class Config:
    """Penalise large outputs.

    weight: of the mean square.
    """

    weight: float = 1.0


class Broken(Plugin[Config]):
    def state_dict(self):
        return {"weight": self.config.weight}

    def before_backward(self, learner, **kwargs):
        learner.loss = learner.loss + self.config.weight * learner.mb_output.pow(2).mean()
