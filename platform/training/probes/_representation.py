"""Features of a network's layers, and measures of them: similarity, effective rank, a linear classifier.

Shapes: n samples, D and E features of two layers, C classes.
"""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from ...models.activation_capture import ActivationCapture

_MAP_SIDE = 4  # maps are averaged to at most this many cells a side


def layer_features(model: nn.Module, layers: Sequence[str], batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """Return the features of each layer for the samples, (n, D) float64, from hooks that are removed afterwards.

    Maps (n, C, H, W) are averaged to at most 4 x 4 cells and flattened. Sequences (n, length, D) are averaged over their length.
    If a layer runs several times in a pass, its last output counts; a layer that never runs is left out.
    """
    outputs: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    capture = ActivationCapture(layers, transform=_flatten)
    with capture.attached(model):
        for x in batches:
            model(x)
            for layer, output in capture.outputs.items():
                outputs[layer].append(output)
            capture.outputs.clear()
    return {layer: torch.cat(parts) for layer, parts in outputs.items() if parts}


def _flatten(output: Tensor) -> Tensor:
    if output.ndim == 4:
        height, width = (min(side, _MAP_SIDE) for side in output.shape[2:])
        output = nn.functional.adaptive_avg_pool2d(output, (height, width))
    elif output.ndim == 3:
        output = output.mean(1)
    return output.detach().flatten(1).double()


def gram(features: Tensor) -> Tensor:
    """Return the inner products (n, n) of centred features (n, D)."""
    centred = features - features.mean(0)
    return centred @ centred.T


def linear_cka(first: Tensor, second: Tensor) -> float:
    """Return the similarity in [0, 1] of two representations of the same samples, each given by its `gram` (n, n).

    ||Y'X||^2 / (||X'X|| ||Y'Y||) with centred X (n, D), Y (n, E) and Frobenius norms; NaN if one is constant. Kornblith et al.
    2019 (1905.00414).
    """
    return float((first * second).sum() / (first.norm() * second.norm()))


def effective_rank(features: Tensor) -> float:
    """Return the exp of the entropy of the singular values of (n, D), as shares of their sum: k for k equal ones.

    NaN if all are 0, or if a feature is not finite (a network that diverged). Roy & Vetterli 2007.
    """
    if not bool(features.isfinite().all()):
        return math.nan
    values = torch.linalg.svdvals(features)
    shares = values / values.sum()
    return float(torch.exp(-torch.special.xlogy(shares, shares).sum()))


def linear_probe(train: Tensor, y: Tensor, test: Tensor, penalty: float) -> Tensor:
    """Return the classes (m,) that a ridge classifier predicts for test features (m, D).

    It has one target of -1 and 1 per class. Features are standardised, the intercept is not penalised, and the solution has a
    closed form.

    Args:
        train: features (n, D) to fit.
        y: labels (n,) of `train`.
        test: features (m, D).
        penalty: factor of the squared weights, in units of the mean squared norm of a sample.
    """
    mean, deviation = train.mean(0), train.std(0, correction=0)
    scale = torch.where(deviation > 0, deviation, torch.ones_like(deviation))
    known = (train - mean) / scale
    classes = y.unique()
    signs = 2.0 * (y.unsqueeze(1) == classes).to(known.dtype) - 1.0
    ridge = penalty * known.square().sum(1).mean().clamp(min=1e-12)
    if known.shape[1] < len(y):
        weights = _solve(known.T @ known, ridge, known.T @ (signs - signs.mean(0)))
    else:  # the same weights, from the smaller system
        weights = known.T @ _solve(known @ known.T, ridge, signs - signs.mean(0))
    scores = ((test - mean) / scale) @ weights + signs.mean(0)
    predicted: Tensor = classes[scores.argmax(1)]
    return predicted


def _solve(products: Tensor, ridge: Tensor, right: Tensor) -> Tensor:
    """The solution of (products + ridge I) w = right, for positive definite products."""
    factor = torch.linalg.cholesky(
        products + ridge * torch.eye(len(products), dtype=products.dtype, device=products.device)
    )
    solution: Tensor = torch.cholesky_solve(right, factor)
    return solution
