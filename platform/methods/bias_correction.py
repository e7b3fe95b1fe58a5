"""The bias of a classifier towards new classes, taken out by two numbers that held-out samples show.

Shapes: n held-out samples, B batch, C outputs.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def corrected(logits: Tensor, classes: Sequence[int], alpha: Tensor | float, beta: Tensor | float) -> Tensor:
    """Logits (B, C) with those of the classes scaled and shifted."""
    columns = torch.as_tensor(classes, dtype=torch.int64, device=logits.device)
    return logits.index_copy(1, columns, alpha * logits[:, columns] + beta)


def fitted(logits: Tensor, y: Tensor, classes: Sequence[int]) -> tuple[float, float]:
    """alpha and beta that make held-out logits (n, C) fit their labels y (n,) best when those of the classes are `corrected`.

    The minimum of  cross-entropy + 0.05 (alpha - 1)^2 + 0.05 beta^2,  a convex problem, to its end; without the penalty there is
    none where the samples are told apart without a mistake.
    """
    logits = logits.double()
    numbers = torch.tensor([1.0, 0.0], dtype=torch.float64, device=logits.device, requires_grad=True)
    solver = torch.optim.LBFGS([numbers], max_iter=100, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        penalty = 0.05 * ((numbers[0] - 1).square() + numbers[1].square())
        value = functional.cross_entropy(corrected(logits, classes, numbers[0], numbers[1]), y) + penalty
        value.backward()
        return value

    solver.step(loss)
    alpha, beta = numbers.tolist()
    return alpha, beta
