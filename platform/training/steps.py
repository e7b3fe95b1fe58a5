"""The steps of an iteration, on one mini-batch: forward pass, criterion, backward pass, update; at any precision.

Shapes: B mini-batch, C classes of the stream, E experiences, K outputs of the head.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch

from ..config.schema import Training
from ..data.resident_loader import ResidentLoader
from .frozen_feature_cache import FrozenFeatureCache
from .optimization import blocks_from_head, make_criterion, make_optimizer
from .plugin import prediction_function

Criterion = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # (logits (B, K), y (B,)) -> a scalar


class Steps:
    """What is done with a mini-batch, under the names of Avalanche's template.

    Attributes:
        mbatch: the mini-batch [x, y, t].
        mb_output: its logits (B, K).
        loss: a scalar.
        plugins: all plugins; the last one counts the iterations.
        heads: which outputs belong to each experience, (E, C) bool, if the task is given; else None.
        reads_losses: whether each iteration's loss is read, as on a CPU; on a GPU that would wait for it.
        compiled_network, recorded_step: set while an epoch runs that is compiled (compile.py).
    """

    model: Any
    clock: Any
    dataloader: Any
    mbatch: Any
    mb_output: Any
    loss: torch.Tensor
    plugins: list[Any]

    def __init__(
        self, model: torch.nn.Module, training: Training, device: torch.device, heads: torch.Tensor | None
    ) -> None:
        """Prepare to train `model`, which is moved to `device`."""
        self.device, self.training, self.heads = device, training, heads
        self.model = model.to(device)
        if training.channels_last:
            self.model.to(memory_format=torch.channels_last)  # convolutions follow the layout of their weights
        self.optimizer = make_optimizer(training.optimizer, model.named_parameters(), 0, blocks_from_head(model))
        self._criterion: Criterion = make_criterion(training)  # Avalanche's plugins use this name
        self.scaler = torch.amp.GradScaler(device.type) if training.precision == "float16" else None
        low = training.precision != "float32"
        self._autocast = torch.autocast(device.type, getattr(torch, training.precision)) if low else None
        self._frozen_features = FrozenFeatureCache()
        self.is_training = self.retain_graph = False
        self.reads_losses = device.type == "cpu"
        self.compiled_network: Callable[[torch.Tensor], Any] | None = None
        self.recorded_step: Callable[[], None] | None = None

    def _unpack_minibatch(self) -> None:
        """Move a mini-batch to the device; those of our loader are there already."""
        if not isinstance(self.dataloader, ResidentLoader):
            self.mbatch = [tensor.to(self.device, non_blocking=True) for tensor in self.mbatch]

    def forward(self) -> Any:
        """Return logits (B, K) of the mini-batch, float32 at any training precision; evaluation runs in float32 throughout."""
        if not self.is_training:
            return self.predict(self.mb_x)
        with self._autocast or nullcontext():
            features = self._frozen_features.lookup(self)
            if features is not None:
                output = self.model.head(features)
            else:
                output = (self.compiled_network or self.model)(self.mb_x)
        return output if self._autocast is None else output.float()

    def criterion(self) -> torch.Tensor:
        """Return the cross-entropy of the mini-batch; evaluation leaves out samples of classes that the head lacks.

        In a task-incremental stream it is taken among the classes of each sample's task, as with one head per task.
        """
        output, y = self.mb_output, self.mb_y
        if self.heads is not None:
            output = self.mask_other_tasks(output, self.mb_task_id)
        if not self.is_training:
            known = y < output.shape[1]
            output, y = output[known], y[known]
        return self._criterion(output, y)

    def backward(self) -> None:
        """Compute the gradients of the loss. With float16 the loss is scaled, and the gradients are scaled back at once."""
        if self.scaler is None:
            self.loss.backward(retain_graph=self.retain_graph)
            return
        self.scaler.scale(self.loss).backward(retain_graph=self.retain_graph)
        self.scaler.unscale_(self.optimizer)

    def optimizer_step(self) -> None:
        """Step the optimizer; with float16 the step is skipped if a gradient overflowed."""
        if self.scaler is None:
            self.optimizer.step()
            return
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _make_empty_loss(self) -> torch.Tensor:
        return torch.zeros(1, device=self.device)

    # Used by plugins.

    @property
    def mb_x(self) -> torch.Tensor:
        """Return the inputs (B, *shape) of the mini-batch."""
        x: torch.Tensor = self.mbatch[0]
        return x

    @property
    def mb_y(self) -> torch.Tensor:
        """Return the labels (B,) of the mini-batch."""
        y: torch.Tensor = self.mbatch[1]
        return y

    @property
    def mb_task_id(self) -> torch.Tensor:
        """Return the task labels (B,) of the mini-batch."""
        t: torch.Tensor = self.mbatch[-1]
        return t

    @property
    def strategies(self) -> list[Any]:
        """Return the plugins without the clock."""
        return [plugin for plugin in self.plugins if plugin is not self.clock]

    @property
    def predict(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return the function that classifies samples: (B, *shape) -> logits (B, K).

        It is the network, or what a strategy replaces it by.
        """
        return prediction_function(self, self.strategies)

    @property
    def criterion_function(self) -> Criterion:
        """The loss function that `criterion` applies: (logits (B, K), y (B,)) -> a scalar; may be set."""
        return self._criterion

    @criterion_function.setter
    def criterion_function(self, function: Criterion) -> None:
        self._criterion = function

    def mask_other_tasks(self, logits: torch.Tensor, tasks: torch.Tensor) -> torch.Tensor:
        """Return logits (n, K) with -inf for the classes of other tasks, if the task is given.

        `tasks` (n,): the task of each sample.
        """
        if self.heads is None:
            return logits
        own = logits.new_zeros(len(self.heads), logits.shape[1], dtype=torch.bool)
        shared = min(own.shape[1], self.heads.shape[1])  # a head that is not ours may be wider than the stream
        own[:, :shared] = self.heads[:, :shared]
        return logits.masked_fill(~own[tasks], -torch.inf)

    @property
    def own_outputs(self) -> Any:
        """Refuse the old name of `mask_other_tasks`: code that asks for it with hasattr would silently leave the mask out."""
        raise TypeError("own_outputs was renamed to mask_other_tasks")
