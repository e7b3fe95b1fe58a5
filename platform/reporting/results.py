"""Read the results of trials from one or several folders, for the report and the command line's tables.

All numbers come from the trials' accuracy matrices. Trials of one stream and variant that differ in their seed only become one
row: mean and 95 % Student t interval over the finished seeds, and how many of the trials these are. A variant without a finished
trial has a row too. Imports no plotting library.

Shapes: T experiences; an accuracy matrix is (T + 1, T), see `metrics`.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from .. import metrics
from ..errors import UserError
from ..ledger.reader import Status, Trial, parse_config, trials_of
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
_SEED = re.compile(r"^seed: ([0-9]{1,18})$", re.MULTILINE)  # of config.yaml, as `dump_yaml` writes it
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
        validation: view name -> accuracy matrix on the validation splits; {} if there are none.
        validation_sizes: (T,) validation samples per experience.
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
    validation: Mapping[str, Array] = field(default_factory=dict)
    validation_sizes: Array = field(default_factory=lambda: np.zeros(0))
    experiences: tuple[str, ...] = ()
    scenario: str = ""
    bound: bool = False
    config: Mapping[str, Any] | None = None
    sweep: str = ""
    planned: int = 1
    _summaries: dict[str, dict[str, float]] = field(default_factory=dict, init=False, repr=False)

    @property
    def seed(self) -> int:
        """The trial's seed."""
        return self.trial.seed

    def summary(self, view: str) -> dict[str, float]:
        """Return the metrics of a finished trial in a view; computed once."""
        if view not in self._summaries:
            self._summaries[view] = metrics.summary(self.views[view], self.sizes)
        return self._summaries[view]

    def validation_summary(self, view: str) -> dict[str, float]:
        """Return the metrics on the validation splits; NaN without any, so that no seed is dropped silently."""
        key = metrics.VALIDATION + view
        if key not in self._summaries:
            matrix = self.validation.get(view)
            undefined = dict.fromkeys(_METRICS, math.nan)
            self._summaries[key] = (
                undefined if matrix is None else metrics.validation_summary(matrix, self.validation_sizes)
            )
        return self._summaries[key]


@dataclass(frozen=True, slots=True)
class TableRow:
    """One row of the table: a variant on a stream, in a view.

    Attributes:
        stream: the stream's name.
        view: "task_agnostic" or "task_aware".
        variant: the variant's label.
        bound: whether it is an upper bound.
        metrics: metric name -> (mean, half width of the 95 % interval, number of finished seeds), NaN where undefined; those of
            the validation matrix, as validation.NAME, if any trial on the stream has one.
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
    roots = [root for root, _ in trials.values()]
    # the trials of a search are named apart: their settings differ from those of the reported trials of their variant
    for role in {result.trial.role for result in results}:
        members = [index for index, result in enumerate(results) if result.trial.role == role]
        for index, named in zip(members, _named([(roots[index], results[index]) for index in members]), strict=True):
            results[index] = named
    return results


def reported(results: Iterable[ComparedTrial]) -> list[ComparedTrial]:
    """Return the reported trials: all but those of a search."""
    return [result for result in results if result.trial.role == "reported"]


def _named(results: Sequence[tuple[Path, ComparedTrial]]) -> list[ComparedTrial]:
    """Return trials, given with the folders that they are from, with their names and the numbers of planned trials."""
    names = names_of(
        [UnnamedTrial(result.trial, root, result.config, len(result.experiences) or None) for root, result in results]
    )
    planned = Counter((name.stream, name.variant) for name in names)
    return [
        replace(
            result, label=name.variant, stream=name.stream, sweep=name.sweep, planned=planned[name.stream, name.variant]
        )
        for (_, result), name in zip(results, names, strict=True)
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
        text = trial.config_text()
        seeds = list(_SEED.finditer(text))
        if len(seeds) != 1:
            return trial.config()
        start, end = seeds[0].span(1)
        return {**_config_without_seed(f"{text[:start]}0{text[end:]}"), "seed": int(seeds[0][1])}
    except (UserError, TypeError, ValueError):
        return None


@lru_cache(64)  # the seeds of a variant are adjacent, and parsing takes longer than all else of a trial
def _config_without_seed(text: str) -> dict[str, Any]:
    """Return a config in which the seed was replaced, so that all seeds of a variant have the same text."""
    return parse_config(text, Path("config.yaml"))


def _is_bound(trial: Trial, config: Mapping[str, Any] | None) -> bool:
    strategies = (config or {}).get("strategies")
    return any(name in _BOUNDS for name in (trial.variant, *(strategies if isinstance(strategies, Mapping) else ())))


def _with_matrix(empty: ComparedTrial, matrix: Mapping[str, Any]) -> ComparedTrial:
    if matrix["scenario"] not in ("class", "task", "domain", "mixed"):
        raise ValueError(f"matrix.json: scenario={matrix['scenario']!r}")
    views = _views(matrix)
    sizes = metrics.validate_sizes(matrix["sizes"], int(matrix["num_experiences"]))
    validation, validation_sizes = _validation(matrix, views)
    names = tuple(str(name) for name in matrix["experiences"])
    last_row_only = bool(np.isnan(views["task_agnostic"][1:-1]).all()) and len(names) > 1
    return replace(
        empty,
        views=views,
        sizes=sizes,
        validation=validation,
        validation_sizes=validation_sizes,
        experiences=names,
        scenario=str(matrix["scenario"]),
        bound=empty.bound or last_row_only,
    )


def _views(matrices: Mapping[str, Any]) -> dict[str, Array]:
    return {view: metrics.validate_matrix(np.array(matrices[view], dtype=np.float64)) for view in VIEW_TITLES}


def _validation(matrix: Mapping[str, Any], tested: Mapping[str, Array]) -> tuple[dict[str, Array], Array]:
    """The validation matrices and the sizes of the splits; {} and none if the trial has no validation samples."""
    validation = matrix.get("validation")
    if validation is None:
        return {}, np.zeros(0)
    views, sizes = _views(validation), np.array(validation["sizes"], dtype=np.float64)
    for view, array in views.items():
        metrics.validation_weights(array, sizes)
        if array.shape != tested[view].shape:
            raise ValueError(f"matrix.json: validation.{view} is {array.shape}, the matrix {tested[view].shape}")
    return views, sizes


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
    return by_variant(result for result in results if result.views)


def by_variant(results: Iterable[ComparedTrial]) -> dict[str, dict[str, list[ComparedTrial]]]:
    """Return trials in any state as stream -> label -> its seeds, in order of appearance, bounds last."""
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
    for stream, variants in by_variant(results).items():
        done = {label: [result for result in seeds if result.views] for label, seeds in variants.items()}
        has_validation = any(result.validation for seeds in done.values() for result in seeds)
        for view in views_of(done):
            for label, seeds in variants.items():
                bound = any(result.bound for result in seeds)
                sweeps = ", ".join(dict.fromkeys(result.sweep for result in seeds))
                values = _over_seeds([result.summary(view) for result in done[label]])
                if has_validation:
                    validation = _over_seeds([result.validation_summary(view) for result in done[label]])
                    values |= {metrics.VALIDATION + name: value for name, value in validation.items()}
                rows.append(TableRow(stream, view, label, bound, values, len(seeds), sweeps))
    return rows


def _over_seeds(summaries: Sequence[Mapping[str, float]]) -> dict[str, Value]:
    return {name: (*metrics.interval([summary[name] for summary in summaries]), len(summaries)) for name in _METRICS}


def on_validation(variants: Mapping[str, Sequence[ComparedTrial]]) -> dict[str, list[ComparedTrial]]:
    """Return the trials that have validation matrices, with these as their `views`; without the other variants."""
    return {
        label: [
            replace(result, views=result.validation, sizes=result.validation_sizes)
            for result in results
            if result.validation
        ]
        for label, results in variants.items()
        if any(result.validation for result in results)
    }


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
    sign = -1 if metrics.DIRECTIONS[metric.removeprefix(metrics.VALIDATION)] == "minimize" else 1
    values = {row.variant: row.metrics[metric] for row in rows if not row.bound}
    means = {variant: sign * mean for variant, (mean, _, _) in values.items() if not math.isnan(mean)}
    if len(means) < 2 or any(values[variant][2] < 2 for variant in means):
        return set()
    return {variant for variant, mean in means.items() if mean == max(means.values())}
