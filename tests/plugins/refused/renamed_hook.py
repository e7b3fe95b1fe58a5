"""A user's strategy with a method under its old name."""

from retain import Plugin, settings

ROLES = ("memory",)


@settings
class Config:
    """Nothing to set."""


class Mine(Plugin):
    STATE = ()

    def trains_on(self, experience, num_experiences):
        return True
