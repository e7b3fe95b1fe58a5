"""Streaming linear discriminant analysis: class means and one covariance for all, kept up to date; a linear classifier on them.

    A = (1 - shrinkage) Sigma + shrinkage I,   w_c = A^-1 mu_c,   s_c(f) = <w_c, f> - <w_c, mu_c> / 2

f: the features, what the head is given; mu_c: mean of class c; Sigma: covariance within the classes, (1/n) sum of
(f - mu_y)(f - mu_y)^T over all n training samples met so far. It is kept as sums (of f, of f f^T), so that it is exactly
that of all samples at once, in whatever order they came; the paper's update from sample to sample multiplies each term by
t / (t + 1) with t all samples so far where n_y / (n_y + 1) would be exact, a difference that vanishes with more samples.
Taken in evaluation mode, without augmentation, when an experience ends; no data are kept. All classes count alike (no priors),
as in the paper. Sums stay as they were while the trunk learns on: freeze it (`freezing`), as the paper does.
Shapes: B batch, n samples, D features, C classes.

Source: Hayes & Kanan 2020 (1909.01520, Deep SLDA). Peers: Avalanche's StreamingLDA: shrinkage_param = shrinkage; the optional
first covariance by OAS on the first classes is left out. scikit-learn's LinearDiscriminantAnalysis with this covariance gives
the same classes where all are equally frequent.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..platform.methods.feature_classifier import FeatureClassifier, add_statistics, class_means, class_sums

NEUTRAL: dict[str, Any] | None = None
NEUTRAL_REASON = "it classifies in the place of the head: no setting leaves the head's predictions"
ROLES = ("predictions",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Streaming LDA: classify by class means and a shared covariance of the features in the place of the head.

    shrinkage: how much of the covariance is replaced by the identity, in (0, 1].
    """

    shrinkage: float = 1e-4

    def __post_init__(self) -> None:
        shrinkage = self.shrinkage
        if not 0 < shrinkage <= 1:
            raise ValueError(f"{shrinkage=}: must be in (0, 1]")


def within(counts: Tensor, means: Tensor, products: Tensor) -> Tensor:
    """Sigma (D, D) from the number of samples (C,) and the mean (C, D) of each class and the sum of f f^T (D, D)."""
    between = (means * counts.unsqueeze(1)).T @ means
    return (products - between) / counts.sum()


def linear(means: Tensor, covariance: Tensor, shrinkage: float) -> tuple[Tensor, Tensor]:
    """Weights (D, C) and biases (C,) of this file's formula."""
    identity = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    weights = torch.linalg.solve((1 - shrinkage) * covariance + shrinkage * identity, means.T)
    return weights, -(weights * means.T).sum(0) / 2


class SLDAPlugin(FeatureClassifier):
    """Keeps the number of samples and the sum of features of each class, and the sum of f f^T over all."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config

    def update(self, features: Tensor, y: Tensor, experience: int) -> None:
        """Add to the sums."""
        new = class_sums(features, y) | {"products": features.T @ features}
        self.statistics = add_statistics(self.statistics, new)

    def classifier(self) -> Callable[[Tensor], Tensor]:
        """Solve for the weights."""
        statistics = self.statistics
        means = class_means(statistics)
        covariance = within(statistics["counts"], means, statistics["products"])
        weights, biases = linear(means, covariance, self.config.shrinkage)
        return lambda features: features.double() @ weights + biases


def build(config: Config, seed: int) -> SLDAPlugin:
    """The plugin; it draws no random numbers."""
    return SLDAPlugin(config)
