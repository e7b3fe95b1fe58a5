"""Streaming LDA: keep class means and one shared covariance of the features, and classify linearly by them.

    A = (1 - shrinkage) Sigma + shrinkage I,   w_c = A^-1 mu_c,   s_c(f) = <w_c, f> - <w_c, mu_c> / 2

f: the features (the head's input). mu_c: mean of class c. Sigma: covariance within the classes, (1/n) sum of
(f - mu_y)(f - mu_y)^T over all n training samples seen so far. It is kept as sums (of f, of f f^T), so it is exactly that of all
samples at once, in any order. The paper's sample-by-sample update multiplies each term by t / (t + 1), with t all samples so far,
where n_y / (n_y + 1) would be exact; the difference vanishes with more samples.
The sums are computed when an experience ends, in evaluation mode and without augmentation; no samples are stored. All classes
have equal weight (no priors), as in the paper. Old sums do not follow the trunk as it learns: freeze it (`freezing`), as the
paper does.
Shapes: B batch, n samples, D features, C classes.

Source: Hayes & Kanan 2020 (1909.01520, Deep SLDA). Peers: Avalanche's StreamingLDA: shrinkage_param = shrinkage; the optional
first covariance by OAS on the first classes is left out. scikit-learn's LinearDiscriminantAnalysis with this covariance predicts
the same classes where all are equally frequent.
"""

from typing import Annotated

import torch
from torch import Tensor

from ..platform.config.settings import Interval, settings
from ..platform.methods.feature_classifier import Classify, FeatureClassifier, add_statistics, class_means, class_sums

NEUTRAL = None
NEUTRAL_REASON = "it classifies instead of the head: no setting leaves the head's predictions"
ROLES = ("predictions",)


@settings
class Config:
    """Classify by class means and a shared covariance of features instead of by the head (SLDA); needs a frozen trunk.

    shrinkage: share of the covariance that is replaced by the identity, in (0, 1].
    """

    shrinkage: Annotated[float, Interval(gt=0, le=1)] = 1e-4


def within_covariance(counts: Tensor, means: Tensor, products: Tensor) -> Tensor:
    """Return Sigma (D, D).

    Args:
        counts: number of samples of each class (C,).
        means: mean of each class (C, D).
        products: sum of f f^T over all samples (D, D).
    """
    between = (means * counts.unsqueeze(1)).T @ means
    return (products - between) / counts.sum()


def linear_classifier(means: Tensor, covariance: Tensor, shrinkage: float) -> tuple[Tensor, Tensor]:
    """Return weights (D, C) and biases (C,) of this file's formula."""
    identity = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    weights = torch.linalg.solve((1 - shrinkage) * covariance + shrinkage * identity, means.T)
    return weights, -(weights * means.T).sum(0) / 2


class SLDAPlugin(FeatureClassifier[Config]):
    """Keeps the number of samples and the sum of features of each class, and the sum of f f^T over all."""

    def update(self, features: Tensor, y: Tensor, experience: int) -> None:
        """Add the samples to the sums."""
        new = class_sums(features, y) | {"products": features.T @ features}
        self.statistics = add_statistics(self.statistics, new)

    def classifier(self) -> Classify:
        """Solve for the weights, and return the classifier."""
        statistics = self.statistics
        means = class_means(statistics)
        covariance = within_covariance(statistics["counts"], means, statistics["products"])
        weights, biases = linear_classifier(means, covariance, self.config.shrinkage)
        return lambda features: features.double() @ weights + biases
