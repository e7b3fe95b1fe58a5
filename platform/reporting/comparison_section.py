"""Values of the report's statistics: differences to a baseline, pairwise matrices, ranks. comparison.html.jinja shows them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .comparison import Comparison, Ranking, VariantStatistics, compare, is_maximized, rankings
from .comparison_text import cautions, interval_text, p_text, title_of_metric
from .results import VIEW_TITLES, ComparedTrial, format_cell, reported, seeds_text
from .statistics import Difference, Estimate

PAGE_METRICS = ("average_accuracy", "forgetting_max")
_MAX_PAIRS = 12  # variants in a pairwise matrix


@dataclass(frozen=True, slots=True)
class StatisticsRow:
    """A variant's estimates and its difference to the baseline, as text in per cent."""

    variant: str
    bound: bool
    best: bool
    seeds: str
    cells: list[str]


@dataclass(frozen=True, slots=True)
class PairCell:
    """Row - column of a pair: per cent, wins/ties/losses over seeds, p; "better" or "worse" if the interval excludes 0."""

    text: str
    counts: str
    p: str
    style: str


@dataclass(frozen=True, slots=True)
class ComparisonCard:
    """A stream's comparison in one metric and view.

    Attributes:
        view: "task_agnostic" or "task_aware".
        title: the metric, the view if there are two, and the baseline.
        columns: titles of the rows' cells.
        rows: the variants, bounds last.
        variants: those of the pairwise matrix.
        pairs: its rows; None on the diagonal.
        is_cut: whether the matrix leaves variants out.
        test: the test's name.
    """

    view: str
    title: str
    columns: list[str]
    rows: list[StatisticsRow]
    variants: list[str]
    pairs: list[list[PairCell | None]]
    is_cut: bool
    test: str


@dataclass(frozen=True, slots=True)
class RankTable:
    """Mean ranks over streams: (variant, rank), those that were left out, and Friedman's p."""

    title: str
    ranks: list[tuple[str, str]]
    left_out: Sequence[str]
    p: str


def page_comparisons(results: Sequence[ComparedTrial]) -> list[Comparison]:
    """Compare the variants on each stream with two or more of them; without such a stream, scipy.stats is not loaded."""
    compared: dict[str, set[str]] = {}
    for result in reported(results):
        if result.views and not result.bound:
            compared.setdefault(result.stream, set()).add(result.label)
    streams = {stream for stream, labels in compared.items() if len(labels) > 1}
    members = [result for result in reported(results) if result.stream in streams]
    return compare(members, PAGE_METRICS) if members else []


def comparison_cards(comparisons: Sequence[Comparison], stream: str) -> list[ComparisonCard]:
    """Return the cards of one stream."""
    return [_card(comparison) for comparison in comparisons if comparison.stream == stream]


def stream_cautions(comparisons: Sequence[Comparison], stream: str) -> list[str]:
    """Return what a reader must know of a stream's comparisons."""
    lines = cautions([comparison for comparison in comparisons if comparison.stream == stream])
    return [line.removeprefix(f"{stream}: ") for line in lines]


def rank_tables(comparisons: Sequence[Comparison]) -> list[RankTable]:
    """Return the ranks over streams, if there are enough."""
    return [_rank_table(ranking) for ranking in rankings(comparisons)]


def _rank_table(ranking: Ranking) -> RankTable:
    view = VIEW_TITLES[ranking.view].lower()
    title = f"{title_of_metric(ranking.metric)}, {view}, {len(ranking.streams)} streams"
    return RankTable(
        title, [(name, f"{rank:.2f}") for name, rank in ranking.ranks.items()], ranking.left_out, p_text(ranking.p)
    )


def _card(comparison: Comparison) -> ComparisonCard:
    view_title = "" if comparison.is_only_view else f", {VIEW_TITLES[comparison.view].lower()}"
    versus = f" · compared with {comparison.baseline}" if comparison.baseline else ""
    columns = ["Mean", "Interquartile mean", "Difference", "Pairs", "p", "P(better)"]
    shown = [row.variant for row in _highest(comparison)]
    return ComparisonCard(
        view=comparison.view,
        title=f"{title_of_metric(comparison.metric)}{view_title}{versus}",
        columns=columns,
        rows=_rows(comparison),
        variants=shown,
        pairs=[[_pair(comparison, first, second) for second in shown] for first in shown],
        is_cut=len(shown) < len(comparison.competitors),
        test="paired t test" if comparison.test == "t" else "Wilcoxon signed-rank test",
    )


def _highest(comparison: Comparison) -> list[VariantStatistics]:
    """The variants of the pairwise matrix, in their order: the best ones, if there are many."""
    sign = -1 if is_maximized(comparison.metric) else 1
    defined = [row for row in comparison.competitors if not math.isnan(row.mean.value)]
    best = {row.variant for row in sorted(defined, key=lambda row: sign * row.mean.value)[:_MAX_PAIRS]}
    return [row for row in comparison.competitors if row.variant in best]


def _rows(comparison: Comparison) -> list[StatisticsRow]:
    rows = []
    for row in comparison.variants:
        cells = [format_cell(row.mean.value, row.mean.high - row.mean.value), interval_text(row.interquartile_mean)]
        if row.difference is not None and row.improvement is not None:
            pair = Estimate(row.difference.mean, row.difference.low, row.difference.high)
            cells += [interval_text(pair, sign=True), str(len(row.difference.seeds)), p_text(row.adjusted_p)]
            cells.append(interval_text(row.improvement, digits=0))
        else:
            cells += ["baseline" if row.variant == comparison.baseline else "-", "-", "-", "-"]
        seeds = seeds_text(len(row.values), row.planned)
        rows.append(StatisticsRow(row.variant, row.bound, row.variant == comparison.best, seeds, cells))
    return rows


def _pair(comparison: Comparison, first: str, second: str) -> PairCell | None:
    if first == second:
        return None
    pair: Difference = comparison.pairs[first, second]
    is_better = (pair.mean > 0) == is_maximized(comparison.metric)
    style = ("better" if is_better else "worse") if pair.excludes_zero() else ""
    value, counts = interval_text(Estimate(pair.mean), sign=True), f"{pair.wins}/{pair.ties}/{pair.losses}"
    return PairCell(value, counts, p_text(pair.p), style)
