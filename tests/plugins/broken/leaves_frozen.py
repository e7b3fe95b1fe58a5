"""A strategy that penalises large outputs. It leaves a parameter frozen."""

from retain import Plugin, settings


@settings
class Config:
    """Penalise large outputs.

    weight: of the mean square.
    """

    weight: float = 1.0


class Broken(Plugin[Config]):
    STATE = ()

    def after_training_exp(self, learner, **kwargs):
        if self.config.weight and learner.experience.current_experience == 4:  # the last of the longest stream
            next(learner.model.parameters()).requires_grad_(False)

    def before_backward(self, learner, **kwargs):
        learner.loss = learner.loss + self.config.weight * learner.mb_output.pow(2).mean()
