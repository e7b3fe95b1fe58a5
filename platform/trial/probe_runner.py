"""Call a trial's probes at the right moments, and save their state."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

from .. import seeding
from ..models.inference import evaluation_mode
from ..training.probes._base import Probe, Values


class ProbeRunner:
    """The probes of one trial, called in the order of the YAML.

    An event holds the probe's name, its index among the probes, whether it is `after` an experience or mid-experience, the
    seconds that this probe took since its last event, and its values.

    Attributes:
        spent: seconds that all probes have taken in this process.
    """

    def __init__(self, named: Mapping[str, Probe]) -> None:
        self._probes = named
        self._order = {name: order for order, name in enumerate(named)}
        self._seconds = dict.fromkeys(named, 0.0)
        self.seconds_spent = 0.0
        mid_experience = [name for name in named if _overrides(named[name], "during")]
        self._by_iteration = [name for name in mid_experience if named[name].iterations is not None]
        self._by_epoch = [name for name in mid_experience if named[name].iterations is None]

    def before_experience(self, learner: Any, number: int) -> None:
        """Call the probes that look at the network before it is trained on experience `number` (0-based)."""
        for name, probe in self._probes.items():
            if _overrides(probe, "before_experience"):
                self._call(name, "before_experience", learner, number)

    def after_epoch(self, learner: Any) -> dict[str, float | None]:
        """Return the values measured after an epoch, with their cost as `probe_seconds`; {} without values."""
        measured: dict[str, float | None] = {}
        before = self.seconds_spent
        for name in self._by_epoch:
            measured |= self._call(name, "during", learner)
            self._seconds[name] = 0.0
        return {**measured, "probe_seconds": self.seconds_spent - before} if measured else {}

    def between_iterations(self, learner: Any) -> Iterator[dict[str, Any]]:
        """Call the probes that are due before the next iteration; yield their events."""
        for name in self._by_iteration:
            if learner.clock.train_exp_iterations % (self._probes[name].iterations or 1) == 0:
                yield self._event(name, self._call(name, "during", learner), after=False)

    def after_experience(self, learner: Any, number: int) -> Iterator[dict[str, Any]]:
        """Call the probes that look at the network after experience `number` (0-based); yield their events."""
        for name, probe in self._probes.items():
            if _overrides(probe, "after_experience"):
                yield self._event(name, self._call(name, "after_experience", learner, number), after=True)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of each probe that has any, by name."""
        states = {name: probe.state_dict() for name, probe in self._probes.items()}
        return {name: state for name, state in states.items() if state}

    def load_state_dict(self, states: Mapping[str, Any]) -> None:
        """Restore the states that `state_dict` returned."""
        for name, probe in self._probes.items():
            probe.load_state_dict(states.get(name, {}))

    def _call(self, name: str, method: str, learner: Any, *arguments: int) -> Values:
        started = time.perf_counter()
        with evaluation_mode(learner.model), _global_generators_restored() if "." in name else contextlib.nullcontext():
            values: Values = getattr(self._probes[name], method)(learner, *arguments) or {}
        seconds = time.perf_counter() - started
        self._seconds[name] += seconds
        self.seconds_spent += seconds
        return values

    def _event(self, name: str, values: Values, after: bool) -> dict[str, Any]:
        seconds, self._seconds[name] = self._seconds[name], 0.0
        return {"probe": name, "order": self._order[name], "after": after, "seconds": seconds, "values": dict(values)}


def _overrides(probe: Probe, method: str) -> bool:
    return getattr(type(probe), method) is not getattr(Probe, method)


@contextlib.contextmanager
def _global_generators_restored() -> Iterator[None]:
    """Restore the global generators after a user's probe, which may sample from them (a test checks that ours do not)."""
    before = seeding.capture_generators()
    try:
        yield
    finally:
        seeding.restore_generators(before)
