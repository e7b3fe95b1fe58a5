"""Trials of one or several folders, put side by side: what the report and the command line's tables are made of.

Numbers come from each trial's accuracy matrix, never from a live evaluator. Trials of one stream and variant that
differ in nothing but their seed are one row: mean and 95 % Student t interval over seeds. No plotting library is
imported here.

Shapes: T experiences; a matrix is (T + 1, T) as `metrics` says.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import metrics
from ..errors import UserError
from ..ledger.reader import Status, Trial, trials_of
from ..metrics import Array

VIEW_TITLES = {"task_agnostic": "Task-agnostic (tag)", "task_aware": "Task-aware (taw)"}
COLUMNS = (
    "average_accuracy",
    "average_incremental_accuracy",
    "forgetting_max",
    "learning_accuracy",
    "backward_transfer",
)
# Parts of a config that do not make it another variant: its seeds, and where and how it ran.
_NOT_SETTINGS = (
    "schema name seed seeds probes output wandb tensorboard ray sweep published checkpoint data resources".split()
)
_BOUNDS = ("joint", "cumulative")  # trained on the past's data too: what the others are measured against
Value = tuple[float, float, int]


@dataclass(frozen=True, slots=True, eq=False)
class ComparedTrial:
    """One trial as the comparison sees it.

    Attributes:
        label: the variant's name, with what tells it from others of that name where needed.
        stream: the stream's name, with its number of experiences where trials of that name differ in it.
        status: where the trial stands; only a done trial has `views`.
        problem: why the trial is not in the numbers, or "".
        views: view name -> matrix (T + 1, T).
        sizes: (T,) test samples per experience.
        experiences: T names.
        bound: whether it is an upper bound (trained on all data) rather than a competitor.
        config: its resolved config, as plain data.
    """

    trial: Trial
    label: str
    stream: str
    status: Status
    problem: str = ""
    views: Mapping[str, Array] = field(default_factory=dict)
    sizes: Array = field(default_factory=lambda: np.zeros(0))
    experiences: tuple[str, ...] = ()
    scenario: str = ""
    bound: bool = False
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def seed(self) -> int:
        """The trial's seed."""
        return self.trial.seed


@dataclass(frozen=True, slots=True)
class TableRow:
    """One line of the table: a variant on a stream, in a view.

    `metrics` maps a metric's name to (mean, half width of the 95 % interval, number of seeds), NaN where undefined.
    """

    stream: str
    view: str
    variant: str
    bound: bool
    metrics: Mapping[str, Value]


def results_of(folders: Sequence[Path]) -> list[ComparedTrial]:
    """Read the trials of trial and sweep folders, each trial once, in their order; unfinished ones have a `problem`.

    Raises:
        UserError: a folder is neither a trial's nor a sweep's.
    """
    found: dict[Path, tuple[Path, Trial]] = {}
    for folder in folders:
        for trial in trials_of(folder):
            found.setdefault(trial.folder.resolve(), (folder.resolve(), trial))
    roots = [root for root, _ in found.values()]
    results = [_result(trial) for _, trial in found.values()]
    return _labelled(_streams_by_length(results), roots)


def _result(trial: Trial) -> ComparedTrial:
    """Read one trial; a damaged file is told in `problem`, so that the other trials are still compared."""
    try:
        status = trial.status()
        empty = ComparedTrial(trial, trial.variant, trial.stream, status)
        damage = trial.damage()
        if damage is not None:
            raise UserError(damage)
        if status.status != "done":
            return replace(empty, problem=_unfinished(status))
        return _measured(empty, trial.read("matrix") or {})
    except (UserError, KeyError, ValueError, TypeError, OverflowError) as error:
        unknown = Status("failed", 0, None, 0.0)
        return ComparedTrial(trial, trial.variant, trial.stream, unknown, problem=f"unreadable: {error}")


def _measured(empty: ComparedTrial, matrix: Mapping[str, Any]) -> ComparedTrial:
    if matrix["scenario"] not in ("class", "task", "domain", "mixed"):
        raise ValueError(f"matrix.json: scenario={matrix['scenario']!r}")
    views = {view: metrics.checked(np.array(matrix[view], dtype=np.float64)) for view in VIEW_TITLES}
    sizes = metrics.checked_sizes(matrix["sizes"], int(matrix["num_experiences"]))
    names = tuple(str(name) for name in matrix["experiences"])
    config = empty.trial.read("config") or {}
    last_row_only = bool(np.isnan(views["task_agnostic"][1:-1]).all()) and len(names) > 1
    bound = last_row_only or any(name in _BOUNDS for name in (empty.trial.variant, *(config.get("strategies") or {})))
    about: dict[str, Any] = {"scenario": str(matrix["scenario"]), "bound": bound, "config": config}
    return replace(empty, views=views, sizes=sizes, experiences=names, **about)


def _unfinished(status: Status) -> str:
    text = status.status if not status.experience else f"{status.status} after experience {status.experience}"
    return f"{text}: {status.error}" if status.error else text


def _streams_by_length(results: list[ComparedTrial]) -> list[ComparedTrial]:
    """Keep streams of one name but different numbers of experiences apart: their matrices cannot be averaged."""
    lengths: dict[str, set[int]] = {}
    for result in results:
        if result.views:
            lengths.setdefault(result.stream, set()).add(len(result.experiences))
    several = {stream for stream, found in lengths.items() if len(found) > 1}
    return [
        replace(result, stream=f"{result.stream} ({len(result.experiences)} experiences)")
        if result.stream in several and result.views
        else result
        for result in results
    ]


def _labelled(results: list[ComparedTrial], roots: Sequence[Path]) -> list[ComparedTrial]:
    """Name the results so that one label on one stream holds each seed once, and trials of one config only."""
    labels = [result.label for result in results]
    for members in _groups((result.stream, result.label) for result in results):
        for index, suffix in zip(members, _settings([results[index] for index in members]), strict=True):
            labels[index] += suffix
    for members in _groups((result.stream, label) for result, label in zip(results, labels, strict=True)):
        places = _places([results[index].trial for index in members], [roots[index] for index in members])
        for index, place in zip(members, places, strict=True):
            labels[index] += place
    return [replace(result, label=label) for result, label in zip(results, labels, strict=True)]


def _groups(keys: Iterable[object]) -> list[list[int]]:
    groups: dict[object, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    return list(groups.values())


def _settings(results: Sequence[ComparedTrial]) -> list[str]:
    """What tells finished trials of one variant apart besides the seed, as " lr=0.1", or "" where nothing does."""
    kept = [{key: value for key, value in one.config.items() if key not in _NOT_SETTINGS} for one in results]
    flat = [_flat(config) for config in kept]
    known = [settings for settings, one in zip(flat, results, strict=True) if one.views]
    keys = sorted({key for settings in known for key in settings})
    differing = [key for key in keys if len({json.dumps(settings.get(key)) for settings in known}) > 1]
    short = {key: key.rpartition(".")[2] for key in differing}
    shown = {key: name if list(short.values()).count(name) == 1 else key for key, name in short.items()}
    texts = [
        ", ".join(f"{shown[key]}={_said(settings[key])}" for key in differing if key in settings) for settings in flat
    ]
    return [f" {text}" if text else "" for text in texts]


def _said(value: Any) -> str:
    """A setting's value; of a list of named things, such as transformations, the names."""
    if isinstance(value, list) and value and all(isinstance(one, Mapping) and len(one) == 1 for one in value):
        return "+".join(str(next(iter(one))) for one in value)
    return "none" if value is None else str(value)


def _flat(nested: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{path}{key}.")
        else:
            flat[f"{path}{key}"] = value
    return flat


def _places(trials: Sequence[Trial], roots: Sequence[Path]) -> list[str]:
    """Where each trial lies, as " (folder)", in the shortest form with each seed once; "" where no seed repeats."""
    seeds = [trial.seed for trial in trials]
    folders = [trial.folder for trial in trials]
    choices = [
        [""] * len(trials),
        [f" ({root.name})" for root in roots],
        [f" ({root.name}/{folder.name})" for root, folder in zip(roots, folders, strict=True)],
    ]
    for places in choices:
        if len(set(zip(places, seeds, strict=True))) == len(trials):
            return places
    return [f" ({folder.resolve()})" for folder in folders]


def finished(results: Iterable[ComparedTrial]) -> dict[str, dict[str, list[ComparedTrial]]]:
    """Sort the finished trials: stream -> label -> its seeds, in order of appearance, bounds last."""
    streams: dict[str, dict[str, list[ComparedTrial]]] = {}
    for result in sorted(results, key=lambda result: result.bound):
        if result.views:
            streams.setdefault(result.stream, {}).setdefault(result.label, []).append(result)
    return streams


def views_of(variants: Mapping[str, Sequence[ComparedTrial]]) -> list[str]:
    """The views of a stream that differ: one where knowing the task changes nothing (domain streams), else both."""
    trials = [result for results in variants.values() for result in results]
    agnostic, aware = VIEW_TITLES
    equal = (np.array_equal(result.views[agnostic], result.views[aware], equal_nan=True) for result in trials)
    return [agnostic] if all(equal) else [agnostic, aware]


def table_rows(results: Iterable[ComparedTrial]) -> list[TableRow]:
    """Return the rows stream by stream, view by view, bounds last; unfinished trials are not in the numbers."""
    rows = []
    for stream, variants in finished(results).items():
        for view in views_of(variants):
            for label, seeds in variants.items():
                rows.append(TableRow(stream, view, label, seeds[0].bound, _over_seeds(seeds, view)))
    return rows


def _over_seeds(seeds: Sequence[ComparedTrial], view: str) -> dict[str, Value]:
    summaries = [metrics.summary(result.views[view], result.sizes) for result in seeds]
    names = summaries[0]
    return {name: (*metrics.interval([one[name] for one in summaries]), len(seeds)) for name in names}


def format_cell(mean: float, half_width: float) -> str:
    """Show a value in per cent: "83.1 ± 0.5", without the interval where there is one seed, "-" where undefined."""
    if math.isnan(mean):
        return "-"
    shown = f"{round(100 * mean, 1) + 0.0:.1f}"  # + 0.0: no "-0.0"
    return shown if math.isnan(half_width) else f"{shown} ± {100 * half_width:.1f}"


def best_variants(rows: Sequence[TableRow], metric: str) -> set[str]:
    """Variants with the best defined mean, bounds left out; empty where fewer than two compete."""
    sign = -1 if metric.startswith("forgetting") else 1
    means = {row.variant: sign * row.metrics[metric][0] for row in rows if not row.bound}
    defined = {variant: mean for variant, mean in means.items() if not math.isnan(mean)}
    return {v for v, mean in defined.items() if mean == max(defined.values())} if len(defined) > 1 else set()
