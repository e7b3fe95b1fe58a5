"""A user's strategy that keeps the object of its loaded state, and changes it in place when it adapts the data."""

from retain import Plugin, settings

NEUTRAL = None
NEUTRAL_REASON = "it always changes the loss"


@settings
class Config:
    """Nothing to set."""


class Keeper(Plugin[Config]):
    def __init__(self, config, seed=0):
        super().__init__(config, seed)
        self.seen = []

    def state_dict(self):
        return {"met": self.seen}

    def load_state_dict(self, state):
        self.seen = state["met"]

    def after_train_dataset_adaptation(self, learner, **kwargs):
        self.seen.append(learner.experience.current_experience)

    def before_backward(self, learner, **kwargs):
        learner.loss = learner.loss * (1 + 0.1 * len(self.seen))
