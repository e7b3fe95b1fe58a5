"""What a network's layers give for samples, and numbers on it: similarity, effective rank, a linear classifier.

Shapes: n samples, D and E features of two layers, C classes.
"""

import math
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...models.features import FEATURES, find_head

_PLACES = 4  # a side: maps are averaged to so many places


def layer_features(model: nn.Module, layers: Sequence[str], batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """What each of the layers gives for the samples, (n, D) float64, by forward hooks that are gone afterwards.

    Maps (n, C, H, W) are averaged to at most 4 x 4 places and flattened, sequences (n, length, D) averaged over their length. Of
    a layer that is run several times in a pass it is the last output; one that is never run is left out.
    """
    found: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    now: dict[str, Tensor] = {}  # of the present pass
    modules = dict(model.named_modules())

    def keep(layer: str, module: nn.Module, given: Any, output: Any) -> None:
        now[layer] = _flat(output[0] if isinstance(output, tuple) else output)

    def keep_input(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        now[FEATURES] = _flat(given[0])

    with ExitStack() as stack:
        for layer in layers:
            if layer == FEATURES:
                handle = find_head(model).register_forward_pre_hook(keep_input)
            else:
                handle = modules[layer].register_forward_hook(partial(keep, layer))
            stack.callback(handle.remove)
        for x in batches:
            model(x)
            for layer, output in now.items():
                found[layer].append(output)
            now.clear()
    return {layer: torch.cat(parts) for layer, parts in found.items() if parts}


def _flat(output: Tensor) -> Tensor:
    if output.ndim == 4:
        height, width = (min(side, _PLACES) for side in output.shape[2:])
        output = nn.functional.adaptive_avg_pool2d(output, (height, width))
    elif output.ndim == 3:
        output = output.mean(1)
    return output.detach().flatten(1).double()


def gram(features: Tensor) -> Tensor:
    """Centred features (n, D) -> their inner products (n, n)."""
    centred = features - features.mean(0)
    return centred @ centred.T


def linear_cka(one: Tensor, other: Tensor) -> float:
    """Similarity in [0, 1] of two representations of the same samples, given by their `gram` (n, n) each; NaN for a constant one.

    ||Y'X||^2 / (||X'X|| ||Y'Y||) with centred X (n, D), Y (n, E) and Frobenius norms. Kornblith et al. 2019 (1905.00414).
    """
    return float((one * other).sum() / (one.norm() * other.norm()))


def effective_rank(features: Tensor) -> float:
    """exp of the entropy of the singular values of (n, D), as shares of their sum: k for k equal ones.

    NaN where all are 0, and where a feature is no finite number (a network that diverged). Roy & Vetterli 2007.
    """
    if not bool(features.isfinite().all()):
        return math.nan
    values = torch.linalg.svdvals(features)
    shares = values / values.sum()
    return float(torch.exp(-torch.special.xlogy(shares, shares).sum()))


def linear_probe(train: Tensor, y: Tensor, test: Tensor, penalty: float) -> Tensor:
    """Classes (m,) that a ridge classifier, fitted to features (n, D) with labels y (n,), gives to test features (m, D).

    One column of -1 and 1 for each class; features are standardised, the intercept is free; solved in closed form. `penalty`:
    of the squared weights, in units of the mean squared norm of a sample.
    """
    mean, deviation = train.mean(0), train.std(0, correction=0)
    scale = torch.where(deviation > 0, deviation, torch.ones_like(deviation))
    known = (train - mean) / scale
    classes = y.unique()
    signs = 2.0 * (y.unsqueeze(1) == classes).to(known.dtype) - 1.0
    ridge = penalty * known.square().sum(1).mean().clamp(min=1e-12)
    if known.shape[1] < len(y):
        weights = _solved(known.T @ known, ridge, known.T @ (signs - signs.mean(0)))
    else:  # the same weights, from the smaller system
        weights = known.T @ _solved(known @ known.T, ridge, signs - signs.mean(0))
    scores = ((test - mean) / scale) @ weights + signs.mean(0)
    predicted: Tensor = classes[scores.argmax(1)]
    return predicted


def _solved(products: Tensor, ridge: Tensor, right: Tensor) -> Tensor:
    """The solution of (products + ridge I) w = right, for positive definite products."""
    factor = torch.linalg.cholesky(
        products + ridge * torch.eye(len(products), dtype=products.dtype, device=products.device)
    )
    solution: Tensor = torch.cholesky_solve(right, factor)
    return solution
