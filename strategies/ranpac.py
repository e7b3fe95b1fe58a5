"""RanPAC: a ridge classifier on a random, nonlinear projection of the features, solved anew from sums after each experience.

    h = ReLU(f W),   G = sum h h^T,   Q = sum h y^T,   s(f) = h^T (G + ridge I)^-1 Q

f: the features, what the head is given; W (D, M): random, N(0, 1), the same throughout; y: one-hot labels; the sums go over all
training samples met so far, so they are those of all samples at once, in whatever order the experiences came. The ridge, where
it is not set, is the power of ten from 1e-8 to 1e8 with the least squared error on a fifth of the experience's own training
data, solved from the other four, as in the paper (the last fifth there, a drawn one here). Taken in evaluation mode, without
augmentation, when an experience ends; no data are kept. The sums grow stale while the trunk learns on: the paper takes a
pretrained one, adapts it in the first experience at most and freezes it: `freezing` with from_experience 0 or 1.
Shapes: B batch, n samples, D features, M projected features, C classes.

Source: McDonnell et al. 2023 (2307.02251). Peers: the authors' code, LAMDA-PILOT and Mammoth: M = projection, 10,000 there (an
M x M matrix of 800 MB in a checkpoint; a solve of O(M^3) after each experience); there the ridge is always searched.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..platform.methods.feature_classifier import FeatureClassifier, add_statistics
from ..platform.seeding import generator

NEUTRAL: dict[str, Any] | None = None
NEUTRAL_REASON = "it classifies in the place of the head: no setting leaves the head's predictions"
ROLES = ("predictions",)
RIDGES = tuple(10.0**power for power in range(-8, 9))


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """RanPAC: classify by ridge regression on randomly projected features in the place of the head.

    projection: M, how many random features, >= 1; the paper has 10,000.
    ridge: > 0; null: chosen after each experience on a fifth of its training data.
    """

    projection: int = 1000
    ridge: float | None = None

    def __post_init__(self) -> None:
        projection, ridge = self.projection, self.ridge
        if projection < 1:
            raise ValueError(f"{projection=}: must be >= 1")
        if ridge is not None and not 0 < ridge < float("inf"):
            raise ValueError(f"{ridge=}: must be > 0 and finite, or null to choose it on held-out training data")


def solved(gram: Tensor, products: Tensor, ridge: float | Tensor) -> Tensor:
    """Weights (M, C) = (gram (M, M) + ridge I)^-1 products (M, C)."""
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    weights: Tensor = torch.linalg.solve(gram + ridge * identity, products)
    return weights


def held_out_errors(train: tuple[Tensor, Tensor], held: tuple[Tensor, Tensor], ridges: Sequence[float]) -> Tensor:
    """Mean squared errors (len(ridges),) on held-out samples of the ridge solutions for the others; each (h (n, M), y (n, C)).

    All ridges from one eigendecomposition, of the smaller of h^T h and h h^T.
    """
    (h, y), (other_h, other_y) = train, held
    dual = len(h) < h.shape[1]
    values, vectors = torch.linalg.eigh(h @ h.T if dual else h.T @ h)
    left = (other_h @ h.T if dual else other_h) @ vectors
    right = vectors.T @ (y if dual else h.T @ y)
    scales = [values.clamp(min=0) + ridge for ridge in ridges]
    return torch.stack([((left / scale) @ right - other_y).square().mean() for scale in scales])


class RanPACPlugin(FeatureClassifier):
    """Keeps G, the transposed Q, the ridge and the number of samples of each class."""

    def __init__(self, config: Config, seed: int) -> None:
        super().__init__()
        self.config, self.seed = config, seed
        self._weights: Tensor | None = None  # W, made of the seed when first needed

    def project(self, features: Tensor) -> Tensor:
        """Features (n, D) -> h (n, M) float64."""
        if self._weights is None:
            draw = generator(self.seed, "ranpac projection")
            weights = torch.randn(features.shape[1], self.config.projection, generator=draw)
            self._weights = weights.to(features.device, torch.float64)
        return (features.double() @ self._weights).relu()

    def update(self, features: Tensor, y: Tensor, experience: int) -> None:
        """Add to the sums and choose the ridge."""
        h, one_hot = self.project(features), torch.nn.functional.one_hot(y).double()
        new = {"counts": one_hot.sum(0), "products": one_hot.T @ h, "gram": h.T @ h}
        ridge = self.config.ridge or self._chosen(h, one_hot, experience)
        self.statistics = add_statistics(self.statistics, new) | {"ridge": h.new_tensor(ridge)}

    def _chosen(self, h: Tensor, y: Tensor, experience: int) -> float:
        """The ridge with the least error on a fifth of the samples."""
        draw = generator(self.seed, "ranpac held out", experience)
        order = torch.randperm(len(h), generator=draw).to(h.device)
        train, held = order.tensor_split([-(-4 * len(h) // 5)])
        if not len(held):  # nothing to choose it by
            return 1.0
        errors = held_out_errors((h[train], y[train]), (h[held], y[held]), RIDGES)
        return RIDGES[int(errors.argmin())]

    def classifier(self) -> Callable[[Tensor], Tensor]:
        """Solve for the weights."""
        statistics = self.statistics
        weights = solved(statistics["gram"], statistics["products"].T, statistics["ridge"])
        return lambda features: self.project(features) @ weights


def build(config: Config, seed: int) -> RanPACPlugin:
    """The plugin; `seed` draws the projection and what is held out."""
    return RanPACPlugin(config, seed)
