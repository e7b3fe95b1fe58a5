"""Comparisons as rows of one table, for CSV, Parquet and pandas: a row per statistic."""

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..metrics import DIRECTIONS, VALIDATION
from ..visible_text import csv_cell
from .comparison import Comparison, Ranking, VariantStatistics
from .statistics import Difference, Estimate

COLUMNS = (
    *("stream", "view", "metric", "direction", "statistic", "variant", "compared_with", "value", "low", "high"),
    *("p", "adjusted_p", "test", "wins", "ties", "losses", "seeds", "planned_seeds", "is_bound", "is_best"),
)
Row = Mapping[str, Any]


def comparison_rows(comparisons: Sequence[Comparison], rankings: Sequence[Ranking] = ()) -> list[Row]:
    """Return a row for each statistic, with all of `COLUMNS`; None where a column does not apply.

    A row's `statistic` is "mean" (with Student's t interval), "bootstrapped_mean", "interquartile_mean", "difference" (to the
    baseline), "probability_of_improvement", "pairwise_difference" or "mean_rank" (over streams, so its stream is None, and its
    seeds are None). Values are fractions, not per cent.
    """
    rows = [row for comparison in comparisons for row in _rows_of(comparison)]
    return rows + [row for ranking in rankings for row in _ranks(ranking)]


def _rows_of(comparison: Comparison) -> Iterator[Row]:
    about = {"stream": comparison.stream, **_scope(comparison.view, comparison.metric)}
    for variant in comparison.variants:
        own = {
            **about,
            "variant": variant.variant,
            "seeds": len(variant.values),
            "planned_seeds": variant.planned,
            "is_bound": variant.bound,
        }
        is_best = variant.variant == comparison.best
        yield _row(own, "mean", variant.mean, is_best=is_best)
        yield _row(own, "bootstrapped_mean", variant.bootstrapped_mean)
        yield _row(own, "interquartile_mean", variant.interquartile_mean)
        yield from _baseline_rows(own, variant, comparison)
    for (first, second), pair in comparison.pairs.items():
        names = {**about, "variant": first, "compared_with": second}
        yield _row(names, "pairwise_difference", **_pair(pair), test=comparison.test)


def _baseline_rows(own: Row, variant: VariantStatistics, comparison: Comparison) -> Iterator[Row]:
    if variant.difference is not None and variant.improvement is not None:
        names = {**own, "compared_with": comparison.baseline}
        pair = _pair(variant.difference) | {"adjusted_p": variant.adjusted_p, "test": comparison.test}
        yield _row(names, "difference", **pair)
        yield _row(names, "probability_of_improvement", variant.improvement, seeds=len(variant.difference.seeds))


def _ranks(ranking: Ranking) -> Iterator[Row]:
    for variant, rank in ranking.ranks.items():
        about = {"variant": variant, **_scope(ranking.view, ranking.metric)}
        yield _row(about, "mean_rank", Estimate(rank), p=ranking.p, test="friedman")


def _scope(view: str, metric: str) -> dict[str, str]:
    return {"view": view, "metric": metric, "direction": DIRECTIONS[metric.removeprefix(VALIDATION)]}


def _pair(pair: Difference) -> dict[str, Any]:
    counts = {"wins": pair.wins, "ties": pair.ties, "losses": pair.losses, "seeds": len(pair.seeds)}
    return {"estimate": Estimate(pair.mean, pair.low, pair.high), "p": pair.p, **counts}


def _row(about: Row, statistic: str, estimate: Estimate, **more: Any) -> Row:
    values = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    known = {**about, "statistic": statistic, **values, **more}
    return {name: _defined(known.get(name)) for name in COLUMNS}


def _defined(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def to_csv(rows: Sequence[Row]) -> str:
    """Return rows as CSV. Names are quoted and never start like a formula, so that a spreadsheet takes them as text."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(COLUMNS)
    for row in rows:
        cells = (row[name] for name in COLUMNS)
        writer.writerow(["" if cell is None else csv_cell(cell) if isinstance(cell, str) else cell for cell in cells])
    return text.getvalue()
