"""The metrics against hand-computed numbers, Avalanche's own function, scipy, and laws over random matrices."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retain.platform import metrics

NAN = math.nan
# After experience i (row) on experience j (column); row 0 is the untrained network.
R = np.array([[0.1, 0.2, 0.3], [0.9, 0.2, 0.4], [0.7, 0.8, 0.5], [0.4, 0.6, 1.0]])
SIZES = np.array([10, 20, 70])
HAND = {
    "average_accuracy": (0.4 + 0.6 + 1.0) / 3,
    "average_incremental_accuracy": (0.9 + (7 + 16) / 30 + (4 + 12 + 70) / 100) / 3,
    "learning_accuracy": (0.9 + 0.8 + 1.0) / 3,
    "backward_transfer": ((0.4 - 0.9) + (0.6 - 0.8)) / 2,
    "forgetting_max": ((0.9 - 0.4) + (0.8 - 0.6)) / 2,
    "forgetting_max_incl_last": ((0.9 - 0.4) + (0.8 - 0.6)) / 2,
    "forgetting_last": 0.35,
    "forgetting_running": ((0.9 - 0.7) + 0.35) / 2,
    "forward_transfer": ((0.2 - 0.2) + (0.5 - 0.3)) / 2,
}


@st.composite
def matrices(draw: st.DrawFn, least: int = 2) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return a strategy for full matrices of 2..6 experiences (hundredths, so that ties happen)."""
    t = draw(st.integers(least, 6))
    cells = draw(st.lists(st.integers(0, 100), min_size=(t + 1) * t, max_size=(t + 1) * t))
    return np.array(cells, dtype=np.float64).reshape(t + 1, t) / 100


def class_incremental(t: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return a matrix like that of a growing head: NaN above the diagonal."""
    matrix = np.linspace(1, 0.1, (t + 1) * t).reshape(t + 1, t)
    matrix[np.tri(t + 1, t, -1) == 0] = NAN
    return matrix


@pytest.mark.parametrize("name", list(HAND))
def test_by_hand(name: str) -> None:
    assert metrics.summary(R, SIZES)[name] == pytest.approx(HAND[name])


def test_every_metric_of_the_summary_is_tested_by_hand_and_titled() -> None:
    assert list(metrics.summary(R, SIZES)) == list(HAND)
    assert set(HAND) | {"intransigence", "min_accuracy", "worst_case_accuracy"} == set(metrics.TITLES)


def test_max_takes_rows_before_an_experience_was_learned_as_in_the_paper() -> None:
    matrix = R.copy()
    matrix[1, 1] = 0.95  # experience 2 was better before it was trained than when it was
    assert metrics.forgetting_max(matrix) == pytest.approx(((0.9 - 0.4) + (0.95 - 0.6)) / 2)
    assert metrics.forgetting_last(matrix) == pytest.approx(0.35)


def test_max_does_not_take_the_untrained_network() -> None:
    matrix = R.copy()
    matrix[0] = 1.0
    assert metrics.forgetting_max(matrix) == pytest.approx(0.35)


def test_max_over_past_is_negative_where_the_end_is_best_and_with_the_last_it_is_zero() -> None:
    matrix = np.array([[0.0, 0.0], [0.5, 0.0], [0.8, 1.0]])
    assert metrics.forgetting_max(matrix) == pytest.approx(-0.3)
    assert metrics.forgetting_max_incl_last(matrix) == 0.0


def test_cells_before_an_experience_existed_do_not_matter_for_forgetting() -> None:
    values = metrics.summary(class_incremental(3), SIZES)
    assert [name for name, value in values.items() if math.isnan(value)] == ["forward_transfer"]
    full = np.nan_to_num(class_incremental(3), nan=0.0)
    assert values["forgetting_max"] == metrics.forgetting_max(full)


def test_joint_training_has_only_the_average_accuracy() -> None:
    matrix = np.full((4, 3), NAN)
    matrix[-1] = [0.9, 0.6, 0.3]
    values = metrics.summary(matrix, SIZES)
    assert values.pop("average_accuracy") == pytest.approx(0.6)
    assert all(math.isnan(value) for value in values.values())


@pytest.mark.parametrize(
    ("row", "column", "still_defined"),
    [
        (3, 0, {"learning_accuracy", "forward_transfer"}),
        (2, 1, {"average_accuracy", "forward_transfer"}),
        (2, 0, {"average_accuracy", "learning_accuracy", "backward_transfer", "forgetting_last", "forward_transfer"}),
        (0, 1, set(HAND) - {"forward_transfer"}),
        (0, 0, set(HAND)),
    ],
)
def test_metrics_that_need_a_missing_cell_are_undefined(row: int, column: int, still_defined: set[str]) -> None:
    matrix = R.copy()
    matrix[row, column] = NAN
    values = metrics.summary(matrix, SIZES)
    assert {name for name, value in values.items() if not math.isnan(value)} == still_defined


def test_one_experience_has_accuracies_and_nothing_to_forget() -> None:
    values = metrics.summary([[0.1], [0.7]], [5])
    defined = {name: value for name, value in values.items() if not math.isnan(value)}
    names = ["average_accuracy", "average_incremental_accuracy", "learning_accuracy"]
    assert defined == pytest.approx(dict.fromkeys(names, 0.7))


def test_curves_by_hand() -> None:
    np.testing.assert_allclose(metrics.running_average_accuracy(R), [0.9, 0.75, 2 / 3])
    np.testing.assert_allclose(metrics.running_average_accuracy(R, SIZES), [0.9, 23 / 30, 0.86])
    np.testing.assert_allclose(metrics.forgetting_curve(R), [NAN, 0.2, 0.35])
    np.testing.assert_allclose(metrics.forgetting_curve(R, include_now=True), [NAN, 0.2, 0.35])


def test_running_average_of_an_unfinished_trial_ends_at_its_last_experience() -> None:
    matrix = R.copy()
    matrix[3] = NAN
    np.testing.assert_allclose(metrics.running_average_accuracy(matrix), [0.9, 0.75, NAN])


def test_intransigence_takes_the_diagonal_of_cumulative() -> None:
    cumulative = np.full((4, 3), NAN)
    cumulative[[1, 2, 3], [0, 1, 2]] = [1.0, 0.9, 0.8]
    assert metrics.intransigence(R, cumulative) == pytest.approx((0.1 + 0.1 - 0.2) / 3)
    cumulative[2, 1] = NAN
    assert math.isnan(metrics.intransigence(R, cumulative))
    with pytest.raises(ValueError, match=r"cumulative.shape=\(3, 2\)"):
        metrics.intransigence(R, np.zeros((3, 2)))


def test_stability_gap_by_hand() -> None:
    assert metrics.min_accuracy([0.2, 0.6]) == pytest.approx(0.4)
    assert metrics.worst_case_accuracy(0.9, [0.2, 0.6]) == pytest.approx(0.9 / 3 + (1 - 1 / 3) * 0.4)
    assert metrics.worst_case_accuracy(0.9, []) == 0.9
    assert math.isnan(metrics.min_accuracy([]))
    assert math.isnan(metrics.worst_case_accuracy(0.9, [0.2, NAN]))


@pytest.mark.parametrize("matrix", [np.zeros((3, 3)), np.zeros(3), np.zeros((1, 0)), np.zeros((3, 2, 2))])
def test_a_wrong_shape_is_named(matrix: np.ndarray[Any, np.dtype[np.float64]]) -> None:
    with pytest.raises(ValueError, match=r"matrix.shape=.*must be \(T \+ 1, T\)"):
        metrics.average_accuracy(matrix)


@pytest.mark.parametrize("value", [1.0000001, 50.0, 100, -0.01, np.inf, -np.inf])
@pytest.mark.parametrize(
    "metric",
    [
        lambda value: metrics.summary([[0.5, NAN], [value, 0.5], [0.5, 0.5]], [1, 1]),
        lambda value: metrics.average_accuracy([[NAN], [value]]),
        lambda value: metrics.running_average_accuracy([[value], [0.5]]),
        lambda value: metrics.forgetting_max([[0, 0], [1, value], [1, 1]]),
        lambda value: metrics.intransigence([[0], [1]], [[0], [value]]),
        lambda value: metrics.min_accuracy([0.5, value]),
        lambda value: metrics.worst_case_accuracy(value, [0.5]),
        lambda value: metrics.worst_case_accuracy(0.5, [value]),
    ],
)
def test_what_is_no_accuracy_is_refused(metric: Callable[[float], Any], value: float) -> None:
    """Percentages above all; a missing cell is NaN, and stays allowed."""
    with pytest.raises(ValueError, match=r"must be in \[0, 1\], or NaN where missing") as refused:
        metric(value)
    assert ("divide percentages by 100" in str(refused.value)) == (value > 1)
    assert metric(1.0) is not None and metric(0) is not None


@pytest.mark.parametrize("level", [0, 1, 95, -0.5, NAN])
def test_a_level_in_percent_is_refused(level: float) -> None:
    with pytest.raises(ValueError, match=r"must be in \(0, 1\)"):
        metrics.interval([0.1, 0.2], level)


@pytest.mark.parametrize("sizes", [[1, 2], [1, 2, 0], [1, 2, NAN], [1, 2, np.inf]])
def test_wrong_sizes_are_named(sizes: list[float]) -> None:
    with pytest.raises(ValueError, match=r"sizes=.*must be 3 positive numbers"):
        metrics.summary(R, sizes)


@given(matrices())
def test_laws_over_random_matrices(matrix: np.ndarray[Any, np.dtype[np.float64]]) -> None:
    before = matrix.copy()
    values = metrics.summary(matrix, np.ones(matrix.shape[1]))
    np.testing.assert_array_equal(matrix, before)
    assert values["forgetting_last"] == -values["backward_transfer"]
    assert values["forgetting_max_incl_last"] >= max(0.0, values["forgetting_max"])
    assert values["forgetting_max"] >= values["forgetting_last"] - 1e-12
    # a second formula of ACC: what was learned plus what backward transfer did to it
    t = matrix.shape[1]
    learned = values["learning_accuracy"] + values["backward_transfer"] * (t - 1) / t
    assert values["average_accuracy"] == pytest.approx(learned)
    # with equal sizes the weighted curve equals the plain one
    curve = metrics.running_average_accuracy(matrix)
    np.testing.assert_allclose(metrics.running_average_accuracy(matrix, np.full(t, 7)), curve)
    assert curve[-1] == pytest.approx(values["average_accuracy"])
    assert values["average_incremental_accuracy"] == pytest.approx(curve.mean())


@given(matrices(), st.randoms(use_true_random=False))
def test_acc_does_not_care_about_the_order_of_the_columns(matrix: Any, random: Any) -> None:
    order = list(range(matrix.shape[1]))
    random.shuffle(order)
    assert metrics.average_accuracy(matrix[:, order]) == pytest.approx(metrics.average_accuracy(matrix))


@given(matrices())
def test_forgetting_max_by_plain_loops(matrix: np.ndarray[Any, np.dtype[np.float64]]) -> None:
    t = matrix.shape[1]
    loops = [max(matrix[i][j] for i in range(1, t)) - matrix[t][j] for j in range(t - 1)]
    assert metrics.forgetting_max(matrix) == pytest.approx(sum(loops) / (t - 1))


@pytest.fixture(scope="module")
def avalanche_forgetting() -> Any:
    from avalanche.evaluation.functional import forgetting

    return forgetting


def test_forgetting_last_is_what_avalanche_computes(avalanche_forgetting: Any) -> None:
    for seed in range(20):
        matrix = np.random.default_rng(seed).random((6, 5))
        theirs = avalanche_forgetting(matrix[1:])[-1, :-1].mean()
        assert metrics.forgetting_last(matrix) == pytest.approx(theirs)


def test_interval_is_students() -> None:
    from scipy import stats

    values = [0.5, 0.7, 0.9, 0.4]
    mean, half = metrics.interval(values)
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high))
    # by hand: t(0.975, 1) = 12.706, s = 0.1 * sqrt(2), half = 12.706 * s / sqrt(2)
    assert metrics.interval([0.4, 0.6]) == pytest.approx((0.5, 1.2706), abs=1e-4)


def test_interval_of_one_none_and_nan() -> None:
    mean, half = metrics.interval([0.3])
    assert mean == 0.3 and math.isnan(half)
    assert all(math.isnan(value) for value in metrics.interval([]))
    assert all(math.isnan(value) for value in metrics.interval([0.3, NAN]))
