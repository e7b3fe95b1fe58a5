"""Ridge regression from sums or samples.

Shapes: n samples, M features, C classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def ridge_weights(gram: Tensor, products: Tensor, ridge: float | Tensor) -> Tensor:
    """Return the weights (M, C) = (gram (M, M) + ridge I)^-1 products (M, C)."""
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    weights: Tensor = torch.linalg.solve(gram + ridge * identity, products)
    return weights


def held_out_errors(train: tuple[Tensor, Tensor], held: tuple[Tensor, Tensor], ridges: Sequence[float]) -> Tensor:
    """Return the mean squared errors (len(ridges),) of the ridge solutions on held-out samples.

    All ridges share one eigendecomposition, of the smaller of h^T h and h h^T.

    Args:
        train: h (n, M) and one-hot labels y (n, C) of the samples that the solutions are computed from.
        held: the same for the held-out samples.
        ridges: the ridges to compare.
    """
    (h, y), (other_h, other_y) = train, held
    dual = len(h) < h.shape[1]
    values, vectors = torch.linalg.eigh(h @ h.T if dual else h.T @ h)
    left = (other_h @ h.T if dual else other_h) @ vectors
    right = vectors.T @ (y if dual else h.T @ y)
    scales = [values.clamp(min=0) + ridge for ridge in ridges]
    return torch.stack([((left / scale) @ right - other_y).square().mean() for scale in scales])
