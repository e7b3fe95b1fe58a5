"""A user's strategy with a misspelt role."""

from retain import Plugin, settings

ROLES = ("memry",)


@settings
class Config:
    """Nothing to set."""


class Mine(Plugin):
    STATE = ()

    def should_train(self, experience, num_experiences):
        return True
