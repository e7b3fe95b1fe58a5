"""Compare variants over their seeds: estimates, differences to a baseline, the pairwise matrix, ranks over streams.

A comparison is of one metric, on one stream, in one view; streams are never averaged. Only reported trials count, not those of a
search. Trials without a result are named by `left_out`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from ..errors import UserError, nearest
from ..metrics import DIRECTIONS, VALIDATION
from . import statistics
from .results import ComparedTrial, by_variant, reported, views_of
from .statistics import Difference, Estimate, Test

MAIN_METRICS = ("average_accuracy", "average_incremental_accuracy", "forgetting_max")
_DEFAULT_BASELINE = "naive"


@dataclass(frozen=True, slots=True)
class VariantStatistics:
    """One variant's values of a metric, and how they compare with the baseline's.

    Attributes:
        variant: its label.
        bound: whether it is an upper bound, which is not compared.
        planned: the number of its trials in any state.
        values: seed -> value, of the finished trials.
        mean: with the 95 % Student t interval.
        bootstrapped_mean: with the percentile bootstrap interval.
        interquartile_mean: with the percentile bootstrap interval.
        difference: to the baseline, paired by seed; None for the baseline, for bounds and without a baseline.
        adjusted_p: the difference's p value after Holm's correction for the number of variants; NaN if undefined.
        improvement: the probability of improvement over the baseline; None where there is no difference.
    """

    variant: str
    bound: bool
    planned: int
    values: Mapping[int, float]
    mean: Estimate
    bootstrapped_mean: Estimate
    interquartile_mean: Estimate
    difference: Difference | None = None
    adjusted_p: float = math.nan
    improvement: Estimate | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """The variants of one stream, compared in one metric and view.

    Attributes:
        stream: the stream's name.
        view: "task_agnostic" or "task_aware".
        is_only_view: whether the stream has no other view that differs.
        metric: the metric's name in `metrics.DIRECTIONS`, or "validation." and that.
        baseline: the variant that the others are compared with; None without any.
        variants: all of them, bounds last.
        pairs: (first, second) -> first - second, for each ordered pair of variants with a result, bounds left out.
        best: the variant with the best mean whose 95 % interval of the paired difference to each other one excludes 0 on the
            better side; or None.
        test: the test of the p values.
    """

    stream: str
    view: str
    is_only_view: bool
    metric: str
    baseline: str | None
    variants: Sequence[VariantStatistics]
    pairs: Mapping[tuple[str, str], Difference]
    best: str | None
    test: Test

    @property
    def competitors(self) -> list[VariantStatistics]:
        """The variants that are compared: all with a result, without bounds."""
        return [each for each in self.variants if each.values and not each.bound]


@dataclass(frozen=True, slots=True)
class Ranking:
    """Ranks of the variants over streams, in one metric and view.

    Attributes:
        view: "task_agnostic" or "task_aware".
        metric: the metric's name.
        streams: the streams that the ranks are over.
        ranks: variant -> mean rank; 1 is the best.
        left_out: variants that lack a result on some stream.
        p: of Friedman's test that all ranks are equal; NaN for two variants.
    """

    view: str
    metric: str
    streams: Sequence[str]
    ranks: Mapping[str, float]
    left_out: Sequence[str]
    p: float


def check_metrics(names: Sequence[str]) -> None:
    """Raise UserError for a name that is no metric of an accuracy matrix."""
    for name in names:
        if name.removeprefix(VALIDATION) not in DIRECTIONS:
            known = f"{', '.join(DIRECTIONS)}; of the validation splits, {VALIDATION}NAME"
            raise UserError(f"metric {name}: is unknown.{nearest(name, DIRECTIONS)} Known: {known}.")


def check_baseline(results: Iterable[ComparedTrial], baseline: str | None) -> None:
    """Raise UserError unless the baseline is None or a variant of the reported trials that is no bound."""
    labels = list(dict.fromkeys(result.label for result in reported(results) if not result.bound))
    if baseline is not None and baseline not in labels:
        known = ", ".join(labels) or "none"
        raise UserError(
            f"baseline {baseline}: is no variant that is compared.{nearest(baseline, labels)} There are: {known}."
        )


def compare(
    results: Sequence[ComparedTrial],
    metric_names: Sequence[str] = MAIN_METRICS,
    *,
    baseline: str | None = None,
    test: Test = "t",
) -> list[Comparison]:
    """Compare the variants, stream by stream, view by view, metric by metric.

    Args:
        results: trials in any state; those of a search are ignored.
        metric_names: names in `metrics.DIRECTIONS`; with "validation." before them, on the validation splits.
        baseline: a variant; None: "naive" if the stream has it, else its first variant that is no bound.
        test: the paired test of the p values.

    Raises:
        UserError: a metric is unknown, or the baseline is no variant.
    """
    check_metrics(metric_names)
    check_baseline(results, baseline)
    comparisons = []
    for stream, variants in by_variant(reported(results)).items():
        done = {label: [result for result in seeds if result.views] for label, seeds in variants.items()}
        views = views_of(done)
        for view in views:
            summaries = {
                label: {result.seed: _values(result, view) for result in seeds} for label, seeds in done.items()
            }
            for metric in metric_names:
                values = {
                    label: {seed: summary.get(metric, math.nan) for seed, summary in sorted(by_seed.items())}
                    for label, by_seed in summaries.items()
                }
                scope = (stream, view, len(views) == 1, metric)
                comparisons.append(_comparison(scope, variants, values, baseline, test))
    return comparisons


def _values(result: ComparedTrial, view: str) -> dict[str, float]:
    """A finished trial's metrics, those of the validation splits too, if it has any."""
    values = result.summary(view)
    if not result.validation:
        return values
    return values | {VALIDATION + name: value for name, value in result.validation_summary(view).items()}


def is_maximized(metric: str) -> bool:
    """Return whether larger values of a metric are better."""
    return DIRECTIONS[metric.removeprefix(VALIDATION)] == "maximize"


def _comparison(
    scope: tuple[str, str, bool, str],
    variants: Mapping[str, Sequence[ComparedTrial]],
    values: Mapping[str, Mapping[int, float]],
    baseline: str | None,
    test: Test,
) -> Comparison:
    sign = 1 if is_maximized(scope[3]) else -1
    bounds = {label for label, seeds in variants.items() if any(result.bound for result in seeds)}
    competitors = {label: by_seed for label, by_seed in values.items() if by_seed and label not in bounds}
    chosen = _baseline(competitors, baseline)
    pairs = _pairs(competitors, sign, test)
    estimates = _estimates(values)
    others = [label for label in competitors if chosen is not None and label != chosen]
    adjusted = dict(zip(others, statistics.holm([pairs[label, chosen].p for label in others if chosen]), strict=True))
    rows = []
    for label, seeds in variants.items():
        difference = pairs.get((label, chosen)) if chosen else None
        improvement = None
        if difference is not None and chosen is not None:
            ours, theirs = ([values[name][seed] for seed in difference.seeds] for name in (label, chosen))
            improvement = statistics.probability_of_improvement(ours, theirs, sign=sign)
        about = (label, label in bounds, len(seeds), values[label])
        rows.append(
            VariantStatistics(*about, *estimates[label], difference, adjusted.get(label, math.nan), improvement)
        )
    return Comparison(*scope, chosen, rows, pairs, _best(rows, pairs, sign), test)


def _baseline(competitors: Mapping[str, Any], baseline: str | None) -> str | None:
    """The baseline on a stream; None if the one that is asked for has no result there."""
    if baseline is not None:
        return baseline if baseline in competitors else None
    return _DEFAULT_BASELINE if _DEFAULT_BASELINE in competitors else next(iter(competitors), None)


def _paired(ours: Mapping[int, float], theirs: Mapping[int, float], sign: int, test: Test) -> Difference:
    common = [seed for seed in ours if seed in theirs]
    first, second = ([variant[seed] for seed in common] for variant in (ours, theirs))
    return statistics.difference(first, second, common, sign=sign, test=test)


def _pairs(competitors: Mapping[str, Mapping[int, float]], sign: int, test: Test) -> dict[tuple[str, str], Difference]:
    """Each ordered pair of variants."""
    pairs: dict[tuple[str, str], Difference] = {}
    for first, second in combinations(competitors, 2):
        pairs[first, second] = _paired(competitors[first], competitors[second], sign, test)
        pairs[second, first] = pairs[first, second].reversed()
    return pairs


def _estimates(values: Mapping[str, Mapping[int, float]]) -> dict[str, tuple[Estimate, Estimate, Estimate]]:
    """Each variant's mean with both intervals, and its interquartile mean; variants with equally many seeds at once."""
    estimates: dict[str, tuple[Estimate, Estimate, Estimate]] = {}
    for num_seeds in {len(by_seed) for by_seed in values.values()}:
        labels = [label for label, by_seed in values.items() if len(by_seed) == num_seeds]
        samples = np.array([list(values[label].values()) for label in labels]).reshape(len(labels), num_seeds)
        means = statistics.bootstrap(samples, np.mean)
        quartiles = statistics.bootstrap(samples, statistics.interquartile_mean)
        for label, row, mean, quartile in zip(labels, samples.tolist(), means, quartiles, strict=True):
            estimates[label] = (statistics.student_mean(row), mean, quartile)
    return estimates


def _best(rows: Sequence[VariantStatistics], pairs: Mapping[tuple[str, str], Difference], sign: int) -> str | None:
    """The variant with the best mean, if it is better than each other one with an interval that excludes 0.

    Since it must win every comparison, no correction for their number is needed: if no variant is better than the others, one is
    named in at most 5 % of cases (Gutmann and Maymin 1987, Is the selected population the best?). The comparisons are over common
    seeds, the means over all seeds of a variant: if they disagree, none is named.
    """
    means = {row.variant: sign * row.mean.value for row in rows if row.values and not row.bound}
    for label in means if len(means) > 1 else ():
        others = [other for other in means if other != label]
        differences = [pairs[label, other] for other in others]
        wins = all(each.excludes_zero() and sign * each.mean > 0 for each in differences)
        if wins and all(means[label] > means[other] for other in others):
            return label
    return None


def rankings(comparisons: Sequence[Comparison]) -> list[Ranking]:
    """Rank the variants over streams by their means, for each view and metric with enough streams; [] if there are too few."""
    groups: dict[tuple[str, str], list[Comparison]] = {}
    for comparison in comparisons:
        groups.setdefault((comparison.view, comparison.metric), []).append(comparison)
    found = []
    for (view, metric), members in groups.items():
        means = {
            each.stream: {row.variant: row.mean.value for row in each.competitors if not math.isnan(row.mean.value)}
            for each in members
        }
        if len(means) < statistics.MIN_STREAMS_FOR_RANKS:
            continue
        labels = list(dict.fromkeys(label for by_label in means.values() for label in by_label))
        ranked = [label for label in labels if all(label in by_label for by_label in means.values())]
        if len(ranked) < 2:
            continue
        table = np.array([[by_label[label] for label in ranked] for by_label in means.values()])
        ranks = statistics.mean_ranks(table, sign=1 if is_maximized(metric) else -1)
        left_out = [label for label in labels if label not in ranked]
        by_rank = dict(sorted(zip(ranked, ranks.tolist(), strict=True), key=lambda item: item[1]))
        found.append(Ranking(view, metric, list(means), by_rank, left_out, statistics.friedman_p(table)))
    return found
