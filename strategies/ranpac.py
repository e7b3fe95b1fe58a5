"""RanPAC: classify by ridge regression on a random, nonlinear projection of the features, solved from sums after each experience.

    h = ReLU(f W),   G = sum h h^T,   Q = sum h y^T,   s(f) = h^T (G + ridge I)^-1 Q

f: the features (the head's input). W (D, M): random, N(0, 1), never changed. y: one-hot labels. The sums are over all training
samples seen so far, so they equal those of all samples at once, in any order of experiences. If `ridge` is not set, it is the
power of ten from 1e-8 to 1e8 with the least squared error on a fifth of the experience's training data, solved from the other
four, as in the paper (the last fifth there, a random one here). The sums are computed when an experience ends, in evaluation mode
and without augmentation; no samples are stored. The sums go stale while the trunk keeps learning. The paper takes a pretrained
trunk, adapts it in the first experience at most, and freezes it: `freezing` with from_experience 0 or 1.
Shapes: B batch, n samples, D features, M projected features, C classes.

Source: McDonnell et al. 2023 (2307.02251). Peers: in the authors' code, LAMDA-PILOT and Mammoth M = projection is 10,000 (an
M x M matrix of 800 MB in a checkpoint; a solve of O(M^3) after each experience), and the ridge is always searched.
"""

import torch
from torch import Tensor

from ..platform.config.settings import PositiveFloat, PositiveInt, settings
from ..platform.methods.feature_classifier import Classify, FeatureClassifier, add_statistics
from ..platform.methods.ridge_regression import held_out_errors, ridge_weights
from ..platform.seeding import generator

NEUTRAL = None
NEUTRAL_REASON = "it classifies instead of the head: no setting leaves the head's predictions"
ROLES = ("predictions",)
RIDGES = tuple(10.0**power for power in range(-8, 9))


@settings
class Config:
    """Classify by ridge regression on randomly projected features (RanPAC); needs a frozen trunk.

    projection: M, number of random features, >= 1; the paper has 10,000.
    ridge: strength of the ridge, > 0; null: chosen after each experience on a fifth of its training data.
    """

    projection: PositiveInt = 1000
    ridge: PositiveFloat | None = None


class RanPACPlugin(FeatureClassifier[Config]):
    """Keeps G, the transposed Q, the ridge and the number of samples of each class."""

    _weights: Tensor | None = None  # W, sampled from the seed when first needed

    def project(self, features: Tensor) -> Tensor:
        """Return h (n, M) float64 of features (n, D)."""
        if self._weights is None:
            draw = generator(self.seed, "ranpac projection")
            weights = torch.randn(features.shape[1], self.config.projection, generator=draw)
            self._weights = weights.to(features.device, torch.float64)
        return (features.double() @ self._weights).relu()

    def update(self, features: Tensor, y: Tensor, experience: int) -> None:
        """Add the samples to the sums, and choose the ridge."""
        h, one_hot = self.project(features), torch.nn.functional.one_hot(y).double()
        new = {"counts": one_hot.sum(0), "products": one_hot.T @ h, "gram": h.T @ h}
        ridge = self.config.ridge or self._search_ridge(h, one_hot, experience)
        self.statistics = add_statistics(self.statistics, new) | {"ridge": h.new_tensor(ridge)}

    def _search_ridge(self, h: Tensor, y: Tensor, experience: int) -> float:
        """Return the ridge with the least error on a fifth of the samples."""
        draw = generator(self.seed, "ranpac held out", experience)
        order = torch.randperm(len(h), generator=draw).to(h.device)
        train, held = order.tensor_split([-(-4 * len(h) // 5)])
        if not len(held):  # no samples to choose it by
            return 1.0
        errors = held_out_errors((h[train], y[train]), (h[held], y[held]), RIDGES)
        return RIDGES[int(errors.argmin())]

    def classifier(self) -> Classify:
        """Solve for the weights, and return the classifier."""
        statistics = self.statistics
        weights = ridge_weights(statistics["gram"], statistics["products"].T, statistics["ridge"])
        return lambda features: self.project(features) @ weights
