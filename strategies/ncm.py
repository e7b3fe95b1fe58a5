"""Nearest class mean: assign a sample to the class with the nearest mean feature; the head is trained, but not used to classify.

    class(x) = argmax_c s_c(f(x)),   euclidean: s_c = -|f - mu_c|^2,   cosine: s_c = <f, mu_c> / (|f| |mu_c|)

f: the features (the head's input). mu_c: their mean over the training samples of class c, computed when the experience with
these samples ends, in evaluation mode and without augmentation. Where a class comes again, its new samples count as much as
earlier ones. No samples are stored, so old means do not follow the trunk as it learns: freeze it (`freezing`) as the published
protocols do.
Shapes: B batch, D features, C classes.

Sources: Mensink et al. 2013 (TPAMI, "Distance-based image classification"; euclidean), Rebuffi et al. 2017 (1611.07725, means of
features in continual learning), Zhou et al. 2023 (2303.07338, SimpleCIL: cosine on a frozen pretrained network).
Peers: Avalanche's NCMClassifier (normalize=False is our euclidean; with True it normalises samples but not means).
LAMDA-PILOT's SimpleCIL is metric: cosine with freezing: {from_experience: 0}. FACIL's NME needs stored samples.
"""

from functools import partial
from typing import Literal

from torch import Tensor
from torch.nn import functional

from ..platform.config.settings import settings
from ..platform.methods.feature_classifier import Classify, FeatureClassifier, add_statistics, class_means, class_sums

NEUTRAL = None
NEUTRAL_REASON = "it classifies instead of the head: no setting leaves the head's predictions"
ROLES = ("predictions",)


@settings
class Config:
    """Classify by the nearest class mean of the features instead of by the head (NCM); needs a frozen trunk.

    metric: "euclidean" or "cosine" distance.
    """

    metric: Literal["euclidean", "cosine"] = "euclidean"


def similarity(features: Tensor, means: Tensor, metric: Literal["euclidean", "cosine"]) -> Tensor:
    """Return s (B, C) of this file's formula for features (B, D) and means (C, D)."""
    if metric == "cosine":
        return functional.normalize(features) @ functional.normalize(means).T
    return 2 * features @ means.T - features.square().sum(1, keepdim=True) - means.square().sum(1)


class NCMPlugin(FeatureClassifier[Config]):
    """Keeps the sum of features and the number of samples of each class."""

    def update(self, features: Tensor, y: Tensor, experience: int) -> None:
        """Add the samples to the sums."""
        self.statistics = add_statistics(self.statistics, class_sums(features, y))

    def classifier(self) -> Classify:
        """Return the similarity to the class means."""
        return partial(similarity, means=class_means(self.statistics).float(), metric=self.config.metric)
