"""Results of run folders as pandas data frames: ``from retain import results``.

Each function takes one folder or several, of sweeps and trials, and reads their files. What a frame has no rows for is said in
warnings of the logger, and listed in ``frame.attrs["left_out"]``.
"""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from .. import metrics
from ..errors import UserError
from ..ledger.documents import VIEWS
from ..metrics import DIRECTIONS
from .comparison import MAIN_METRICS, compare, rankings
from .comparison_rows import COLUMNS, comparison_rows
from .comparison_text import cautions, left_out
from .results import ComparedTrial, results_of
from .statistics import Test

Folders = Path | str | Sequence[Path | str]
_NAMES = ("sweep", "stream", "variant", "seed", "trial")
_log = logging.getLogger(__name__)


def trials(folders: Folders) -> pd.DataFrame:
    """Return a row for each trial, in any state.

    Columns: sweep, stream, variant, seed, trial (its id), role ("reported", "search", or "superseded": of an earlier choice),
    status, problem (why it has no result, or ""), is_bound, overrides (JSON), folder, seconds, samples, and each metric:
    task-agnostic ones by their names, others as
    ``task_aware.average_accuracy`` and, of the validation splits, ``validation.average_accuracy``. Metrics are fractions; those
    of a trial that is not done are NaN. Names of variants and streams are those of the report.

    Raises:
        UserError: a folder is neither a trial's nor a sweep's.
    """
    results = _read(folders)
    rows = [_trial_row(result) for result in results]
    names = {f"{view}{name}": None for view in ("", "task_aware.") for name in DIRECTIONS}
    first = (*_NAMES, "role", "status", "problem", "is_bound", "overrides", "folder", "seconds", "samples", *names)
    more = dict.fromkeys(name for row in rows for name in row if name not in first)
    frame = pd.DataFrame(rows, columns=[*first, *more])
    numbers = ["seconds", "samples", *names, *more]
    return frame.astype({name: "float64" for name in numbers} | {"seed": "int64"})


def matrices(folders: Folders) -> pd.DataFrame:
    """Return the accuracy matrices of finished trials in long form: a row for each cell.

    Columns: sweep, stream, variant, seed, trial, split ("test" or "validation"), view ("task_agnostic" or "task_aware"), after
    (the experience after which it was evaluated; 0: before training), experience (from 1), experience_name, accuracy (in [0, 1],
    NaN where missing).

    Raises:
        UserError: a folder is neither a trial's nor a sweep's.
    """
    results = _read(folders)
    rows = [row for result in results if result.views for row in _matrix_rows(result)]
    columns = [*_NAMES, "split", "view", "after", "experience", "experience_name", "accuracy"]
    frame = pd.DataFrame(rows, columns=columns)
    frame = frame.astype({"seed": "int64", "after": "int64", "experience": "int64", "accuracy": "float64"})
    return _with_left_out(frame, _unfinished(results))


def events(folders: Folders, kind: str | None = None) -> pd.DataFrame:
    """Return the events of trials in any state: a row for each line of metrics.jsonl.

    Columns: sweep, stream, variant, seed, trial, kind ("epoch", "experience", "probe", ...), experience, iteration, and each
    field of an event; nested fields get dots (``metrics.task_agnostic.average_accuracy``), items of lists numbers from 1.

    Args:
        folders: one folder or several.
        kind: only events of this kind, and only their fields.

    Raises:
        UserError: a folder is neither a trial's nor a sweep's.
    """
    rows, problems = [], []
    for result in _read(folders):
        try:
            for _, event in result.trial.events():
                if kind in (None, event["kind"]):
                    rows.append(_names(result) | _flat(event, ""))
        except UserError as error:
            problems.append(f"{result.label} on {result.stream}, seed {result.seed}: {error}")
    first = (*_NAMES, "kind", "experience", "iteration")
    fields = dict.fromkeys(name for row in rows for name in row if name not in first)
    frame = pd.DataFrame(rows, columns=[*first, *fields])
    frame = frame.astype({"seed": "int64", "experience": "int64", "iteration": "int64"})
    return _with_left_out(frame, problems)


def comparison(
    folders: Folders, metric_names: Sequence[str] = MAIN_METRICS, *, baseline: str | None = None, test: Test = "t"
) -> pd.DataFrame:
    """Return the statistics of `retain compare`: a row for each; see docs/statistics.md.

    Args:
        folders: one folder or several.
        metric_names: such as "average_accuracy".
        baseline: the variant that the others are compared with (default: naive, or a stream's first variant).
        test: the paired test of the p values, "t" or "wilcoxon".

    Raises:
        UserError: a folder is neither a trial's nor a sweep's, a metric is unknown, or the baseline is no variant.
    """
    results = _read(folders)
    comparisons = compare(results, metric_names, baseline=baseline, test=test)
    frame = comparison_frame(comparison_rows(comparisons, rankings(comparisons)))
    frame.attrs["cautions"] = cautions(comparisons)
    return _with_left_out(frame, left_out(results))


def comparison_frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows of `comparison_rows` as a data frame, each column of one type."""
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    numbers = dict.fromkeys(("value", "low", "high", "p", "adjusted_p"), "float64")
    counts = dict.fromkeys(("wins", "ties", "losses", "seeds", "planned_seeds"), "Int64")
    texts = dict.fromkeys(
        ("stream", "view", "metric", "direction", "statistic", "variant", "compared_with", "test"), "string"
    )
    return frame.astype(numbers | counts | texts | dict.fromkeys(("is_bound", "is_best"), "boolean"))


def _read(folders: Folders) -> list[ComparedTrial]:
    several = [folders] if isinstance(folders, str | Path) else folders
    return results_of([Path(folder) for folder in several])


def _names(result: ComparedTrial) -> dict[str, Any]:
    values = (result.sweep, result.stream, result.label, result.seed, result.trial.id)
    return dict(zip(_NAMES, values, strict=True))


def _trial_row(result: ComparedTrial) -> dict[str, Any]:
    row = _names(result) | {
        "role": result.trial.role,
        "status": result.status.status,
        "problem": result.problem,
        "is_bound": result.bound,
        "overrides": json.dumps(result.trial.identity.get("overrides", {}), sort_keys=True),
        "folder": str(result.trial.folder),
    }
    if not result.views:
        return row
    summary = result.trial.read("summary") or {}
    values = {view: result.summary(view) for view in VIEWS}
    row |= _metric_columns(values, "") | _metric_columns(summary.get("validation") or {}, metrics.VALIDATION)
    return row | {name: summary.get(name) for name in ("seconds", "samples")}


def _metric_columns(by_view: Mapping[str, Mapping[str, Any]], prefix: str) -> dict[str, Any]:
    prefixes = {"task_agnostic": prefix, "task_aware": f"{prefix}task_aware."}
    return {f"{prefixes[view]}{name}": value for view in VIEWS for name, value in by_view.get(view, {}).items()}


def _matrix_rows(result: ComparedTrial) -> Iterable[tuple[Any, ...]]:
    names = tuple(_names(result).values())
    validation = (result.trial.read("matrix") or {}).get("validation") or {}
    for split, views in (("test", result.views), ("validation", validation)):
        for view in VIEWS:
            for after, row in enumerate(views.get(view, ())):
                for number, accuracy in enumerate(row, 1):
                    yield (*names, split, view, after, number, result.experiences[number - 1], accuracy)


def _flat(value: Any, path: str) -> dict[str, Any]:
    """Nested fields of an event by dotted names; items of lists are numbered from 1."""
    if isinstance(value, Mapping):
        items: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list):
        items = enumerate(value, 1)
    else:
        return {path: value}
    return {
        name: item for key, each in items for name, item in _flat(each, f"{path}.{key}" if path else str(key)).items()
    }


def _unfinished(results: Sequence[ComparedTrial]) -> list[str]:
    return [
        f"{result.label} on {result.stream}, seed {result.seed}: {result.problem}"
        for result in results
        if not result.views
    ]


def _with_left_out(frame: pd.DataFrame, lines: Sequence[str]) -> pd.DataFrame:
    """Say what the frame lacks."""
    for line in lines:
        _log.warning("left out: %s", line)
    frame.attrs["left_out"] = list(lines)
    return frame
