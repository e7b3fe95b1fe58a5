"""Stop poor configurations early, by Ray Tune's own schedulers; time is counted in experiences.

Only trials with the first search seed are compared, so that all configurations are compared on the same class order,
initialisation and data order. A decision is recorded in the trial's folder (``pruned.json``) before the trial is stopped.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..config.search import ASHA, MedianStopping, SearchSettings
from ..ledger.documents import MAX_EXPERIENCES
from ..ledger.reader import Trial
from ..ledger.trial_values import reported_value, values_so_far


class TrialStopping:
    """The scheduler of one study."""

    def __init__(self, settings: SearchSettings) -> None:
        self._settings = settings
        self._scheduler = _scheduler(settings)
        self._trials: dict[str, Any] = {}  # trial id -> what the scheduler knows a trial by
        self._seen: set[tuple[str, int]] = set()
        self._length: int | None = None  # experiences of a search trial; none is stopped after its last one

    def on_report(self, trial: Trial, report: Mapping[str, Any]) -> str | None:
        """Take a trial's report; return why to stop it, or None. A report that was seen before changes nothing."""
        return self._decide(trial, int(report["experience"]), reported_value(report, self._settings.compared))

    def restore(self, trial: Trial) -> tuple[str | None, int]:
        """Take the reports that a trial has in its ledger; return the decision after the last one, and its experience."""
        reason, last = None, 0
        if self._scheduler is not None:
            for last, value in values_so_far(trial, self._settings.compared).items():
                reason = self._decide(trial, last, value)
        return reason, last

    def _decide(self, trial: Trial, experience: int, value: float) -> str | None:
        if self._scheduler is None or (trial.id, experience) in self._seen or not math.isfinite(value):
            return None
        if self._length is None:
            self._length = int((trial.read("matrix") or {})["num_experiences"])
        if experience >= self._length:
            return None
        self._seen.add((trial.id, experience))
        known = self._trials.get(trial.id)
        if known is None:
            known = self._trials[trial.id] = _Known(trial.id)
            self._scheduler.on_trial_add(None, known)
        result = {"experience": experience, self._settings.compared.key: value}
        action = self._scheduler.on_trial_result(None, known, result)
        if action != self._scheduler.STOP:
            return None
        name = "asha" if isinstance(self._settings.scheduler, ASHA) else "median"
        return f"stopped early by {name} after experience {experience}: {self._settings.compared.key} {value:.4g}"


@dataclass(frozen=True, slots=True)
class _Known:
    """A trial as Tune's schedulers look at it."""

    trial_id: str


def _scheduler(settings: SearchSettings) -> Any:
    """Return Tune's scheduler; None without one."""
    scheduler = settings.scheduler
    if scheduler is None:
        return None
    from ray.tune.schedulers import AsyncHyperBandScheduler, MedianStoppingRule

    mode = "max" if settings.compared.direction == "maximize" else "min"
    common: dict[str, Any] = {"time_attr": "experience", "metric": settings.compared.key, "mode": mode}
    never: Any = math.inf
    if isinstance(scheduler, MedianStopping):
        return MedianStoppingRule(
            **common,
            min_time_slice=never,  # otherwise it would pause trials
            grace_period=scheduler.grace_period,
            min_samples_required=scheduler.min_trials,
        )
    return AsyncHyperBandScheduler(
        **common,
        grace_period=scheduler.grace_period,
        reduction_factor=scheduler.reduction_factor,
        max_t=MAX_EXPERIENCES,  # a trial's end is the end of its stream, not a decision
    )
