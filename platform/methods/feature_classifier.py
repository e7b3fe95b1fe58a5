"""Classifiers on the network's features, by statistics of each class.

The statistics are computed when the training of an experience ends. No data are kept.
Shapes: B batch, n samples of an experience, D features, C classes with statistics (labels 0..C-1), K outputs of the head.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..data.samples import dataset_batches
from ..models.activation_capture import features_of, layer_outputs
from ..models.features import FEATURES
from ..models.inference import evaluation_mode
from ..training.learner_view import LearnerView
from ..training.plugin import C, Plugin

Classify = Callable[[Tensor], Tensor]  # features (B, D) -> scores (B, C)


class FeatureClassifier(Plugin[C]):
    """Classifies by statistics of the head's inputs; the network, its head included, is trained as without this plugin.

    `statistics` holds the tensors that `update` computes from an experience's features, "counts" (C,) among them. The
    statistics of a class describe its features at the end of its experience. If the trunk keeps learning, they grow stale: the
    published protocols freeze it (`freezing` with from_experience 0 or 1), and a warning says so at the start. Until an
    experience has ended, the head classifies.
    """

    stores_features = True

    def init_state(self) -> None:
        """Set the initial state."""
        self.statistics: dict[str, Tensor] = {}
        self._classify: Classify | None = None  # built from the statistics on first use

    def state_dict(self) -> dict[str, Any]:
        """Return the statistics."""
        return dict(self.statistics)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the statistics."""
        self.statistics, self._classify = dict(state), None

    def update(self, features: Tensor, y: Tensor, experience: int) -> None:
        """Add an experience's float64 features (n, D) and labels (n,) to the statistics; subclasses override it."""
        raise NotImplementedError

    def classifier(self) -> Classify:
        """Return the function that classifies features by the statistics; subclasses override it."""
        raise NotImplementedError

    def after_training_exp(self, learner: LearnerView, **kwargs: Any) -> None:
        """Compute the statistics of the experience's training data, without augmentation."""
        accumulates = any(getattr(plugin, "accumulates", False) for plugin in learner.plugins)
        if accumulates:  # the data hold those of all experiences so far
            self.statistics = {}
        dataset = (learner.adapted_dataset if accumulates else learner.experience.dataset).eval()
        features: list[Tensor] = []
        labels: list[Tensor] = []
        with evaluation_mode(learner.model):
            for x, y in dataset_batches(dataset, learner.train_mb_size):
                features.append(features_of(learner.model, x.to(learner.device)).flatten(1))
                labels.append(y.to(learner.device))
        self.statistics = {name: tensor.to(learner.device) for name, tensor in self.statistics.items()}
        self.update(torch.cat(features).double(), torch.cat(labels), learner.experience.current_experience)
        self._classify = None

    def predict(self, learner: LearnerView, x: Tensor, network: Callable[[Tensor], Tensor]) -> Tensor:
        """Return scores (B, K): -inf for a class without statistics."""
        if not self.statistics:
            return network(x)
        if self._classify is None:
            self.statistics = {name: tensor.to(learner.device) for name, tensor in self.statistics.items()}
            self._classify = self.classifier()
        logits, outputs = layer_outputs(learner.model, x)
        class_scores = self._classify(outputs[FEATURES].flatten(1).float()).to(logits.dtype)
        scores = torch.full_like(logits, -torch.inf)
        scores[:, : class_scores.shape[1]] = class_scores.masked_fill(self.statistics["counts"] == 0, -torch.inf)
        return scores


def pad_classes(statistic: Tensor | None, like: Tensor) -> Tensor:
    """Return a statistic, zero-padded along the classes (first dimension) to the shape of `like`; all zeros for None."""
    grown = torch.zeros_like(like)
    if statistic is not None:
        grown[: len(statistic)] = statistic
    return grown


def add_statistics(old: dict[str, Tensor], new: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the sums over classes (C, ...) of old and new samples together; C is the larger number of classes."""
    total = {}
    for name, fresh in new.items():
        previous = old.get(name)
        longer = fresh if previous is None or len(fresh) >= len(previous) else previous
        total[name] = pad_classes(previous, longer) + pad_classes(fresh, longer)
    return total


def class_sums(features: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Return "counts" (C,) and "sums" (C, D) of features (n, D) with labels (n,); C is 1 + the highest label."""
    one_hot = torch.nn.functional.one_hot(y).to(features.dtype)
    return {"counts": one_hot.sum(0), "sums": one_hot.T @ features}


def class_means(statistics: dict[str, Tensor]) -> Tensor:
    """Return the means (C, D): 0 for a class without samples."""
    means: Tensor = statistics["sums"] / statistics["counts"].clamp(min=1).unsqueeze(1)
    return means
