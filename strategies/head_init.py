"""Initialise the head's rows for new classes: with zeros, the mean of the old rows, or the mean features of their classes.

    zero:       w_c = 0,  b_c = 0
    mean:       w_c = mean_old w,  b_c = mean_old b
    imprinted:  w_c = mean_old ||w|| * mu_c / ||mu_c||,  b_c = mean_old b;  mu_c = mean of f / ||f|| over the class's samples

New are the classes that no earlier experience had; old are the classes of earlier experiences. w_c, b_c: row (D,) and bias of
class c in the head. f: features of the experience's training samples, by the network at the start of the experience. The rows are
written once, before the training of an experience. Nothing is done in the first experience, which has no old rows, nor in an
experience without new classes. Without this strategy a growing head initialises its rows at random. A head without biases is
initialised without them.
Shapes: n samples, D features, C classes.

Sources: Qi et al. 2018 (1712.07136, imprinted weights, there with features and rows of length 1 and a scale: see cosine_head).
Peers: LUCIR's code imprints at the mean length of old rows, as here. FACIL and PyCIL initialise at random.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..platform.config.settings import settings
from ..platform.data.samples import stored_samples
from ..platform.errors import UserError
from ..platform.methods.dataset_features import dataset_features
from ..platform.methods.seen_classes import SeenClassesPlugin
from ..platform.models.cosine_head import CosineHead
from ..platform.models.features import find_head
from ..platform.training.plugin import LearnerView

NEUTRAL = {"rows": "random"}
NEEDS_PAST = True


@settings
class Config:
    """Initialise the head's rows for new classes with zeros, the mean old row or mean features.

    rows: "random" (as the head does), "zero", "mean" (of the old rows) or "imprinted" (mean features of the new classes).
    """

    rows: Literal["random", "zero", "mean", "imprinted"] = "imprinted"


def imprinted_rows(features: Tensor, y: Tensor, classes: Sequence[int], length: Tensor) -> Tensor:
    """Return rows (C, D) of the given length in the direction of the classes' mean features; features (n, D), labels y (n,)."""
    scaled = functional.normalize(features, dim=1)
    means = torch.stack([scaled[y == label].mean(0) for label in classes])
    return length * functional.normalize(means, dim=1)


def check_model(config: Config, model: nn.Module) -> None:
    """Refuse a head without a row of weights per class, and rows of 0 in a head that scales them to length 1."""
    if config.rows == "zero" and isinstance(find_head(model), CosineHead):
        raise UserError("strategies.head_init.rows=zero: a cosine head scales its rows to length 1: choose another.")
    if config.rows != "random" and getattr(find_head(model), "weight", None) is None:
        kind = type(find_head(model)).__name__
        raise UserError(f"strategies.head_init.rows={config.rows}: needs a linear head with rows; this is a {kind}.")


class HeadInitPlugin(SeenClassesPlugin[Config]):
    """Initialises the new rows once the head has them and before they are trained."""

    @torch.no_grad()
    def before_training_exp(self, learner: LearnerView, **kwargs: object) -> None:
        """Write the new rows in place, so that the optimizer's parameters stay the same."""
        old, new = self.seen.all, self.seen.new_classes(learner)
        if self.config.rows == "random" or not old or not new:
            return
        head: Any = find_head(learner.model)
        if self.config.rows == "imprinted":
            y = stored_samples(learner.experience.dataset).y.to(learner.device)
            new = [label for label in new if (y == label).any()]
            length = head.weight[old].norm(dim=1).mean()
            features = dataset_features(learner, learner.experience.dataset)
            head.weight[new] = imprinted_rows(features, y, new, length)
        else:
            head.weight[new] = 0.0 if self.config.rows == "zero" else head.weight[old].mean(0)
        if getattr(head, "bias", None) is not None:
            head.bias[new] = 0.0 if self.config.rows == "zero" else head.bias[old].mean()

    def after_training_exp(self, learner: LearnerView, **kwargs: object) -> None:
        """Mark this experience's classes as old."""
        self.seen.add(learner)
