"""FeCAM: assign a sample to the class whose mean is nearest in the Mahalanobis distance of that class.

    d_c(f) = (t/|t| - m_c/|m_c|)^T R_c^-1 (t/|t| - m_c/|m_c|),   t = sign(f) |f|^tukey   (0: log)
    S_c = Cov_c + gamma1 V1 I + gamma2 V2 (1 - I),   R_c(i, j) = S_c(i, j) / sqrt(S_c(i, i) S_c(j, j))

f: the features (the head's input). t: Tukey's transformation, which makes them more normal. m_c, Cov_c: mean and covariance
(n - 1) of t over the training samples of class c. V1: mean of the covariance's diagonal. V2: mean of its off-diagonal elements
that are not 0.
The statistics are computed when an experience ends, in evaluation mode and without augmentation. They are exact for a class that
comes again. No samples are stored, but a D x D matrix per class is. The statistics go stale while the trunk keeps learning. The
paper freezes the trunk after the first experience, which is `freezing` with its defaults.
Shapes: B batch, D features, C classes.

Source: Goswami et al. 2023 (2309.14062). The authors' code (and Avalanche's FeCAMClassifier) shrinks twice in a row. That equals
shrinking once with gamma (2 + gamma) where no element is 0: their alpha1 = alpha2 = 1 is our default 3. beta = tukey.
Differences: their m_c is the transformed mean, Avalanche's and ours is the mean of the transformed features. Our sign lets
features below 0 through (MLPs without ReLU, ViTs); theirs give NaN there, and the paper leaves the transformation out (tukey: 1).
They classify by the head's weights in the first experience.
"""

from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional

from ..platform.config.settings import Ge, UnitInterval, settings
from ..platform.methods.feature_classifier import Classify, FeatureClassifier, add_statistics, class_means, class_sums

NEUTRAL = None
NEUTRAL_REASON = "it classifies instead of the head: no setting leaves the head's predictions"
ROLES = ("predictions",)
_MIN_VARIANCE = 1e-8  # for a class of identical samples


@settings
class Config:
    """Classify by each class's Mahalanobis distance instead of by the head (FeCAM); needs a frozen trunk.

    tukey: power of the features, in [0, 1]; 1 leaves them unchanged, 0 is their logarithm (ReLU features above 0 only).
    gamma1, gamma2: shrinkage of a covariance, >= 0, in multiples of the mean of its diagonal and of its off-diagonal elements.
    """

    tukey: UnitInterval = 0.5
    gamma1: Annotated[float, Ge(0)] = 3.0
    gamma2: Annotated[float, Ge(0)] = 3.0


def tukey_transform(features: Tensor, tukey: float) -> Tensor:
    """Return t of this file's formula, elementwise."""
    if tukey == 0:
        return features.clamp(min=1e-12).log()
    return features.sign() * features.abs().pow(tukey)


def shrink(covariance: Tensor, gamma1: float, gamma2: float) -> Tensor:
    """Return S (C, D, D) of this file's formula from covariances (C, D, D)."""
    identity = torch.eye(covariance.shape[1], dtype=covariance.dtype, device=covariance.device)
    off_diagonal = covariance * (1 - identity)
    diagonal_mean = covariance.diagonal(dim1=1, dim2=2).mean(1).clamp(min=_MIN_VARIANCE)
    off_diagonal_mean = off_diagonal.sum((1, 2)) / (off_diagonal != 0).sum((1, 2)).clamp(min=1)
    v1, v2 = diagonal_mean.view(-1, 1, 1), off_diagonal_mean.view(-1, 1, 1)
    return covariance + gamma1 * v1 * identity + gamma2 * v2 * (1 - identity)


def correlation(covariance: Tensor) -> Tensor:
    """Return R (C, D, D) of this file's formula from covariances (C, D, D)."""
    deviation = covariance.diagonal(dim1=1, dim2=2).clamp(min=_MIN_VARIANCE**2).sqrt()
    return covariance / (deviation.unsqueeze(2) * deviation.unsqueeze(1))


def distances(transformed: Tensor, means: Tensor, inverses: Tensor) -> Tensor:
    """Return d (B, C) of this file's formula for transformed features (B, D), means (C, D) and inverses of R (C, D, D)."""
    unit, centres = functional.normalize(transformed), functional.normalize(means)
    differences = [unit - centre for centre in centres]
    return torch.stack([(d @ inverse * d).sum(1) for d, inverse in zip(differences, inverses, strict=True)], 1)


class FeCAMPlugin(FeatureClassifier[Config]):
    """Keeps the number of samples, the sum of t and the sum of t t^T of each class."""

    def update(self, features: Tensor, y: Tensor, experience: int) -> None:
        """Add the samples to the sums."""
        t = tukey_transform(features, self.config.tukey)
        new = class_sums(t, y)
        products = t.new_zeros(*new["sums"].shape, t.shape[1])
        for label in y.unique().tolist():
            products[label] = t[y == label].T @ t[y == label]
        self.statistics = add_statistics(self.statistics, new | {"products": products})

    def classifier(self) -> Classify:
        """Return the classifier; it inverts the matrices of all classes once."""
        config, statistics = self.config, self.statistics
        means, counts = class_means(statistics), statistics["counts"].view(-1, 1, 1)
        scatter = statistics["products"] - counts * means.unsqueeze(2) * means.unsqueeze(1)
        covariance = scatter / (counts - 1).clamp(min=1)
        matrices = correlation(shrink(covariance, config.gamma1, config.gamma2))
        inverses = torch.linalg.pinv(matrices, hermitian=True)
        return lambda features: -distances(tukey_transform(features.double(), config.tukey), means, inverses)
