"""A training of its own on a few samples, when that of an experience has ended.

Shapes: n samples, B mini-batch, C outputs.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..seeding import generator
from .freezing import Freezer


class Finetuning:
    """Trains the network in float32, without augmentation, schedule or clipping, by a new optimizer like the experience's.

    Call `begin` in `before_training_exp`, `look` in `after_training_epoch`, then `run`; `rates` is its state.
    """

    def __init__(self, seed: int, name: str) -> None:
        self.seed, self.name = seed, name
        self.rates: list[float] = []  # of the optimizer's groups, where the experience began
        self._frozen: tuple[Sequence[nn.Parameter], Sequence[nn.Module]] = ([], [])

    def begin(self, learner: Any) -> None:
        """Remember the learning rates, which a schedule may change."""
        self.rates = [group["lr"] for group in learner.optimizer.param_groups]

    def look(self, learner: Any) -> None:
        """Remember what is out of training: other strategies set it free when the experience ends."""
        norms = [module for module in learner.model.modules() if isinstance(module, _BatchNorm) and not module.training]
        self._frozen = [each for each in learner.model.parameters() if not each.requires_grad], norms

    def run(
        self, learner: Any, x: Tensor, loss: Callable[[Tensor, Tensor], Tensor], epochs: int, factor: float
    ) -> None:
        """Train on x (n, *shape); `loss`: of logits (B, C) and the positions (B,) they belong to; `factor`: of the rates.

        Raises:
            FloatingPointError: the loss became no number.
        """
        frozen = Freezer()
        frozen.freeze_only(*self._frozen)
        optimizer = self._optimizer(learner, factor)
        total = torch.zeros((), device=x.device)
        for epoch in range(epochs):
            for index in self._order(learner, len(x), epoch).split(learner.train_mb_size):
                if len(index) == 1:  # BatchNorm could not take it
                    continue
                optimizer.zero_grad()
                value = loss(learner.model(x[index]).float(), index)
                value.backward()
                optimizer.step()
                total += value.detach()
        optimizer.zero_grad()
        frozen.release()
        if not math.isfinite(total):
            raise FloatingPointError(f"strategies.{self.name}: the loss of its finetuning became {total.item()}")

    def _optimizer(self, learner: Any, factor: float) -> torch.optim.Optimizer:
        groups = [
            {**group, "lr": rate * factor, "params": [each for each in group["params"] if each.requires_grad]}
            for group, rate in zip(learner.optimizer.param_groups, self.rates, strict=True)
        ]
        optimizer: torch.optim.Optimizer = type(learner.optimizer)([group for group in groups if group["params"]])
        return optimizer

    def _order(self, learner: Any, num: int, epoch: int) -> Tensor:
        draw = generator(self.seed, f"{self.name} finetuning", learner.experience.current_experience, epoch)
        return torch.randperm(num, generator=draw).to(learner.device)
