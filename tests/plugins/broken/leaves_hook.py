"""A strategy that penalises large outputs. It leaves a hook in the network after each experience."""

from retain import Plugin, settings


@settings
class Config:
    """Penalise large outputs.

    weight: of the mean square.
    """

    weight: float = 1.0


class Broken(Plugin[Config]):
    STATE = ()

    def on_start(self, learner):
        learner.model.register_forward_hook(lambda module, inputs, output: None)

    def before_backward(self, learner, **kwargs):
        learner.loss = learner.loss + self.config.weight * learner.mb_output.pow(2).mean()
