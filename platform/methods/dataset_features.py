"""Features of a whole data set, by a network in evaluation mode.

Shapes: n samples, B batch, D features.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..models.activation_capture import features_of
from ..models.inference import evaluating
from ..training import plugin_api


def dataset_features(strategy: Any, dataset: Any) -> Tensor:
    """Features (n, D) float32 of a dataset's samples, in its order, by the present network in evaluation mode."""
    batches = plugin_api.batches(dataset.eval(), strategy.eval_mb_size)
    return batched_features(strategy.model, (x.to(strategy.device) for x, _ in batches))


def batched_features(model: nn.Module, batches: Iterable[Tensor]) -> Tensor:
    """Features (n, D) float32 of batches (B, *shape) in evaluation mode."""
    with evaluating(model):
        return torch.cat([features_of(model, x).flatten(1).float() for x in batches])
