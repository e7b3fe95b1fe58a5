"""Finetuning on a few samples after the training of an experience has ended.

Shapes: n samples, B mini-batch, C outputs.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..seeding import generator
from ..training import plugin_api
from ..training.learner_view import LearnerView
from .freezing import Freezer


class Finetuning:
    """Finetunes the network with a new optimizer of the same kind as the experience's.

    It runs in float32, without augmentation or schedule; gradients are clipped as in the experience. Call
    `record_learning_rates` in `before_training_exp` and `record_frozen` in `after_training_epoch`, then `run`.
    """

    MERGED = True  # its entries are stored next to those of its plugin

    def __init__(self, seed: int, name: str) -> None:
        self.seed, self.name = seed, name
        self.rates: list[float] = []  # one per group of the optimizer, at the start of the experience
        self._frozen: tuple[Sequence[nn.Parameter], Sequence[nn.Module]] = ([], [])

    def state_dict(self) -> dict[str, Any]:
        """Return the recorded learning rates."""
        return {"rates": self.rates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the recorded learning rates."""
        self.rates = state["rates"]

    def record_learning_rates(self, learner: LearnerView) -> None:
        """Record the learning rates, before a schedule changes them."""
        self.rates = [group["lr"] for group in learner.optimizer.param_groups]

    def record_frozen(self, learner: LearnerView) -> None:
        """Record what is frozen, before other strategies unfreeze it at the end of the experience."""
        norms = [module for module in learner.model.modules() if isinstance(module, _BatchNorm) and not module.training]
        self._frozen = [each for each in learner.model.parameters() if not each.requires_grad], norms

    def run(
        self, learner: LearnerView, x: Tensor, loss: Callable[[Tensor, Tensor], Tensor], epochs: int, factor: float
    ) -> None:
        """Train on `x` for `epochs` epochs.

        Args:
            learner: holds the network, the optimizer and the mini-batch size.
            x: samples (n, *shape).
            loss: a function of logits (B, C) and of the positions (B,) in `x` that they belong to.
            epochs: passes over `x`.
            factor: multiplies the learning rates that were recorded.

        Raises:
            FloatingPointError: The loss became NaN or infinite.
        """
        frozen = Freezer()
        frozen.freeze_only(*self._frozen)
        optimizer = self._optimizer(learner, factor)
        total = torch.zeros((), device=x.device)
        for epoch in range(epochs):
            for index in self._order(learner, len(x), epoch).split(learner.train_mb_size):
                # the last: BatchNorm cannot train on one sample
                if len(index) == 1 < min(len(x), learner.train_mb_size):
                    continue
                optimizer.zero_grad()
                value = loss(learner.model(x[index]).float(), index)
                value.backward()
                plugin_api.clip_gradients(learner)
                optimizer.step()
                total += value.detach()
        optimizer.zero_grad()
        frozen.release()
        if not math.isfinite(total):
            raise FloatingPointError(f"strategies.{self.name}: the loss of its finetuning became {total.item()}.")

    def _optimizer(self, learner: LearnerView, factor: float) -> torch.optim.Optimizer:
        groups = [
            {**group, "lr": rate * factor, "params": [each for each in group["params"] if each.requires_grad]}
            for group, rate in zip(learner.optimizer.param_groups, self.rates, strict=True)
        ]
        kind: Any = type(learner.optimizer)
        optimizer: torch.optim.Optimizer = kind([group for group in groups if group["params"]])
        return optimizer

    def _order(self, learner: LearnerView, num: int, epoch: int) -> Tensor:
        rng = generator(self.seed, f"{self.name} finetuning", learner.experience.current_experience, epoch)
        return torch.randperm(num, generator=rng).to(learner.device)
