"""Features of a whole data set, from a network in evaluation mode.

Shapes: n samples, B batch, D features.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..data.samples import dataset_batches
from ..models.activation_capture import features_of
from ..models.inference import evaluation_mode


def dataset_features(learner: Any, dataset: Any) -> Tensor:
    """Return the float32 features (n, D) of a dataset's samples, in order, from the current network in evaluation mode."""
    batches = dataset_batches(dataset.eval(), learner.eval_mb_size)
    return batched_features(learner.model, (x.to(learner.device) for x, _ in batches))


def batched_features(model: nn.Module, batches: Iterable[Tensor]) -> Tensor:
    """Return the float32 features (n, D) of batches (B, *shape), in evaluation mode."""
    with evaluation_mode(model):
        return torch.cat([features_of(model, x).flatten(1).float() for x in batches])
