"""Read the results of trials from one or several folders, for the report and the command line's tables.

All numbers come from the trials' accuracy matrices. Trials of one stream and variant that differ in their seed only become one
row: mean and 95 % Student t interval over seeds. Imports no plotting library.

Shapes: T experiences; an accuracy matrix is (T + 1, T), see `metrics`.
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
# Keys of a config that do not make it another variant: its seeds, and where and how it ran.
_NOT_SETTINGS = (
    "schema name seed seeds probes output wandb tensorboard ray sweep published checkpoint data resources".split()
)
_BOUNDS = ("joint", "cumulative")  # trained on the data of past experiences too: upper bounds for the others
Value = tuple[float, float, int]  # mean, half width of the 95 % interval, number of seeds


@dataclass(frozen=True, slots=True, eq=False)
class ComparedTrial:
    """One trial with its results.

    Attributes:
        trial: the trial's folder and identity.
        label: the variant's name; if several variants share it, with the settings or the folder that differ.
        stream: the stream's name; if trials of that name differ in their number of experiences, with that number.
        status: the trial's state; only a done trial has `views`.
        problem: why the trial is not in the numbers, or "".
        views: view name -> accuracy matrix (T + 1, T).
        sizes: (T,) test samples per experience.
        experiences: T names.
        scenario: "class", "task", "domain" or "mixed".
        bound: whether the trial is an upper bound (trained on all data) and does not compete.
        config: the resolved config as plain data.
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
    """One row of the table: a variant on a stream, in a view.

    Attributes:
        stream: the stream's name.
        view: "task_agnostic" or "task_aware".
        variant: the variant's label.
        bound: whether it is an upper bound.
        metrics: metric name -> (mean, half width of the 95 % interval, number of seeds), NaN where undefined.
    """

    stream: str
    view: str
    variant: str
    bound: bool
    metrics: Mapping[str, Value]


def results_of(folders: Sequence[Path]) -> list[ComparedTrial]:
    """Read the trials of trial and sweep folders in order, each trial once. Unfinished ones get a `problem`.

    Raises:
        UserError: a folder is neither a trial's nor a sweep's.
    """
    trials: dict[Path, tuple[Path, Trial]] = {}
    for folder in folders:
        for trial in trials_of(folder):
            trials.setdefault(trial.folder.resolve(), (folder.resolve(), trial))
    roots = [root for root, _ in trials.values()]
    results = [_result(trial) for _, trial in trials.values()]
    return _with_unique_labels(_streams_by_length(results), roots)


def _result(trial: Trial) -> ComparedTrial:
    """Read one trial. A damaged file becomes its `problem`, so that the other trials are still compared."""
    try:
        status = trial.status()
        empty = ComparedTrial(trial, trial.variant, trial.stream, status)
        damage = trial.damage()
        if damage is not None:
            raise UserError(damage)
        if status.status != "done":
            return replace(empty, problem=_unfinished(status))
        return _with_matrix(empty, trial.read("matrix") or {})
    except (UserError, KeyError, ValueError, TypeError, OverflowError) as error:
        unknown = Status("failed", 0, None, 0.0)
        return ComparedTrial(trial, trial.variant, trial.stream, unknown, problem=f"unreadable: {error}")


def _with_matrix(empty: ComparedTrial, matrix: Mapping[str, Any]) -> ComparedTrial:
    if matrix["scenario"] not in ("class", "task", "domain", "mixed"):
        raise ValueError(f"matrix.json: scenario={matrix['scenario']!r}")
    views = {view: metrics.validate_matrix(np.array(matrix[view], dtype=np.float64)) for view in VIEW_TITLES}
    sizes = metrics.validate_sizes(matrix["sizes"], int(matrix["num_experiences"]))
    names = tuple(str(name) for name in matrix["experiences"])
    config = empty.trial.read("config") or {}
    last_row_only = bool(np.isnan(views["task_agnostic"][1:-1]).all()) and len(names) > 1
    bound = last_row_only or any(name in _BOUNDS for name in (empty.trial.variant, *(config.get("strategies") or {})))
    return replace(
        empty,
        views=views,
        sizes=sizes,
        experiences=names,
        scenario=str(matrix["scenario"]),
        bound=bound,
        config=config,
    )


def _unfinished(status: Status) -> str:
    text = status.status if not status.experience else f"{status.status} after experience {status.experience}"
    return f"{text}: {status.error}" if status.error else text


def _streams_by_length(results: list[ComparedTrial]) -> list[ComparedTrial]:
    """Keep streams of one name but different numbers of experiences apart: their matrices cannot be averaged."""
    lengths: dict[str, set[int]] = {}
    for result in results:
        if result.views:
            lengths.setdefault(result.stream, set()).add(len(result.experiences))
    ambiguous = {stream for stream, counts in lengths.items() if len(counts) > 1}
    return [
        replace(result, stream=f"{result.stream} ({len(result.experiences)} experiences)")
        if result.stream in ambiguous and result.views
        else result
        for result in results
    ]


def _with_unique_labels(results: list[ComparedTrial], roots: Sequence[Path]) -> list[ComparedTrial]:
    """Extend the labels so that each one has, on one stream, each seed once and trials of one config only."""
    labels = [result.label for result in results]
    for members in _groups((result.stream, result.label) for result in results):
        for index, suffix in zip(members, _differing_settings([results[index] for index in members]), strict=True):
            labels[index] += suffix
    for members in _groups((result.stream, label) for result, label in zip(results, labels, strict=True)):
        suffixes = _differing_folders([results[index].trial for index in members], [roots[index] for index in members])
        for index, suffix in zip(members, suffixes, strict=True):
            labels[index] += suffix
    return [replace(result, label=label) for result, label in zip(results, labels, strict=True)]


def _groups(keys: Iterable[object]) -> list[list[int]]:
    """The indices of equal keys, in order of appearance."""
    groups: dict[object, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    return list(groups.values())


def _differing_settings(results: Sequence[ComparedTrial]) -> list[str]:
    """The settings, except the seed, in which finished trials of one variant differ, as " lr=0.1"; "" if they are equal."""
    configs = [{key: value for key, value in result.config.items() if key not in _NOT_SETTINGS} for result in results]
    flat = [_flat(config) for config in configs]
    known = [settings for settings, result in zip(flat, results, strict=True) if result.views]
    keys = sorted({key for settings in known for key in settings})
    differing = [key for key in keys if len({json.dumps(settings.get(key)) for settings in known}) > 1]
    last_parts = {key: key.rpartition(".")[2] for key in differing}
    names = {key: part if list(last_parts.values()).count(part) == 1 else key for key, part in last_parts.items()}
    texts = [
        ", ".join(f"{names[key]}={_value_text(settings[key])}" for key in differing if key in settings)
        for settings in flat
    ]
    return [f" {text}" if text else "" for text in texts]


def _value_text(value: Any) -> str:
    """A setting's value; for a list of single-key mappings, such as transformations, the keys."""
    if isinstance(value, list) and value and all(isinstance(item, Mapping) and len(item) == 1 for item in value):
        return "+".join(str(next(iter(item))) for item in value)
    return "none" if value is None else str(value)


def _flat(nested: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{path}{key}.")
        else:
            flat[f"{path}{key}"] = value
    return flat


def _differing_folders(trials: Sequence[Trial], roots: Sequence[Path]) -> list[str]:
    """Each trial's folder as " (folder)", in the shortest form in which no seed repeats; "" if no seed repeats without it."""
    seeds = [trial.seed for trial in trials]
    folders = [trial.folder for trial in trials]
    choices = [
        [""] * len(trials),
        [f" ({root.name})" for root in roots],
        [f" ({root.name}/{folder.name})" for root, folder in zip(roots, folders, strict=True)],
    ]
    for suffixes in choices:
        if len(set(zip(suffixes, seeds, strict=True))) == len(trials):
            return suffixes
    return [f" ({folder.resolve()})" for folder in folders]


def finished(results: Iterable[ComparedTrial]) -> dict[str, dict[str, list[ComparedTrial]]]:
    """Return the finished trials as stream -> label -> its seeds, in order of appearance, bounds last."""
    streams: dict[str, dict[str, list[ComparedTrial]]] = {}
    for result in sorted(results, key=lambda result: result.bound):
        if result.views:
            streams.setdefault(result.stream, {}).setdefault(result.label, []).append(result)
    return streams


def views_of(variants: Mapping[str, Sequence[ComparedTrial]]) -> list[str]:
    """Return a stream's views that differ: only one if knowing the task changes nothing (domain streams), else both."""
    trials = [result for results in variants.values() for result in results]
    agnostic, aware = VIEW_TITLES
    equal = (np.array_equal(result.views[agnostic], result.views[aware], equal_nan=True) for result in trials)
    return [agnostic] if all(equal) else [agnostic, aware]


def table_rows(results: Iterable[ComparedTrial]) -> list[TableRow]:
    """Return the rows stream by stream, view by view, bounds last; unfinished trials are left out."""
    rows = []
    for stream, variants in finished(results).items():
        for view in views_of(variants):
            for label, seeds in variants.items():
                rows.append(TableRow(stream, view, label, seeds[0].bound, _over_seeds(seeds, view)))
    return rows


def _over_seeds(seeds: Sequence[ComparedTrial], view: str) -> dict[str, Value]:
    summaries = [metrics.summary(result.views[view], result.sizes) for result in seeds]
    names = summaries[0]
    return {name: (*metrics.interval([summary[name] for summary in summaries]), len(seeds)) for name in names}


def format_cell(mean: float, half_width: float) -> str:
    """Return a value in per cent: "83.1 ± 0.5", without the interval for a single seed, "-" if undefined."""
    if math.isnan(mean):
        return "-"
    percent = f"{round(100 * mean, 1) + 0.0:.1f}"  # + 0.0: no "-0.0"
    return percent if math.isnan(half_width) else f"{percent} ± {100 * half_width:.1f}"


def best_variants(rows: Sequence[TableRow], metric: str) -> set[str]:
    """Return the variants with the best defined mean, without bounds; empty if fewer than two compete."""
    sign = -1 if metric.startswith("forgetting") else 1
    means = {row.variant: sign * row.metrics[metric][0] for row in rows if not row.bound}
    defined = {variant: mean for variant, mean in means.items() if not math.isnan(mean)}
    return {v for v, mean in defined.items() if mean == max(defined.values())} if len(defined) > 1 else set()
