"""Comparisons in words: titles, numbers with their intervals, what is left out, what a reader must know."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from ..metrics import TITLES, VALIDATION
from . import statistics
from .comparison import Comparison, VariantStatistics
from .results import VIEW_TITLES, ComparedTrial, reported
from .statistics import Difference, Estimate


def title_of_metric(metric: str) -> str:
    """Return a metric's title, with "on the validation splits" if it is of these."""
    title = TITLES[metric.removeprefix(VALIDATION)]
    return f"{title} on the validation splits" if metric.startswith(VALIDATION) else title


def title_of(comparison: Comparison) -> str:
    """Return what is compared: the stream, and the view if there are two."""
    view = VIEW_TITLES[comparison.view].lower()
    return comparison.stream if comparison.is_only_view else f"{comparison.stream}, {view}"


def interval_text(estimate: Estimate, *, sign: bool = False, digits: int = 1) -> str:
    """Return a value and its interval in per cent: "83.1 [82.6, 83.5]", with `sign` "+83.1"; "-" if undefined."""
    if math.isnan(estimate.value):
        return "-"
    bounds = (estimate.value, estimate.low, estimate.high)
    value, low, high = (f"{round(100 * each, digits) + 0.0:{'+' if sign else ''}.{digits}f}" for each in bounds)
    return value if math.isnan(estimate.low) else f"{value} [{low}, {high}]"


def p_text(p: float) -> str:
    """Return a p value with three decimals, "<.001" below them, "-" if undefined."""
    if math.isnan(p):
        return "-"
    return "<.001" if p < 0.0005 else "1.00" if p >= 0.9995 else f"{p:.3f}".removeprefix("0")


def left_out(results: Sequence[ComparedTrial]) -> list[str]:
    """Return lines on the trials that are not in the statistics: those without a result, with the reason, and a search's."""
    seeds: dict[tuple[str, str, str], list[int]] = {}
    for result in reported(results):
        if not result.views:
            seeds.setdefault((result.label, result.stream, result.problem), []).append(result.seed)
    lines = [
        f"{label} on {stream}, seed{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}: {problem}"
        for (label, stream, problem), numbers in seeds.items()
    ]
    roles = Counter(result.trial.role for result in results)
    if roles["search"]:
        lines.append(f"{roles['search']} trials of a search: they chose configurations")
    if roles["superseded"]:
        lines.append(f"{roles['superseded']} trials of an earlier choice, which is no longer reported")
    return lines


def cautions(comparisons: Sequence[Comparison]) -> list[str]:
    """Return what a reader must know of the comparisons, each once: too few seeds, missing pairs, streams without a baseline."""
    lines: dict[str, None] = {}
    for comparison in comparisons:
        lines |= dict.fromkeys(_cautions(comparison))
    streams = {comparison.stream for comparison in comparisons}
    if 1 < len(streams) < statistics.MIN_STREAMS_FOR_RANKS:
        lines[
            f"{len(streams)} streams: ranks over streams are shown from {statistics.MIN_STREAMS_FOR_RANKS} streams on"
        ] = None
    return list(lines)


def _cautions(comparison: Comparison) -> Iterable[str]:
    rows, stream = comparison.competitors, comparison.stream
    if rows and comparison.baseline is None:
        yield f"{stream}: the baseline has no finished trial here, so there are no differences"
    fewest = min((len(row.values) for row in rows), default=statistics.FEW_SEEDS_FOR_BOOTSTRAP)
    if fewest == 1 and len(rows) > 1:
        yield f"{stream}: a variant has one finished seed only: there is no interval, and a difference may be chance"
    elif fewest < statistics.FEW_SEEDS:
        yield f"{stream}: {fewest} seeds are few: only large differences can be told from chance"
    if 1 < fewest < statistics.FEW_SEEDS_FOR_BOOTSTRAP:
        yield (
            f"{stream}: with fewer than {statistics.FEW_SEEDS_FOR_BOOTSTRAP} seeds, bootstrap intervals are too narrow (with 5 "
            "seeds they cover 83 %, with 3 75 %)"
        )
    for row in rows:
        if row.difference is not None:
            yield from _cautions_of_pair(comparison, row, row.difference)


def _cautions_of_pair(comparison: Comparison, row: VariantStatistics, difference: Difference) -> Iterable[str]:
    pair, num_pairs = f"{comparison.stream}: {row.variant} and {comparison.baseline}", len(difference.seeds)
    baseline = next(each for each in comparison.variants if each.variant == comparison.baseline)
    if num_pairs < max(len(row.values), len(baseline.values)):
        seeds = ", ".join(map(str, difference.seeds)) or "none"
        numbers = f"they have {len(row.values)} and {len(baseline.values)} finished ones"
        yield f"{pair}: pairs over {num_pairs} common seeds only ({seeds}); {numbers}"
    family = sum(each.difference is not None for each in comparison.variants)
    if comparison.test == "wilcoxon" and num_pairs:
        ties = difference.ties  # the test leaves out seeds without a difference
        lowest = statistics.lowest_wilcoxon_p(num_pairs - ties)
        if lowest * family >= 1 - statistics.LEVEL:
            without = f" ({ties} of them without a difference, which the test leaves out)" if ties else ""
            yield (
                f"{pair}: with {num_pairs} seeds{without}, Wilcoxon's p cannot go below {lowest:.4g}"
                + (
                    f" ({min(1.0, lowest * family):.4g} after the correction for {family} variants)"
                    if family > 1
                    else ""
                )
                + ": it cannot show a difference"
            )
    if not math.isnan(difference.mean) and num_pairs > 1 and math.isnan(difference.low):
        yield f"{pair}: {comparison.metric} differs by the same amount in every seed: no interval"
