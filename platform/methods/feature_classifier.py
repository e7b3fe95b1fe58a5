"""Classifiers on the network's features: statistics of each class, taken when the training of an experience ends; no data kept.

Shapes: B batch, n samples of an experience, D features, C classes with statistics (labels 0..C-1), K outputs of the head.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..models.activation_capture import features_of, layer_outputs
from ..models.features import FEATURES
from ..models.inference import evaluation_mode
from ..training import plugin_api
from ..training.plugin import Plugin

Classify = Callable[[Tensor], Tensor]  # features (B, D) -> scores (B, C)


class FeatureClassifier(Plugin):
    """Classifies by statistics of what the head is given; the network, its head too, is trained as it would be without.

    `statistics`: tensors that `update` makes of an experience's features, "counts" (C,) among them. What was learned of a class
    stays as the features were when its experience ended: where the trunk learns on, it grows stale (the published protocols
    freeze the trunk: `freezing` with from_experience 0 or 1). Strategies that change the network when an experience ends
    (early stopping, statistics of BatchNorm) are to be named before. Until an experience has ended the head classifies.
    """

    def __init__(self) -> None:
        self.statistics: dict[str, Tensor] = {}
        self._classify: Classify | None = None  # made of the statistics when first needed

    def state_dict(self) -> dict[str, Any]:
        """The statistics."""
        return dict(self.statistics)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over statistics."""
        self.statistics, self._classify = dict(state), None

    def update(self, features: Tensor, y: Tensor, experience: int) -> None:
        """Add an experience's samples, features (n, D) float64 and labels (n,), to the statistics; to be overridden."""
        raise NotImplementedError

    def classifier(self) -> Classify:
        """What the statistics make of features; to be overridden."""
        raise NotImplementedError

    def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """Take the statistics of the experience's training data, without augmentation."""
        accumulates = any(getattr(plugin, "accumulates", False) for plugin in learner.plugins)
        if accumulates:  # the data are those of all experiences so far
            self.statistics = {}
        dataset = (learner.adapted_dataset if accumulates else learner.experience.dataset).eval()
        found: list[Tensor] = []
        labels: list[Tensor] = []
        with evaluation_mode(learner.model):
            for x, y in plugin_api.dataset_batches(dataset, learner.train_mb_size):
                found.append(features_of(learner.model, x.to(learner.device)).flatten(1))
                labels.append(y.to(learner.device))
        self.statistics = {name: tensor.to(learner.device) for name, tensor in self.statistics.items()}
        self.update(torch.cat(found).double(), torch.cat(labels), learner.experience.current_experience)
        self._classify = None

    def predict(self, learner: Any, x: Tensor, network: Callable[[Tensor], Tensor]) -> Tensor:
        """Scores (B, K), -inf for a class without statistics."""
        if not self.statistics:
            return network(x)
        if self._classify is None:
            self.statistics = {name: tensor.to(learner.device) for name, tensor in self.statistics.items()}
            self._classify = self.classifier()
        logits, found = layer_outputs(learner.model, x)
        known = self._classify(found[FEATURES].flatten(1).float()).to(logits.dtype)
        scores = torch.full_like(logits, -torch.inf)
        scores[:, : known.shape[1]] = known.masked_fill(self.statistics["counts"] == 0, -torch.inf)
        return scores


def pad_classes(statistic: Tensor | None, like: Tensor) -> Tensor:
    """A statistic of fewer classes (first dimension) brought to the shape of `like` by zeros; zeros where there is none yet."""
    grown = torch.zeros_like(like)
    if statistic is not None:
        grown[: len(statistic)] = statistic
    return grown


def add_statistics(old: dict[str, Tensor], new: dict[str, Tensor]) -> dict[str, Tensor]:
    """Sums over classes (C, ...) of old and new samples together; C is that of whichever has more."""
    total = {}
    for name, fresh in new.items():
        known = old.get(name)
        longer = fresh if known is None or len(fresh) >= len(known) else known
        total[name] = pad_classes(known, longer) + pad_classes(fresh, longer)
    return total


def class_sums(features: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Of features (n, D) with labels (n,): "counts" (C,) and "sums" (C, D), C one more than the highest label."""
    one_hot = torch.nn.functional.one_hot(y).to(features.dtype)
    return {"counts": one_hot.sum(0), "sums": one_hot.T @ features}


def class_means(statistics: dict[str, Tensor]) -> Tensor:
    """Means (C, D); 0 for a class without samples."""
    means: Tensor = statistics["sums"] / statistics["counts"].clamp(min=1).unsqueeze(1)
    return means
