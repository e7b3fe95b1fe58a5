"""Read the values of a search's objectives from a trial's folder."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..config.search import FINAL_KEYS, Objective, as_number
from ..metrics import VALIDATION
from .reader import Trial

_TASK_AWARE = "task_aware."


def final_values(trial: Trial, objectives: Sequence[Objective]) -> tuple[float, ...]:
    """Return the value of each objective of a trial that is done; NaN where it is not defined."""
    summary = trial.read("summary") or {}
    return tuple(_value(summary, objective.key) for objective in objectives)


def values_so_far(trial: Trial, objective: Objective) -> dict[int, float]:
    """Return experience -> the value of a metric over the experiences so far, from a trial's events."""
    if objective.key in FINAL_KEYS:
        return {}
    return {
        int(event["experience"]): _value(_metrics_of(event), objective.key)
        for _, event in trial.events()
        if event["kind"] == "experience"
    }


def _metrics_of(event: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the metrics of an experience's event as a summary has them: by view, those of validation in a section."""
    validation = event.get("validation")
    own = dict(event.get("metrics") or {})
    return {**own, "validation": validation.get("metrics")} if isinstance(validation, Mapping) else own


def reported_value(report: Mapping[str, Any], objective: Objective) -> float:
    """Return the value of a metric in what a trial reports to Ray after each experience; NaN where it is not defined."""
    return as_number(report.get(objective.key))


def _value(metrics: Mapping[str, Any], key: str) -> float:
    """Return a metric from a summary, or from an experience's event: by view and name, those of validation in a section."""
    if key in FINAL_KEYS:
        return as_number(metrics.get(key))
    section: Any = metrics
    if key.startswith(VALIDATION):
        section, key = metrics.get(VALIDATION.removesuffix(".")), key.removeprefix(VALIDATION)
    view = "task_aware" if key.startswith(_TASK_AWARE) else "task_agnostic"
    values = section.get(view) if isinstance(section, Mapping) else None
    return as_number(values.get(key.removeprefix(_TASK_AWARE))) if isinstance(values, Mapping) else math.nan
