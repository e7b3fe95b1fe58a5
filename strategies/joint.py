"""Joint training: train once, on the data of all experiences together.

No formula: nothing is trained until the last experience, which is trained on the data of all. It is the upper bound of a stream,
and has no curve: the rows of the accuracy matrix before the last are those of the untrained network.

Peers: Avalanche's JointTraining and Mammoth's joint are the same; FACIL's joint is our `cumulative`. There are no settings. In a
plain Avalanche script, call `train` on the last experience only.
"""

from ..platform.config.settings import settings
from ..platform.methods.accumulated_data import AccumulatedDataPlugin

NEUTRAL = None
NEUTRAL_REASON = "it has no settings: one training on all data is not a sequence of finetunings"
ROLES = ("data",)


@settings
class Config:
    """Train once on the data of all experiences together: the upper bound of a stream."""


class JointPlugin(AccumulatedDataPlugin):
    """Trains on the last experience only, where the data so far are all of the stream's data."""

    def should_train(self, experience: int, num_experiences: int) -> bool:
        """Return whether this is the last experience."""
        return experience == num_experiences - 1
