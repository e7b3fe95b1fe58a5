"""Correction of a classifier's bias towards new classes, by two numbers fitted on held-out samples.

Shapes: n held-out samples, B batch, C outputs.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from .positions import positions_on


def correct_logits(logits: Tensor, classes: Sequence[int], alpha: Tensor | float, beta: Tensor | float) -> Tensor:
    """Return logits (B, C) in which those of `classes` are scaled by `alpha` and shifted by `beta`."""
    columns = positions_on(logits.device, classes)
    return logits.index_copy(1, columns, alpha * logits[:, columns] + beta)


def fit_correction(logits: Tensor, y: Tensor, classes: Sequence[int]) -> tuple[float, float]:
    """Return alpha and beta for which the `correct_logits` logits of held-out samples fit their labels best.

    They are the minimum of  cross-entropy + 0.05 (alpha - 1)^2 + 0.05 beta^2,  a convex problem, solved to convergence.
    Without the penalty there is no minimum if all samples are separated without an error.

    Args:
        logits: (n, C), of held-out samples.
        y: their labels (n,).
        classes: the classes whose logits are corrected.
    """
    logits = logits.double()
    numbers = torch.tensor([1.0, 0.0], dtype=torch.float64, device=logits.device, requires_grad=True)
    solver = torch.optim.LBFGS([numbers], max_iter=100, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        penalty = 0.05 * ((numbers[0] - 1).square() + numbers[1].square())
        value = functional.cross_entropy(correct_logits(logits, classes, numbers[0], numbers[1]), y) + penalty
        value.backward()
        return value

    solver.step(loss)
    alpha, beta = numbers.tolist()
    return alpha, beta
