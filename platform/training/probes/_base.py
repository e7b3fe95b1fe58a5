"""Probes look at a network while it is trained and change nothing: the base of all of them, and who asks them.

A module of this kind has a frozen dataclass `Config` and ``build(config, context) -> Probe``; it may have
``check_model(config, network)``, which is called before the trial starts.
Shapes: n samples, K outputs of the head.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...data.cache import DataFolders
from ...data.streams import Stream

Values = Mapping[str, float | None]


@dataclass(frozen=True, slots=True, eq=False)
class ProbeContext:
    """What a probe is built for: the trial's stream, the seed of its draws, where data sets are, where it may write files."""

    stream: Stream
    seed: int
    data: DataFolders
    folder: Path


class Probe:
    """Base of all probes: it looks, and leaves the trial as it was.

    No parameter, buffer, gradient, hook, flag, memory or clock may change, and what it draws comes from generators of its own
    (``seeding.generator(context.seed, "probe", name, ...)``): a trial with it has the same bits as without. The network is in
    evaluation mode, without gradients, whenever a probe is asked. Only the methods that a subclass overrides are called. What
    it finds are numbers by name, NaN or None where undefined; ``a/b`` in names groups them.

    With state that is needed amid an experience or in the next ones, `state_dict` returns it (tensors, numbers, lists, dicts)
    and `load_state_dict` takes it.
    """

    iterations: int | None = None  # how often to ask `during`: before each so many iterations; None: after each epoch

    def before_experience(self, learner: Any, number: int) -> None:
        """Before the training of experience `number` (0-based); the head has not grown yet."""

    def during(self, learner: Any) -> Values:
        """Amid an experience. What is found after an epoch goes into the epoch's own event, unless the name is there."""
        return {}

    def after_experience(self, learner: Any, number: int) -> Values:
        """After the training of experience `number` (0-based) and the evaluation that follows it."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a fresh probe needs to go on where this one stopped; {} where that is nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what another instance's `state_dict` returned."""
        if state:
            raise NotImplementedError(f"{type(self).__qualname__} has a state_dict and no load_state_dict")


def check_positive(**values: int) -> None:
    """Refuse counts below 1; for the `__post_init__` of a probe's `Config`."""
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
