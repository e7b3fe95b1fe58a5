"""Validation samples during training: gathering them, and the network's accuracy on them.

Shapes: n validation samples, C classes.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..models.inference import logits_of
from ..training import plugin_api
from .replay_memory import MemoryPlugin

ValidationSamples = tuple[Tensor, Tensor, Tensor]  # inputs (n, *shape), labels (n,), task labels (n,)


def gather_validation_samples(learner: Any, experiences: Iterable[Any]) -> ValidationSamples | None:
    """Return the validation samples of these experiences, concatenated on the device; None if there are none."""
    datasets = [dataset for dataset in map(plugin_api.validation_dataset, experiences) if dataset is not None]
    if not datasets:
        return None
    x, y = (torch.cat(part).to(learner.device) for part in zip(*map(plugin_api.dataset_samples, datasets), strict=True))
    tasks = [task for dataset in datasets for task in getattr(dataset, "targets_task_labels", [0] * len(dataset))]
    return x, y, torch.tensor(tasks, device=learner.device)


def masked_logits(learner: Any, samples: ValidationSamples) -> Tensor:
    """Return logits (n, C) in evaluation mode; where the task is given, -inf outside of each sample's task."""
    x, _, tasks = samples
    logits = logits_of(learner.model, iter(torch.split(x, learner.eval_mb_size)))
    own = plugin_api.mask_other_tasks(learner, logits, tasks)
    return own


def accuracy(logits: Tensor, y: Tensor) -> float:
    """Return the fraction of correct predictions: logits (n, C), y (n,)."""
    return (logits.argmax(1) == y).sum().item() / len(y)


class HeldOutMemory(MemoryPlugin):
    """A balanced memory of validation samples, which are never trained on and represent all classes so far."""

    def __init__(self, memory: int, seed: int, strategy: str) -> None:
        super().__init__(memory, None, seed, f"{strategy} held out")
        self.strategy = strategy

    def source(self, learner: Any) -> Any:
        """Return the experience's validation split.

        Raises:
            UserError: There is none.
        """
        dataset = plugin_api.validation_dataset(learner.experience)
        if dataset is None:
            raise UserError(
                f"strategies.{self.strategy}: needs validation data, and has none: set the benchmark's `validation` above 0"
            )
        return dataset
