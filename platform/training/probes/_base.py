"""The base class of probes, which observe a network during training and change nothing.

The module of a probe has a frozen dataclass `Config` and ``build(config, context) -> Probe``. It may have
``check_model(config, network)``, which is called before the trial starts.
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
    """What a probe is built for.

    Attributes:
        stream: the trial's stream.
        seed: for the probe's random numbers.
        data: the folders of data sets.
        folder: where the probe may write files.
    """

    stream: Stream
    seed: int
    data: DataFolders
    folder: Path


class Probe:
    """Base class of all probes: observes the trial and leaves it unchanged.

    A probe must not change a parameter, buffer, gradient, hook, flag, memory or clock. Its random numbers come from a separate
    ``torch.Generator``, seeded from ``context.seed``, so a trial is bit-identical with and without it. The
    network is in evaluation mode, without gradients, whenever a probe is called. Only the methods that a subclass overrides are
    called. They return numbers by name, NaN or None where undefined; ``a/b`` in a name groups them.

    A probe that needs state mid-experience or in later experiences returns it from `state_dict` (tensors, numbers, lists, dicts)
    and restores it in `load_state_dict`.
    """

    iterations: int | None = None  # call `during` before every n-th iteration; None: after each epoch

    def before_experience(self, learner: Any, number: int) -> None:
        """Run before the training of experience `number` (0-based); the head has not grown yet."""

    def during(self, learner: Any) -> Values:
        """Return values mid-experience.

        Values after an epoch are added to the epoch's event, except names that it already has.
        """
        return {}

    def after_experience(self, learner: Any, number: int) -> Values:
        """Return values after the training of experience `number` (0-based) and the evaluation that follows it."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a fresh probe needs to resume; {} for nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what another instance's `state_dict` returned."""
        if state:
            raise NotImplementedError(f"{type(self).__qualname__} has a state_dict and no load_state_dict")
