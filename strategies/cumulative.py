"""Cumulative training: each experience is trained on the data of all experiences so far.

No formula: the training data of experience t are those of 1..t, in order, instead of those of t. It is the ceiling of
what a strategy can reach after each experience; its diagonal is what intransigence is measured against. The network
goes on from experience to experience (it is not started afresh). Time and data grow with the square of the number of
experiences.

Peers: Avalanche's Cumulative (the same), FACIL's joint (the same: it is cumulative there), Mammoth's joint trains once
(ours: `joint`). There is nothing to set.
"""

from dataclasses import dataclass
from typing import Any

from ..platform.methods.accumulated_data import AccumulatedDataPlugin

NEUTRAL: dict[str, Any] | None = None
NEUTRAL_REASON = "it has no settings: with the data of all experiences it is no longer naive finetuning"
CONFLICTS = {"replay": "cumulative trains on all old data already: a memory would only count some of them twice"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Train each experience on the data of all experiences so far: a ceiling."""


class CumulativePlugin(AccumulatedDataPlugin):
    """Replace the training data of an experience by those of all experiences so far."""


def build(config: Config, seed: int) -> CumulativePlugin:
    """The plugin; it draws no random numbers."""
    return CumulativePlugin()
