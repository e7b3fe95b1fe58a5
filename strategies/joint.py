"""Joint training: one training on the data of all experiences at once, in place of the stream.

No formula: nothing is trained until the last experience, which is trained on the data of all. It is the ceiling of a
stream, and has no curve: the rows of the accuracy matrix before the last are those of the untrained network.

Peers: Avalanche's JointTraining and Mammoth's joint (the same); FACIL's joint is our `cumulative`. There is nothing to
set. In a plain Avalanche script, call `train` on the last experience only.
"""

from dataclasses import dataclass
from typing import Any

from ..platform.methods.accumulated_data import AccumulatedDataPlugin

NEUTRAL: dict[str, Any] | None = None
NEUTRAL_REASON = "it has no settings: one training on all data is not a sequence of finetunings"
CONFLICTS = {
    "cumulative": "joint trains once on all data, cumulative once an experience: they are two ceilings, not one",
    "lwf": "joint trains once, so there is no old network to distil from",
    "replay": "joint trains once on all data, so there is never a memory of old ones",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Train once on the data of all experiences together: the ceiling."""


class JointPlugin(AccumulatedDataPlugin):
    """At the last experience all data so far are all data there are."""

    def should_train(self, experience: int, num_experiences: int) -> bool:
        """Only on the last one."""
        return experience == num_experiences - 1


def build(config: Config, seed: int) -> JointPlugin:
    """The plugin; it draws no random numbers."""
    return JointPlugin()
