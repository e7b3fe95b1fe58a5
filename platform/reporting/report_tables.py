"""Values of the report's tables and downloads, which the templates show.

Shapes: T experiences; an accuracy matrix is (T + 1, T), see `metrics`.
"""

import base64
import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..ledger.documents import to_json
from ..metrics import TITLES, Array
from ..visible_text import csv_cell
from .results import COLUMNS, VIEW_TITLES, ComparedTrial, TableRow, best_variants, format_cell, seeds_text

_HEADS = {
    "average_accuracy": "Average accuracy (ACC)",
    "average_incremental_accuracy": "Average incremental accuracy",
    "forgetting_max": "Forgetting (max over past − final)",
    "learning_accuracy": "Learning accuracy",
    "backward_transfer": "Backward transfer (BWT)",
}


@dataclass(frozen=True, slots=True)
class Column:
    """A metric's title, and its definition for the tooltip."""

    title: str
    definition: str


@dataclass(frozen=True, slots=True)
class Cell:
    """A metric's mean and interval in per cent, and whether the mean is the best."""

    text: str
    best: bool


@dataclass(frozen=True, slots=True)
class SummaryRow:
    """A variant's cells, one for each column.

    Attributes:
        variant: the variant's label.
        bound: whether it is an upper bound and does not compete.
        cells: its metrics.
        seeds: how many have finished, such as "3" or "1 of 3".
        is_empty: whether none has.
        sweep: the folders that its trials are from.
    """

    variant: str
    bound: bool
    cells: list[Cell]
    seeds: str
    is_empty: bool
    sweep: str


@dataclass(frozen=True, slots=True)
class SummaryTable:
    """The metrics of one stream and view."""

    title: str
    view: str
    columns: list[Column]
    rows: list[SummaryRow]


@dataclass(frozen=True, slots=True)
class AccuracyMatrix:
    """A variant's mean over `seeds`: `rows` holds (i, accuracies in [0, 1], None where undefined) after experience i."""

    variant: str
    seeds: str
    num_experiences: int
    rows: list[tuple[int, list[float | None]]]


@dataclass(frozen=True, slots=True)
class Download:
    """A file that is part of the page."""

    name: str
    media_type: str
    base64: str


def summary_table(rows: Sequence[TableRow], title: str) -> SummaryTable:
    """Return the rows of one stream and view as text in per cent, with the best values marked."""
    winners = {metric: best_variants(rows, metric) for metric in COLUMNS}
    shown = []
    for row in rows:
        cells = [Cell(format_cell(*row.metrics[metric][:2]), row.variant in winners[metric]) for metric in COLUMNS]
        shown.append(SummaryRow(row.variant, row.bound, cells, row.seeds, row.done == 0, row.sweep))
    columns = [Column(_HEADS[metric], TITLES[metric]) for metric in COLUMNS]
    return SummaryTable(title, rows[0].view, columns, shown)


def accuracy_matrix(variant: str, seeds: Sequence[ComparedTrial], view: str) -> AccuracyMatrix:
    """Return a variant's mean accuracy matrix over seeds, without the rows in which nothing is defined."""
    mean: Array = np.mean([result.views[view] for result in seeds], axis=0)
    rows = [
        (i, [None if math.isnan(accuracy) else float(accuracy) for accuracy in row])
        for i, row in enumerate(mean)
        if np.isfinite(row).any()
    ]
    return AccuracyMatrix(variant, seeds_text(len(seeds), seeds[0].planned), mean.shape[1], rows)


def downloads(rows: Sequence[TableRow], results: Sequence[ComparedTrial]) -> list[Download]:
    """Return the table as CSV with every metric, and all accuracy matrices as JSON; both name unfinished trials too."""
    trials = [
        _names(result)
        | {"experiences": result.experiences, "sizes": result.sizes.tolist()}
        | {view: result.views[view].tolist() for view in VIEW_TITLES}
        | _validation_matrices(result)
        for result in results
        if result.views
    ]
    unfinished = [_names(result) | {"problem": result.problem} for result in results if not result.views]
    return [
        Download("summary.csv", "text/csv", _base64(_csv(rows))),
        Download("matrices.json", "application/json", _base64(to_json({"trials": trials, "unfinished": unfinished}))),
    ]


def _validation_matrices(result: ComparedTrial) -> dict[str, object]:
    if not result.validation:
        return {}
    matrices = {view: result.validation[view].tolist() for view in VIEW_TITLES}
    return {"validation": {"sizes": result.validation_sizes.tolist()} | matrices}


def _names(result: ComparedTrial) -> dict[str, str | int]:
    return {"sweep": result.sweep, "variant": result.label, "stream": result.stream, "seed": result.seed}


def _csv(rows: Sequence[TableRow]) -> str:
    """The table's metrics. Names are quoted and never start like a formula, so that a spreadsheet takes them as text."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(["stream", "view", "variant", "metric", "mean", "half_width_95", "seeds", "planned_seeds", "sweep"])
    for row in rows:
        for metric, (mean, half, seeds) in row.metrics.items():
            names = [csv_cell(name) for name in (row.stream, row.view, row.variant, metric)]
            numbers = ["" if math.isnan(value) else value for value in (mean, half)]
            writer.writerow([*names, *numbers, seeds, max(row.planned, seeds), csv_cell(row.sweep)])
    return text.getvalue()


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
