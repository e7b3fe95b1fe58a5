"""Cumulative training: train each experience on the data of all experiences so far.

No formula: the training data of experience t are those of 1..t, in order, instead of those of t. It is an upper bound of what a
strategy can reach after each experience. Its diagonal is the reference for intransigence. The network continues from
experience to experience; it is not reinitialised. Time grows with the square of the number of experiences, and so does the
amount of data trained on.

Peers: Avalanche's Cumulative (the same), FACIL's joint (the same: it is cumulative there), Mammoth's joint trains once
(ours: `joint`). There are no settings.
"""

from ..platform.config.settings import settings
from ..platform.methods.accumulated_data import AccumulatedDataPlugin

NEUTRAL = None
NEUTRAL_REASON = "it has no settings: with the data of all experiences it is no longer naive finetuning"
ROLES = ("data", "memory")


@settings
class Config:
    """Train each experience on the data of all experiences so far: an upper bound."""


class CumulativePlugin(AccumulatedDataPlugin):
    """Trains each experience on the data of all experiences so far."""
