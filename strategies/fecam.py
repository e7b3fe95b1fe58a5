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

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..platform.methods.feature_classifier import FeatureClassifier, add_statistics, class_means, class_sums

NEUTRAL: dict[str, Any] | None = None
NEUTRAL_REASON = "it classifies instead of the head: no setting leaves the head's predictions"
ROLES = ("predictions",)
_MIN_VARIANCE = 1e-8  # for a class of identical samples


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Classify by the Mahalanobis distance to each class, with a covariance per class, instead of by the head (FeCAM).

    tukey: power of the features, in [0, 1]; 1 leaves them unchanged, 0 is their logarithm (ReLU features above 0 only).
    gamma1, gamma2: shrinkage of a covariance, >= 0, in multiples of the mean of its diagonal and of its off-diagonal elements.
    """

    tukey: float = 0.5
    gamma1: float = 3.0
    gamma2: float = 3.0

    def __post_init__(self) -> None:
        tukey, gamma1, gamma2 = self.tukey, self.gamma1, self.gamma2
        if not 0 <= tukey <= 1:
            raise ValueError(f"{tukey=}: must be in [0, 1]")
        if not gamma1 >= 0:
            raise ValueError(f"{gamma1=}: must be >= 0")
        if not gamma2 >= 0:
            raise ValueError(f"{gamma2=}: must be >= 0")


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
    return (
        covariance
        + gamma1 * diagonal_mean.view(-1, 1, 1) * identity
        + gamma2 * off_diagonal_mean.view(-1, 1, 1) * (1 - identity)
    )


def correlation(covariance: Tensor) -> Tensor:
    """Return R (C, D, D) of this file's formula from covariances (C, D, D)."""
    deviation = covariance.diagonal(dim1=1, dim2=2).clamp(min=_MIN_VARIANCE**2).sqrt()
    return covariance / (deviation.unsqueeze(2) * deviation.unsqueeze(1))


def distances(transformed: Tensor, means: Tensor, inverses: Tensor) -> Tensor:
    """Return d (B, C) of this file's formula for transformed features (B, D), means (C, D) and inverses of R (C, D, D)."""
    unit, centres = functional.normalize(transformed), functional.normalize(means)
    per_class = [
        ((unit - centre) @ inverse * (unit - centre)).sum(1) for centre, inverse in zip(centres, inverses, strict=True)
    ]
    return torch.stack(per_class, 1)


class FeCAMPlugin(FeatureClassifier):
    """Keeps the number of samples, the sum of t and the sum of t t^T of each class."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config

    def update(self, features: Tensor, y: Tensor, experience: int) -> None:
        """Add the samples to the sums."""
        t = tukey_transform(features, self.config.tukey)
        new = class_sums(t, y)
        products = t.new_zeros(*new["sums"].shape, t.shape[1])
        for label in y.unique().tolist():
            products[label] = t[y == label].T @ t[y == label]
        self.statistics = add_statistics(self.statistics, new | {"products": products})

    def classifier(self) -> Callable[[Tensor], Tensor]:
        """Return the classifier; it inverts the matrices of all classes once."""
        config, statistics = self.config, self.statistics
        means, counts = class_means(statistics), statistics["counts"].view(-1, 1, 1)
        scatter = statistics["products"] - counts * means.unsqueeze(2) * means.unsqueeze(1)
        covariance = scatter / (counts - 1).clamp(min=1)
        matrices = correlation(shrink(covariance, config.gamma1, config.gamma2))
        inverses = torch.linalg.pinv(matrices, hermitian=True)
        return lambda features: -distances(tukey_transform(features.double(), config.tukey), means, inverses)


def build(config: Config, seed: int) -> FeCAMPlugin:
    """Return the plugin; it uses no random numbers."""
    return FeCAMPlugin(config)
