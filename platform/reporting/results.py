"""Read the results of trials from one or several folders, for the report and the command line's tables.

All numbers come from the trials' accuracy matrices. Trials of one stream and variant that differ in their seed only become one
row: mean and 95 % Student t interval over the finished seeds, and how many of the trials these are. A variant without a finished
trial has a row too. Imports no plotting library.

Shapes: T experiences; an accuracy matrix is (T + 1, T), see `metrics`.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import metrics
from ..errors import UserError
from ..ledger.reader import Status, Trial, trials_of
from ..metrics import Array
from .variant_names import UnnamedTrial, names_of

VIEW_TITLES = {"task_agnostic": "Task-agnostic (tag)", "task_aware": "Task-aware (taw)"}
COLUMNS = (
    "average_accuracy",
    "average_incremental_accuracy",
    "forgetting_max",
    "learning_accuracy",
    "backward_transfer",
)
_METRICS = tuple(metrics.summary([[0.0], [0.0]], [1]))  # their names, also of a variant without a finished trial
_BOUNDS = ("joint", "cumulative")  # trained on the data of past experiences too: upper bounds for the others
Value = tuple[float, float, int]  # mean, half width of the 95 % interval, number of seeds


@dataclass(frozen=True, slots=True, eq=False)
class ComparedTrial:
    """One trial with its results.

    Attributes:
        trial: the trial's folder and identity.
        label, stream, sweep: the names of its variant, stream and folder; see `variant_names`.
        status: the trial's state; only a done trial has `views`.
        problem: why the trial is not in the numbers, or "".
        views: view name -> accuracy matrix (T + 1, T).
        sizes: (T,) test samples per experience.
        experiences: T names.
        scenario: "class", "task", "domain" or "mixed".
        bound: whether the trial is an upper bound (trained on all data) and does not compete.
        config: the resolved config as plain data; None if it cannot be read.
        planned: how many trials its variant has on its stream, in any state.
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
    config: Mapping[str, Any] | None = None
    sweep: str = ""
    planned: int = 1

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
        metrics: metric name -> (mean, half width of the 95 % interval, number of finished seeds), NaN where undefined.
        planned: the number of its trials in any state; 0: as many as have finished.
        sweep: the folders that its trials are from.
    """

    stream: str
    view: str
    variant: str
    bound: bool
    metrics: Mapping[str, Value]
    planned: int = 0
    sweep: str = ""

    @property
    def done(self) -> int:
        """The number of finished seeds, which the means are over."""
        return self.metrics["average_accuracy"][2]

    @property
    def seeds(self) -> str:
        """The number of seeds: "3", or "1 of 3" if only one has finished."""
        return seeds_text(self.done, self.planned)


def seeds_text(done: int, planned: int) -> str:
    """Return a number of finished seeds: "3" if these are all, else "1 of 3"."""
    return f"{done} of {planned}" if done < planned else str(done)


def results_of(folders: Sequence[Path]) -> list[ComparedTrial]:
    """Read the trials of trial and sweep folders in order, each trial once. Unfinished ones get a `problem`.

    Raises:
        UserError: a folder is neither a trial's nor a sweep's.
    """
    trials: dict[Path, tuple[Path, Trial]] = {}
    for folder in folders:
        for trial in trials_of(folder):
            trials.setdefault(trial.folder.resolve(), (folder.resolve(), trial))
    results = [_result(trial) for _, trial in trials.values()]
    names = names_of(
        [
            UnnamedTrial(result.trial, root, result.config, len(result.experiences) or None)
            for (root, _), result in zip(trials.values(), results, strict=True)
        ]
    )
    planned = Counter((name.stream, name.variant) for name in names)
    return [
        replace(
            result, label=name.variant, stream=name.stream, sweep=name.sweep, planned=planned[name.stream, name.variant]
        )
        for result, name in zip(results, names, strict=True)
    ]


def _result(trial: Trial) -> ComparedTrial:
    """Read one trial. A damaged file becomes its `problem`, so that the other trials are still compared."""
    config = _config(trial)
    try:
        status = trial.status()
        damage = trial.damage()
        if damage is not None:
            raise UserError(damage)
        empty = ComparedTrial(trial, trial.variant, trial.stream, status, config=config, bound=_is_bound(trial, config))
        if status.status != "done":
            return replace(empty, problem=problem_of(status))
        return _with_matrix(empty, trial.read("matrix") or {})
    except (UserError, KeyError, ValueError, TypeError, OverflowError) as error:
        unknown = Status("failed", 0, None, 0.0)
        return ComparedTrial(
            trial,
            trial.variant,
            trial.stream,
            unknown,
            problem=f"unreadable: {_one_line(str(error))}",
            config=config,
            bound=_is_bound(trial, config),
        )


def _config(trial: Trial) -> Mapping[str, Any] | None:
    """A trial's config; None if there is none yet, or none that can be read."""
    try:
        return trial.read("config")
    except (UserError, TypeError, ValueError):
        return None


def _is_bound(trial: Trial, config: Mapping[str, Any] | None) -> bool:
    strategies = (config or {}).get("strategies")
    return any(name in _BOUNDS for name in (trial.variant, *(strategies if isinstance(strategies, Mapping) else ())))


def _with_matrix(empty: ComparedTrial, matrix: Mapping[str, Any]) -> ComparedTrial:
    if matrix["scenario"] not in ("class", "task", "domain", "mixed"):
        raise ValueError(f"matrix.json: scenario={matrix['scenario']!r}")
    views = {view: metrics.validate_matrix(np.array(matrix[view], dtype=np.float64)) for view in VIEW_TITLES}
    sizes = metrics.validate_sizes(matrix["sizes"], int(matrix["num_experiences"]))
    names = tuple(str(name) for name in matrix["experiences"])
    last_row_only = bool(np.isnan(views["task_agnostic"][1:-1]).all()) and len(names) > 1
    return replace(
        empty,
        views=views,
        sizes=sizes,
        experiences=names,
        scenario=str(matrix["scenario"]),
        bound=empty.bound or last_row_only,
    )


def problem_of(status: Status) -> str:
    """Return in one line why a trial has no final result: its state, how far it came, and the error."""
    text = status.status if not status.experience else f"{status.status} after experience {status.experience}"
    return f"{text}: {_one_line(status.error)}" if status.error else text


def failure_of(status: Status) -> str:
    """Return in one line how far a failed trial came, and the error."""
    number = status.experience
    stage = f"after experience {number}" if number else "before the end of experience 1"
    return f"{stage}: {_one_line(status.error or 'unknown error')}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def finished(results: Iterable[ComparedTrial]) -> dict[str, dict[str, list[ComparedTrial]]]:
    """Return the finished trials as stream -> label -> its seeds, in order of appearance, bounds last."""
    return _by_variant(result for result in results if result.views)


def _by_variant(results: Iterable[ComparedTrial]) -> dict[str, dict[str, list[ComparedTrial]]]:
    streams: dict[str, dict[str, list[ComparedTrial]]] = {}
    for result in sorted(results, key=lambda result: result.bound):
        streams.setdefault(result.stream, {}).setdefault(result.label, []).append(result)
    return streams


def views_of(variants: Mapping[str, Sequence[ComparedTrial]]) -> list[str]:
    """Return a stream's views that differ: only one if knowing the task changes nothing (domain streams), else both."""
    trials = [result for results in variants.values() for result in results]
    agnostic, aware = VIEW_TITLES
    equal = (np.array_equal(result.views[agnostic], result.views[aware], equal_nan=True) for result in trials)
    return [agnostic] if all(equal) else [agnostic, aware]


def table_rows(results: Iterable[ComparedTrial]) -> list[TableRow]:
    """Return the rows stream by stream, view by view, bounds last; one for each variant, even if no trial of it has finished."""
    rows = []
    for stream, variants in _by_variant(results).items():
        done = {label: [result for result in seeds if result.views] for label, seeds in variants.items()}
        for view in views_of(done):
            for label, seeds in variants.items():
                bound = any(result.bound for result in seeds)
                sweeps = ", ".join(dict.fromkeys(result.sweep for result in seeds))
                rows.append(TableRow(stream, view, label, bound, _over_seeds(done[label], view), len(seeds), sweeps))
    return rows


def _over_seeds(seeds: Sequence[ComparedTrial], view: str) -> dict[str, Value]:
    summaries = [metrics.summary(result.views[view], result.sizes) for result in seeds]
    return {name: (*metrics.interval([summary[name] for summary in summaries]), len(seeds)) for name in _METRICS}


def format_cell(mean: float, half_width: float) -> str:
    """Return a value in per cent: "83.1 ± 0.5", without the interval for a single seed, "-" if undefined."""
    if math.isnan(mean):
        return "-"
    percent = f"{round(100 * mean, 1) + 0.0:.1f}"  # + 0.0: no "-0.0"
    return percent if math.isnan(half_width) else f"{percent} ± {100 * half_width:.1f}"


def best_variants(rows: Sequence[TableRow], metric: str) -> set[str]:
    """Return the variants with the best defined mean, without bounds.

    Empty if fewer than two compete, or if one of them has a single seed: its difference from the others may be chance.
    """
    sign = -1 if metric.startswith("forgetting") else 1
    values = {row.variant: row.metrics[metric] for row in rows if not row.bound}
    means = {variant: sign * mean for variant, (mean, _, _) in values.items() if not math.isnan(mean)}
    if len(means) < 2 or any(values[variant][2] < 2 for variant in means):
        return set()
    return {variant for variant, mean in means.items() if mean == max(means.values())}
