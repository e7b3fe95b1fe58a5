"""Continual-learning metrics of an accuracy matrix: pure functions on arrays that never change their arguments.

Shapes: T experiences. `matrix` R is (T + 1, T): row 0 is the untrained network, row i the network after experience i,
column j - 1 the test set of experience j. Accuracies are in [0, 1]. `sizes` n is (T,): test samples of each experience.
The validation matrix has the accuracies on the validation splits instead; its metrics have the same names, after `VALIDATION`.

NaN marks a missing cell: the network had none of its classes yet, or the row was never measured (joint training has the
last row only). A metric that needs a missing cell is NaN, never a mean over fewer cells than its formula names. One
exception, in the `max` of forgetting: rows before an experience was learned count where they exist.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

TITLES: dict[str, str] = {
    "average_accuracy": "Average accuracy (ACC)",
    "average_incremental_accuracy": "Average incremental accuracy (Rebuffi 2017)",
    "learning_accuracy": "Learning accuracy (LA)",
    "backward_transfer": "Backward transfer (BWT)",
    "forgetting_max": "Forgetting, max over past - final (Chaudhry 2018)",
    "forgetting_max_incl_last": "Forgetting, max over past and final - final (PyCIL, Mammoth)",
    "forgetting_last": "Forgetting, just learned - final (= -BWT)",
    "forgetting_running": "Forgetting, running: max over past - now, averaged over training",
    "forward_transfer": "Forward transfer (FWT)",
    "intransigence": "Intransigence (Chaudhry 2018)",
    "min_accuracy": "Minimum accuracy (min-ACC)",
    "worst_case_accuracy": "Worst-case accuracy (WC-ACC)",
}
# Which way is better, for the metrics that `summary` returns.
DIRECTIONS: dict[str, Literal["maximize", "minimize"]] = {
    "average_accuracy": "maximize",
    "average_incremental_accuracy": "maximize",
    "learning_accuracy": "maximize",
    "backward_transfer": "maximize",
    "forgetting_max": "minimize",
    "forgetting_max_incl_last": "minimize",
    "forgetting_last": "minimize",
    "forgetting_running": "minimize",
    "forward_transfer": "maximize",
}

VALIDATION = "validation."  # before the name of a metric of the validation matrix


def validate_matrix(matrix: ArrayLike) -> Array:
    """Return `matrix` as float64 (T + 1, T); raise ValueError for another shape, or for a cell that is no accuracy."""
    array = np.asarray(matrix, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] < 1 or array.shape[0] != array.shape[1] + 1:
        raise ValueError(f"matrix.shape={array.shape}: must be (T + 1, T), row 0 for the untrained network")
    return _check_accuracies(array, "matrix")


def _check_accuracies(array: Array, name: str) -> Array:
    """Return `array` unchanged; raise ValueError unless all of it is in [0, 1], or NaN for a missing cell."""
    wrong = array[(array < 0) | (array > 1)]
    if wrong.size:
        hint = "; divide percentages by 100" if wrong.max() > 1 else ""
        raise ValueError(f"{name}: has {float(wrong[0])}; accuracies must be in [0, 1], or NaN where missing{hint}")
    return array


def validate_sizes(sizes: ArrayLike, num_experiences: int) -> Array:
    """Return `sizes` as float64 (T,); raise ValueError unless they are T positive, finite numbers."""
    array = np.asarray(sizes, dtype=np.float64)
    if array.shape != (num_experiences,) or not bool(((array > 0) & np.isfinite(array)).all()):
        raise ValueError(f"sizes={array.tolist()}: must be {num_experiences} positive numbers, one per experience")
    return array


def _mean(values: Array) -> float:
    return float(values.mean()) if values.size else math.nan


def average_accuracy(matrix: ArrayLike) -> float:
    """Return ACC = mean_{j=1..T} R[T, j]; in [0, 1].

    Source: Lopez-Paz and Ranzato 2017, Gradient Episodic Memory (1706.08840).
    """
    return _mean(validate_matrix(matrix)[-1])


def running_average_accuracy(matrix: ArrayLike, sizes: ArrayLike | None = None) -> Array:
    """Return A_i = sum_{j<=i} n_j R[i, j] / sum_{j<=i} n_j for i = 1..T: (T,), the accuracy on the experiences seen so far.

    Without `sizes` every experience has the same weight (Lopez-Paz and Ranzato's ACC after each experience). With them
    every sample has (the incremental accuracy of Rebuffi 2017, iCaRL, 1611.07725). NaN where a cell of j <= i is
    missing.
    """
    array = validate_matrix(matrix)
    num_experiences = array.shape[1]
    weights = np.ones(num_experiences) if sizes is None else validate_sizes(sizes, num_experiences)
    rows = range(1, num_experiences + 1)
    return np.array([array[i, :i] @ weights[:i] / weights[:i].sum() for i in rows])


def average_incremental_accuracy(matrix: ArrayLike, sizes: ArrayLike) -> float:
    """Return mean_{i=1..T} A_i, A_i = sum_{j<=i} n_j R[i, j] / sum_{j<=i} n_j; in [0, 1].

    Source: Rebuffi 2017, iCaRL (1611.07725): accuracy over all test samples seen so far, averaged over training.
    """
    return _mean(running_average_accuracy(matrix, sizes))


def learning_accuracy(matrix: ArrayLike) -> float:
    """Return LA = mean_{j=1..T} R[j, j], the accuracy on each experience right after it was learned; in [0, 1].

    Source: Riemer 2019, Meta-Experience Replay (1810.11910).
    """
    return _mean(np.diagonal(validate_matrix(matrix)[1:]))


def backward_transfer(matrix: ArrayLike) -> float:
    """Return BWT = mean_{j=1..T-1} (R[T, j] - R[j, j]); in [-1, 1], NaN for T = 1.

    Source: Lopez-Paz and Ranzato 2017 (1706.08840). Avalanche's stream forgetting is -BWT.
    """
    array = validate_matrix(matrix)
    return _mean((array[-1] - np.diagonal(array[1:]))[:-1])


def forgetting_curve(matrix: ArrayLike, *, include_now: bool = False) -> Array:
    """Return F_k = mean_{j<k} (max_{1<=i<k} R[i, j] - R[k, j]) for k = 1..T: (T,), the first NaN (nothing to forget yet).

    With `include_now` the maximum includes i = k, and F_k is never negative. Rows before j was learned are candidates
    (Chaudhry 2018, 1801.10112) where they exist. A missing cell from row j on makes F_k NaN.
    """
    array = validate_matrix(matrix)
    return np.array(
        [math.nan, *_forgetting(array, range(2, array.shape[1] + 1), include_now=include_now)], dtype=np.float64
    )


def _forgetting(array: Array, experiences: Sequence[int], *, include_now: bool = False) -> list[float]:
    """Return F_k of `forgetting_curve` for some k > 1."""
    num_experiences = array.shape[1]
    unlearned = np.tri(num_experiences + 1, num_experiences, -1) == 0  # [i, j - 1] is True where i < j
    best = np.maximum.accumulate(np.where(unlearned & np.isnan(array), -np.inf, array)[1:])  # row i - 1: of rows 1..i
    rows = ((k, best[k - 1 if include_now else k - 2] - array[k]) for k in experiences)
    return [float(row[: k - 1].mean()) for k, row in rows]


def forgetting_max(matrix: ArrayLike) -> float:
    """Return mean_{j=1..T-1} (max_{1<=i<T} R[i, j] - R[T, j]); in [-1, 1], negative where the end is best; NaN for T = 1.

    Source: Chaudhry 2018, Riemannian Walk (1801.10112). Rows before j was learned are included, as in the paper.
    """
    return _final_forgetting(validate_matrix(matrix))


def forgetting_max_incl_last(matrix: ArrayLike) -> float:
    """Return mean_{j=1..T-1} (max_{1<=i<=T} R[i, j] - R[T, j]); in [0, 1], NaN for T = 1.

    Source: the variant that PyCIL and Mammoth compute; at least as large as `forgetting_max`.
    """
    return _final_forgetting(validate_matrix(matrix), include_now=True)


def _final_forgetting(array: Array, *, include_now: bool = False) -> float:
    """Return F_T of `forgetting_curve`; NaN for T = 1."""
    num_experiences = array.shape[1]
    return _forgetting(array, [num_experiences], include_now=include_now)[0] if num_experiences > 1 else math.nan


def forgetting_last(matrix: ArrayLike) -> float:
    """Return mean_{j=1..T-1} (R[j, j] - R[T, j]) = -BWT; in [-1, 1], NaN for T = 1.

    Source: minus the BWT of Lopez-Paz and Ranzato 2017. Avalanche reports this as forgetting.
    """
    return -backward_transfer(matrix)


def forgetting_running(matrix: ArrayLike) -> float:
    """Return mean_{k=2..T} F_k, F_k = mean_{j<k} (max_{1<=i<k} R[i, j] - R[k, j]); in [-1, 1], NaN for T = 1.

    Source: the F_k of Chaudhry 2018 after every experience, averaged over training as Rebuffi 2017 does with accuracy.
    """
    return _mean(forgetting_curve(matrix)[1:])


def forward_transfer(matrix: ArrayLike) -> float:
    """Return FWT = mean_{j=2..T} (R[j-1, j] - R[0, j]); in [-1, 1], NaN for T = 1 and where the head lacks future classes.

    Source: Lopez-Paz and Ranzato 2017 (1706.08840); row 0 is their b, the network before training.
    """
    array = validate_matrix(matrix)
    return _mean((np.diagonal(array) - array[0])[1:])


def intransigence(matrix: ArrayLike, cumulative: ArrayLike) -> float:
    """Return mean_{j=1..T} (C[j, j] - R[j, j]); in [-1, 1]: how much worse a new experience is learned than with all data.

    `cumulative` C is the (T + 1, T) matrix of a network trained on experiences 1..j together before row j.
    Source: Chaudhry 2018 (1801.10112).

    Raises:
        ValueError: the matrices differ in shape.
    """
    sequential, joint = validate_matrix(matrix), validate_matrix(cumulative)
    if sequential.shape != joint.shape:
        raise ValueError(f"cumulative.shape={joint.shape}: must be that of the matrix, {sequential.shape}")
    return _mean(np.diagonal(joint[1:]) - np.diagonal(sequential[1:]))


def min_accuracy(minima: ArrayLike) -> float:
    """Return min-ACC_k = mean_{j<k} min_n acc_j(n); in [0, 1], NaN for k = 1.

    `minima` (k - 1,): the lowest accuracy on experience j in any iteration n since j was learned.
    Source: De Lange 2023, the stability gap (2205.13452).
    """
    return _mean(_check_accuracies(np.asarray(minima, dtype=np.float64), "minima"))


def worst_case_accuracy(accuracy: float, minima: ArrayLike) -> float:
    """Return WC-ACC_k = acc_k / k + (1 - 1/k) min-ACC_k, k = len(minima) + 1; in [0, 1].

    `accuracy` acc_k is the current accuracy on the newest experience; `minima` (k - 1,) as for `min_accuracy`. For k = 1
    the result is `accuracy`.
    Source: De Lange 2023, the stability gap (2205.13452).
    """
    lowest = np.asarray(minima, dtype=np.float64)
    return _mean(
        _check_accuracies(np.append(lowest, accuracy), "accuracy and minima")
    )  # the same weights: 1/k for each of the k experiences


def summary(matrix: ArrayLike, sizes: ArrayLike) -> dict[str, float]:
    """Return every metric of one matrix by name, in the order of `TITLES`; NaN where a metric is undefined.

    Raises:
        ValueError: the matrix is not (T + 1, T), an accuracy is outside [0, 1], or the sizes are not T positive numbers.
    """
    return {
        "average_accuracy": average_accuracy(matrix),
        "average_incremental_accuracy": average_incremental_accuracy(matrix, sizes),
        "learning_accuracy": learning_accuracy(matrix),
        "backward_transfer": backward_transfer(matrix),
        "forgetting_max": forgetting_max(matrix),
        "forgetting_max_incl_last": forgetting_max_incl_last(matrix),
        "forgetting_last": forgetting_last(matrix),
        "forgetting_running": forgetting_running(matrix),
        "forward_transfer": forward_transfer(matrix),
    }


def validation_summary(matrix: ArrayLike, sizes: ArrayLike) -> dict[str, float]:
    """Return `summary` of a validation matrix. `sizes` (T,): validation samples of each experience, 0 where it has none.

    An experience without samples has missing cells only, so the metrics that need them are NaN.

    Raises:
        ValueError: as for `summary`, or such an experience has an accuracy.
    """
    return summary(matrix, validation_weights(matrix, sizes))


def validation_weights(matrix: ArrayLike, sizes: ArrayLike) -> Array:
    """Return the sizes (T,) of the validation splits as weights: 1 for an empty one, whose cells are NaN with any weight.

    Raises:
        ValueError: the matrix is not (T + 1, T), there are not T sizes, or an experience without samples has an accuracy.
    """
    array, counts = validate_matrix(matrix), np.asarray(sizes, dtype=np.float64)
    weights = validate_sizes(np.where(counts == 0, 1, counts), array.shape[1])
    if not np.isnan(array[:, counts == 0]).all():
        raise ValueError(f"sizes={counts.tolist()}: an experience without samples has an accuracy")
    return weights


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Return (mean, half width of the Student t interval) over seeds.

    The half width of a single value is NaN; without values both are. A NaN among the values makes both NaN: no seed is
    dropped silently.

    Raises:
        ValueError: `level` is not in (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level}: must be in (0, 1), such as 0.95")
    array = np.asarray(values, dtype=np.float64)
    if array.size < 2:
        return _mean(array), math.nan
    # scipy.stats would cost the command line half a second more than scipy.special
    from scipy.special import stdtrit

    quantile = float(stdtrit(array.size - 1, (1 + level) / 2))
    return _mean(array), quantile * float(array.std(ddof=1)) / math.sqrt(array.size)
