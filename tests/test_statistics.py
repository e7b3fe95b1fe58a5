"""Statistics over seeds against values by hand, scipy's other functions and plain loops."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from retain.platform.reporting import statistics
from retain.platform.reporting.statistics import Difference, difference, holm, probability_of_improvement

SEEDS = range(5)
OURS = [0.80, 0.84, 0.79, 0.90, 0.82]
THEIRS = [0.78, 0.80, 0.79, 0.85, 0.83]  # differences .02 .04 0 .05 -.01


def test_a_paired_difference_by_hand() -> None:
    pair = difference(OURS, THEIRS, SEEDS)
    # mean .02; deviations 0, .02, -.02, .03, -.03 -> variance .0026 / 4, standard error sqrt(.00065 / 5) = .0114018
    assert pair.seeds == tuple(SEEDS)
    assert (pair.wins, pair.ties, pair.losses) == (3, 1, 1)
    assert pair.mean == pytest.approx(0.02)
    half = 2.7764451 * 0.0114018  # t(4) at .975
    assert (pair.low, pair.high) == pytest.approx((0.02 - half, 0.02 + half), abs=1e-6)
    assert pair.p == pytest.approx(stats.ttest_rel(OURS, THEIRS).pvalue)
    assert pair.p == pytest.approx(2 * stats.t.sf(0.02 / 0.0114018, 4), abs=1e-5)
    assert not pair.excludes_zero()


def test_a_pair_is_antisymmetric_and_knows_the_direction() -> None:
    pair, reverse = difference(OURS, THEIRS, SEEDS), difference(THEIRS, OURS, SEEDS)
    assert (reverse.mean, reverse.low, reverse.high) == pytest.approx((-pair.mean, -pair.high, -pair.low))
    assert (reverse.p, reverse.wins, reverse.losses) == (pair.p, pair.losses, pair.wins)
    lower_is_better = difference(OURS, THEIRS, SEEDS, sign=-1)
    assert (lower_is_better.wins, lower_is_better.losses) == (pair.losses, pair.wins)
    assert lower_is_better.mean == pair.mean  # the difference itself keeps its sign


@pytest.mark.parametrize("differences", [[0.1, 0.2, -0.05, 0.3, 0.01], [0.1, 0.1, -0.1, 0.3, 0.0], [0.3, 0.1]])
def test_wilcoxon_equals_all_signs(differences: list[float]) -> None:
    """The exact test by its definition: the ranks of the absolute differences with every choice of signs."""
    nonzero = np.array([value for value in differences if value])
    ranks = stats.rankdata(np.abs(np.round(nonzero, 9)))
    centre = ranks.sum() / 2
    distance = abs(ranks[nonzero > 0].sum() - centre)
    sums = [np.dot(ranks, signs) for signs in itertools.product((0, 1), repeat=len(ranks))]
    expected = np.mean([abs(value - centre) >= distance - 1e-9 for value in sums])
    zeros = [0.0] * len(differences)
    assert difference(differences, zeros, range(len(zeros)), test="wilcoxon").p == pytest.approx(expected)


@pytest.mark.parametrize("num_seeds", range(2, 9))
def test_wilcoxon_cannot_go_below_its_lowest_p(num_seeds: int) -> None:
    ours = np.linspace(0.5, 0.6, num_seeds)
    pair = difference(ours.tolist(), [0.1] * num_seeds, range(num_seeds), test="wilcoxon")
    assert pair.p == pytest.approx(statistics.lowest_wilcoxon_p(num_seeds))
    assert statistics.lowest_wilcoxon_p(5) == 0.0625


NAN = math.nan


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ([], [], (NAN, NAN, NAN, NAN, 0, 0, 0)),
        ([0.5], [0.4], (0.1, NAN, NAN, NAN, 1, 0, 0)),
        ([0.5], [0.5], (0.0, NAN, NAN, NAN, 0, 1, 0)),
        ([0.5, NAN], [0.4, 0.4], (NAN, NAN, NAN, NAN, 0, 0, 0)),
        ([0.5, 0.6], [0.5, 0.6], (0.0, 0.0, 0.0, 1.0, 0, 2, 0)),  # two names of the same trials
        ([0.7, 0.8], [0.5, 0.6], (0.2, NAN, NAN, NAN, 2, 0, 0)),  # equal but for rounding: the spread is unknown
    ],
)
def test_a_pair_without_spread_has_no_interval(
    ours: list[float], theirs: list[float], expected: tuple[float, ...]
) -> None:
    pair = difference(ours, theirs, range(len(ours)))
    shown = (pair.mean, pair.low, pair.high, pair.p, pair.wins, pair.ties, pair.losses)
    assert shown == pytest.approx(expected, nan_ok=True)
    assert not pair.excludes_zero()


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ([], []),
        ([0.03], [0.03]),
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # .005 x 4, .01 x 3, .03 x 2, .04 x 1 but not below .06
        ([0.6, 0.7], [1.0, 1.0]),
        ([0.02, NAN, 0.03], [0.04, NAN, 0.04]),  # what is undefined is no test
    ],
)
def test_holm_by_hand(p_values: list[float], adjusted: list[float]) -> None:
    assert holm(p_values) == pytest.approx(adjusted, nan_ok=True)


def test_the_interquartile_mean_by_hand() -> None:
    assert statistics.interquartile_mean([1.0, 2.0, 4.0, 10.0, 3.0]) == 3.0  # without 1 and 10
    assert statistics.interquartile_mean([5.0, 1.0, 2.0, 3.0, 100.0, 4.0, 6.0, 7.0]) == 4.5  # without 1, 2, 7, 100
    assert statistics.interquartile_mean([1.0, 2.0, 6.0]) == 3.0  # three: the mean


def test_bootstrap_equals_a_plain_loop() -> None:
    """Other resamples; the percentiles of their means."""
    values = np.random.default_rng(3).normal(size=(2, 12))
    means = statistics.bootstrap(values, np.mean)
    iqms = statistics.bootstrap(values, statistics.interquartile_mean)
    indices = np.random.default_rng(7).integers(0, 12, (40_000, 12))
    for row, mean, iqm in zip(values, means, iqms, strict=True):
        drawn = np.sort(row[indices], axis=1)
        assert (mean.value, iqm.value) == pytest.approx((row.mean(), np.sort(row)[3:9].mean()))
        assert (mean.low, mean.high) == pytest.approx(np.quantile(drawn.mean(1), (0.025, 0.975)), abs=0.03)
        assert (iqm.low, iqm.high) == pytest.approx(np.quantile(drawn[:, 3:9].mean(1), (0.025, 0.975)), abs=0.03)


def test_bootstrap_of_all_equally_likely_resamples() -> None:
    """Three values have 27 resamples: their exact quantiles, between which 10,000 draws lie too."""
    values = np.array([0.1, 0.2, 0.6])
    exact = sorted(np.mean(resample) for resample in itertools.product(values, repeat=3))
    (mean,) = statistics.bootstrap(values[None], np.mean)
    # .1 .1 .1 has 1/27 = 3.7 % of the weight, and so has .6 .6 .6: the 2.5 % and 97.5 % quantiles
    assert (mean.low, mean.high) == pytest.approx((exact[0], exact[-1]))


def test_bootstrap_is_the_same_for_a_row_alone_and_again() -> None:
    values = np.array([OURS, THEIRS, [0.1, NAN, 0.1, 0.1, 0.1]])
    together = statistics.bootstrap(values, np.mean)
    assert statistics.bootstrap(values[1:2], np.mean) == [together[1]]
    assert all(math.isnan(value) for value in (together[2].value, together[2].low, together[2].high))


@pytest.mark.parametrize("num_seeds", [0, 1])
def test_bootstrap_needs_two_values(num_seeds: int) -> None:
    (estimate,) = statistics.bootstrap(np.full((1, num_seeds), 0.5), np.mean)
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx(
        (0.5 if num_seeds else NAN, NAN, NAN), nan_ok=True
    )


def test_the_probability_of_improvement_is_mann_whitney_s() -> None:
    improvement = probability_of_improvement(OURS, THEIRS)
    better = sum((a > b) + 0.5 * (a == b) for a, b in itertools.product(OURS, THEIRS)) / 25
    assert improvement.value == pytest.approx(better)
    assert improvement.value == pytest.approx(stats.mannwhitneyu(OURS, THEIRS).statistic / 25)
    assert improvement.low <= improvement.value <= improvement.high
    other = probability_of_improvement(OURS, THEIRS, sign=-1)
    assert (other.value, other.low, other.high) == pytest.approx(
        (1 - improvement.value, 1 - improvement.high, 1 - improvement.low)
    )


@pytest.mark.parametrize(
    ("ours", "theirs", "value"),
    [([0.9, 0.8], [0.1, 0.2], 1.0), ([0.5], [0.5], 0.5), ([], [], NAN), ([NAN], [0.1], NAN)],
)
def test_the_probability_of_improvement_at_its_ends(ours: list[float], theirs: list[float], value: float) -> None:
    assert probability_of_improvement(ours, theirs).value == pytest.approx(value, nan_ok=True)


def test_ranks_by_hand() -> None:
    values = np.array([[0.9, 0.8, 0.7], [0.5, 0.6, 0.5], [0.3, 0.2, 0.2]])
    # ranks 1 2 3; 2.5 1 2.5; 1 2.5 2.5
    assert statistics.mean_ranks(values).tolist() == pytest.approx([1.5, 5.5 / 3, 8 / 3])
    assert statistics.mean_ranks(values, sign=-1).tolist() == pytest.approx([2.5, 4 - 5.5 / 3, 4 - 8 / 3])
    assert statistics.friedman_p(values) == pytest.approx(stats.friedmanchisquare(*values.T).pvalue)
    assert math.isnan(statistics.friedman_p(values[:, :2]))


def test_student_s_interval_covers_what_it_says_and_the_bootstrap_what_we_say() -> None:
    """On 2,000 draws of 5 normal values; the docs name the figures."""
    draws = np.random.default_rng(0).normal(size=(2000, 5))
    half = stats.t.ppf(0.975, 4) * draws.std(axis=1, ddof=1) / math.sqrt(5)
    ours = [statistics.student_mean(row) for row in draws[:50].tolist()]
    assert [each.high - each.value for each in ours] == pytest.approx(half[:50].tolist())
    assert np.mean(np.abs(draws.mean(axis=1)) <= half) == pytest.approx(0.95, abs=0.015)
    covered = [each.low <= 0 <= each.high for each in statistics.bootstrap(draws[:250], np.mean)]
    assert np.mean(covered) == pytest.approx(0.83, abs=0.045)


def best_of(values: np.ndarray) -> bool:
    """Return whether one of V variants (V, N) has intervals against all others that exclude 0, as bold in LaTeX."""
    num = len(values)
    pairs: dict[tuple[int, int], Difference] = {}
    for first, second in itertools.permutations(range(num), 2):
        pairs[first, second] = difference(values[first].tolist(), values[second].tolist(), SEEDS)
    others = [[pairs[first, second] for second in range(num) if second != first] for first in range(num)]
    return any(all(pair.low > 0 for pair in row) for row in others)


@pytest.mark.parametrize("num_variants", [2, 3, 6])
def test_among_equal_variants_one_is_the_best_in_5_percent_of_cases_at_most(num_variants: int) -> None:
    """Not corrected for the number of variants: the best must win each comparison (Gutmann and Maymin 1987)."""
    rng = np.random.default_rng(num_variants)
    shared = rng.normal(size=(4000, 1, 5))  # of the seed
    values = shared + rng.normal(size=(4000, num_variants, 5))
    ordered = np.sort(values.mean(axis=2), axis=1)
    assert (ordered[:, -1] > ordered[:, 0]).all()
    best = np.take_along_axis(values, values.mean(axis=2).argmax(axis=1)[:, None, None], axis=1)
    differences = best - values
    mean, spread = differences.mean(axis=2), differences.std(axis=2, ddof=1)
    low = mean - stats.t.ppf(0.975, 4) * spread / math.sqrt(5)
    wins = ((low > 0).sum(axis=1) == num_variants - 1).tolist()
    assert np.mean(wins) <= 0.055  # 5 %, and the error of 4,000 draws
    assert wins[:40] == [best_of(draw) for draw in values[:40]]
