"""Nearest class mean: a sample is of the class whose mean feature is nearest; the head is trained, but not asked.

    class(x) = argmax_c s_c(f(x)),   euclidean: s_c = -|f - mu_c|^2,   cosine: s_c = <f, mu_c> / (|f| |mu_c|)

f: the features, what the head is given; mu_c: their mean over the training samples of class c, in evaluation mode and without
augmentation, at the end of the experience that brought them. Samples of a class that comes again count as much as those before.
No data are kept, so old means stay as they were while the trunk learns on: freeze it (`freezing`) as the published protocols do.
Shapes: B batch, D features, C classes.

Sources: Mensink et al. 2013 (TPAMI, "Distance-based image classification"; euclidean), Rebuffi et al. 2017 (1611.07725, means of
features in continual learning), Zhou et al. 2023 (2303.07338, SimpleCIL: cosine on a frozen pretrained network).
Peers: Avalanche's NCMClassifier (normalize=False is ours, euclidean; with True it normalises samples and not means);
LAMDA-PILOT's SimpleCIL is metric: cosine with freezing: {from_experience: 0}; FACIL's NME needs stored samples.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import Tensor
from torch.nn import functional

from ..platform.methods.feature_classifier import FeatureClassifier, add_statistics, class_means, class_sums

NEUTRAL: dict[str, Any] | None = None
NEUTRAL_REASON = "it classifies in the place of the head: no setting leaves the head's predictions"
ROLES = ("predictions",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Nearest class mean: classify by the mean feature of each class in the place of the head.

    metric: "euclidean" or "cosine" distance.
    """

    metric: Literal["euclidean", "cosine"] = "euclidean"

    def __post_init__(self) -> None:
        metric = self.metric
        if metric not in ("euclidean", "cosine"):
            raise ValueError(f"{metric=}: must be 'euclidean' or 'cosine'")


def similarity(features: Tensor, means: Tensor, metric: Literal["euclidean", "cosine"]) -> Tensor:
    """s of this file's formula, (B, C): features (B, D), means (C, D)."""
    if metric == "cosine":
        return functional.normalize(features) @ functional.normalize(means).T
    return 2 * features @ means.T - features.square().sum(1, keepdim=True) - means.square().sum(1)


class NCMPlugin(FeatureClassifier):
    """Keeps the sum of features and the number of samples of each class."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config

    def update(self, features: Tensor, y: Tensor, experience: int) -> None:
        """Add to the sums."""
        self.statistics = add_statistics(self.statistics, class_sums(features, y))

    def classifier(self) -> Callable[[Tensor], Tensor]:
        """By the means."""
        return partial(similarity, means=class_means(self.statistics).float(), metric=self.config.metric)


def build(config: Config, seed: int) -> NCMPlugin:
    """The plugin; it draws no random numbers."""
    return NCMPlugin(config)
