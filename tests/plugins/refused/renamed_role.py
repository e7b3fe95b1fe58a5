"""A user's strategy with a role under its old name."""

from retain import Plugin, settings

ROLES = ("loss of its own",)


@settings
class Config:
    """Nothing to set."""


class Mine(Plugin):
    STATE = ()

    def should_train(self, experience, num_experiences):
        return True
