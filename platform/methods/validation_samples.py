"""Validation samples during training: gathering them, and the network's accuracy on them.

Shapes: n validation samples, C classes.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..data.samples import stored_samples, validation_dataset
from ..errors import UserError
from ..models.inference import logits_of
from ..training import plugin_api
from ..training.learner_view import LearnerView

ValidationSamples = tuple[Tensor, Tensor, Tensor]  # inputs (n, *shape), labels (n,), task labels (n,)


def gather_validation_samples(learner: LearnerView, experiences: Iterable[Any], key: str) -> ValidationSamples:
    """Return the validation samples of these experiences, concatenated on the device.

    Raises:
        UserError: There are none; `key` is the path of the setting that needs them.
    """
    datasets = [dataset for dataset in map(validation_dataset, experiences) if dataset is not None]
    if not datasets:
        raise _no_validation_data(key)
    columns = zip(*((each.inputs(), each.y, each.t) for each in map(stored_samples, datasets)), strict=True)
    x, y, t = (torch.cat(parts).to(learner.device) for parts in columns)
    return x, y, t


def masked_logits(learner: LearnerView, samples: ValidationSamples) -> Tensor:
    """Return logits (n, C) in evaluation mode; where the task is given, -inf outside of each sample's task."""
    x, _, tasks = samples
    logits = logits_of(learner.model, iter(torch.split(x, learner.eval_mb_size)))
    own = plugin_api.mask_other_tasks(learner, logits, tasks)
    return own


def accuracy(logits: Tensor, y: Tensor) -> float:
    """Return the fraction of correct predictions: logits (n, C), y (n,)."""
    return (logits.argmax(1) == y).sum().item() / len(y)


def required_validation_dataset(learner: LearnerView, strategy: str) -> Any:
    """Return the experience's validation dataset.

    Raises:
        UserError: There is none; `strategy` is the name of the strategy that needs it.
    """
    dataset = validation_dataset(learner.experience)
    if dataset is None:
        raise _no_validation_data(f"strategies.{strategy}")
    return dataset


def _no_validation_data(key: str) -> UserError:
    return UserError(f"{key}: needs validation data, and has none: set the benchmark's `validation` above 0")
