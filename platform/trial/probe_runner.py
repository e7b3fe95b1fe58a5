"""Calls the probes of a trial at the right moments, and keeps their state."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

from .. import seeding
from ..models.inference import evaluation_mode
from ..training.probes._base import Probe, Values


class Probes:
    """The probes of one trial, asked in the order of the YAML.

    An event holds the probe's name, its place among the probes, whether it is `after` an experience or amid one, its own seconds
    since its last event, and its values.
    `spent`: seconds that all of them have taken in this process.
    """

    def __init__(self, named: Mapping[str, Probe]) -> None:
        self._named = named
        self._order = {name: order for order, name in enumerate(named)}
        self._seconds = dict.fromkeys(named, 0.0)
        self.spent = 0.0
        asked = [name for name in named if _overrides(named[name], "during")]
        self._by_iteration = [name for name in asked if named[name].iterations is not None]
        self._by_epoch = [name for name in asked if named[name].iterations is None]

    def before_experience(self, learner: Any, number: int) -> None:
        """Ask those that want to see the network before it is trained."""
        for name, probe in self._named.items():
            if _overrides(probe, "before_experience"):
                self._ask(name, "before_experience", learner, number)

    def after_epoch(self, learner: Any) -> dict[str, float | None]:
        """What is found after an epoch, with its cost as `probe_seconds`; {} where that is nothing."""
        found: dict[str, float | None] = {}
        before = self.spent
        for name in self._by_epoch:
            found |= self._ask(name, "during", learner)
            self._seconds[name] = 0.0
        return {**found, "probe_seconds": self.spent - before} if found else {}

    def between_iterations(self, learner: Any) -> Iterator[dict[str, Any]]:
        """Ask those whose time it is, before the next iteration."""
        for name in self._by_iteration:
            if learner.clock.train_exp_iterations % (self._named[name].iterations or 1) == 0:
                yield self._event(name, self._ask(name, "during", learner), after=False)

    def after_experience(self, learner: Any, number: int) -> Iterator[dict[str, Any]]:
        """Ask those that look at the trained network."""
        for name, probe in self._named.items():
            if _overrides(probe, "after_experience"):
                yield self._event(name, self._ask(name, "after_experience", learner, number), after=True)

    def state_dict(self) -> dict[str, Any]:
        """The state of each probe that has any, by name."""
        states = {name: probe.state_dict() for name, probe in self._named.items()}
        return {name: state for name, state in states.items() if state}

    def load_state_dict(self, states: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        for name, probe in self._named.items():
            probe.load_state_dict(states.get(name, {}))

    def _ask(self, name: str, method: str, learner: Any, *arguments: int) -> Values:
        started = time.perf_counter()
        with evaluation_mode(learner.model), _undrawn() if "." in name else contextlib.nullcontext():
            found: Values = getattr(self._named[name], method)(learner, *arguments) or {}
        seconds = time.perf_counter() - started
        self._seconds[name] += seconds
        self.spent += seconds
        return found

    def _event(self, name: str, found: Values, after: bool) -> dict[str, Any]:
        seconds, self._seconds[name] = self._seconds[name], 0.0
        return {"probe": name, "order": self._order[name], "after": after, "seconds": seconds, "values": dict(found)}


def _overrides(probe: Probe, method: str) -> bool:
    return getattr(type(probe), method) is not getattr(Probe, method)


@contextlib.contextmanager
def _undrawn() -> Iterator[None]:
    """Put the global generators back: a probe of the user's own may draw from them (ours do not: a test holds that)."""
    before = seeding.capture()
    try:
        yield
    finally:
        seeding.restore(before)
