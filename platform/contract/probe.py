"""The contract of a probe, a function for each of its parts."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ..config.schema import Experiment
from ..training.probes._base import Probe
from ..trial.resolve import ResolvedPart
from .errors import NotApplicable, require
from .outcome import Outcome, assert_same
from .settings import check_declared_names, check_methods
from .trials import Trials, stops_mid_experience

METHODS = ("before_experience", "during", "after_experience", "state_dict", "load_state_dict")
DECLARED = ("Config", "build", "check_model")


def check_names(part: ResolvedPart, probe: Probe) -> None:
    """Refuse methods and functions under a misspelt name, which nothing calls."""
    check_methods(type(probe), Probe, METHODS)
    check_declared_names(part, DECLARED)


def without_probes(result: Outcome, naive: Outcome) -> Outcome:
    """Return the outcome without what a probe adds to the ledger: its events, and its values in the epochs' events."""
    events = [event for event in result.events if event["kind"] != "probe"]
    if len(events) == len(naive.events):
        pairs = zip(events, naive.events, strict=True)
        events = [{key: value for key, value in event.items() if key in plain} for event, plain in pairs]
    return replace(result, events=events)


def check_changes_nothing(naive: Experiment, with_it: Experiment, trials: Trials) -> None:
    """Require that a trial with the probe has the bits of one without: it observes, so results must not depend on it."""
    expected = trials(naive)
    reason = "a trial with the probe differs from one without: it must change no weight, buffer, flag or random number"
    assert_same(without_probes(trials(with_it), expected), expected, reason)


def check_values(naive: Experiment, with_it: Experiment, trials: Trials) -> None:
    """Require that it measures something, and that its values are numbers (NaN or None where undefined) by name.

    Anything else cannot be stored in the ledger, or drawn.
    """
    values = list(_values(trials(with_it), trials(naive)))
    require(
        bool(values),
        "it has measured nothing in a short trial: are its methods called, and does it measure often enough?",
    )
    for name, value in values:
        number = value is None or (isinstance(value, int | float) and not isinstance(value, bool))
        require(isinstance(name, str) and number, f"the value {name}={value!r} is no number: return floats by name")


def _values(result: Outcome, naive: Outcome) -> Iterator[tuple[Any, Any]]:
    """Yield each value of a probe with its name."""
    epochs = iter(event for event in naive.events if event["kind"] == "epoch")
    for event in result.events:
        if event["kind"] == "probe":
            yield from event["values"].items()
        if event["kind"] == "epoch":
            plain = next(epochs, {})
            yield from ((key, value) for key, value in event.items() if key not in plain)


def check_resume(experiment: Experiment, trials: Trials) -> None:
    """Require that a trial stopped mid-experience and resumed has each value once, the same as an uninterrupted trial's."""
    stopping = trials.with_stopper(experiment)
    never = trials(stopping)
    stops = stops_mid_experience(never.events, often=True)
    if not stops:
        raise NotApplicable("the trial is too short to be stopped")
    reason = "a trial stopped and resumed has other values: state_dict must hold all that later values depend on"
    assert_same(trials.stopped(stopping, stops, "TERM"), never, reason)
