"""Validation samples during training: gathered once, and how well the network does on them.

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
    """The validation samples of these experiences, side by side on the device; None where there are none."""
    datasets = [dataset for dataset in map(plugin_api.validation_dataset, experiences) if dataset is not None]
    if not datasets:
        return None
    x, y = (torch.cat(part).to(learner.device) for part in zip(*map(plugin_api.dataset_samples, datasets), strict=True))
    tasks = [task for dataset in datasets for task in getattr(dataset, "targets_task_labels", [0] * len(dataset))]
    return x, y, torch.tensor(tasks, device=learner.device)


def masked_logits(learner: Any, samples: ValidationSamples) -> Tensor:
    """Logits (n, C) of the network in evaluation mode; where the task is given, -inf outside of each sample's task."""
    x, _, tasks = samples
    logits = logits_of(learner.model, iter(torch.split(x, learner.eval_mb_size)))
    own = plugin_api.mask_other_tasks(learner, logits, tasks)
    return own


def accuracy(logits: Tensor, y: Tensor) -> float:
    """The share of right answers: logits (n, C), y (n,)."""
    return (logits.argmax(1) == y).sum().item() / len(y)


class HeldOutMemory(MemoryPlugin):
    """A balanced memory of validation samples: what is never trained on and still stands for all classes so far."""

    def __init__(self, memory: int, seed: int, strategy: str) -> None:
        super().__init__(memory, None, seed, f"{strategy} held out")
        self.strategy = strategy

    def source(self, learner: Any) -> Any:
        """The experience's validation split; UserError where there is none."""
        found = plugin_api.validation_dataset(learner.experience)
        if found is None:
            raise UserError(
                f"strategies.{self.strategy}: needs validation data, and has none: set the benchmark's `validation` above 0"
            )
        return found
