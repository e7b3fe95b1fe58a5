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
from .results import COLUMNS, VIEW_TITLES, ComparedTrial, TableRow, best_variants, format_cell

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
    """A variant's cells, one for each column; `bound`: it is an upper bound and does not compete."""

    variant: str
    bound: bool
    cells: list[Cell]
    seeds: int


@dataclass(frozen=True, slots=True)
class SummaryTable:
    """The metrics of one stream and view."""

    title: str
    view: str
    columns: list[Column]
    rows: list[SummaryRow]


@dataclass(frozen=True, slots=True)
class AccuracyMatrix:
    """A variant's mean over seeds: `rows` holds (i, accuracies in [0, 1], None where undefined) after experience i."""

    variant: str
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
        shown.append(SummaryRow(row.variant, row.bound, cells, seeds=row.metrics[COLUMNS[-1]][2]))
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
    return AccuracyMatrix(variant, mean.shape[1], rows)


def downloads(rows: Sequence[TableRow], results: Sequence[ComparedTrial]) -> list[Download]:
    """Return the table as CSV with every metric, and all accuracy matrices as JSON."""
    trials = [
        {"variant": result.label, "stream": result.stream, "seed": result.seed, "experiences": result.experiences}
        | {"sizes": result.sizes.tolist()}
        | {view: result.views[view].tolist() for view in VIEW_TITLES}
        for result in results
        if result.views
    ]
    return [
        Download("summary.csv", "text/csv", _base64(_csv(rows))),
        Download("matrices.json", "application/json", _base64(to_json({"trials": trials}))),
    ]


def _csv(rows: Sequence[TableRow]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["stream", "view", "variant", "metric", "mean", "half_width_95", "seeds"])
    for row in rows:
        for metric, (mean, half, seeds) in row.metrics.items():
            numbers = ["" if math.isnan(value) else value for value in (mean, half)]
            writer.writerow([row.stream, row.view, row.variant, metric, *numbers, seeds])
    return text.getvalue()


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
