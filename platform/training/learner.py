"""The learner: trains a network on one experience after another, on Avalanche's template, and evaluates it on all of them.

The whole stream is evaluated in one pass unless a plugin has evaluation hooks.
"""

import math
from typing import Any, NoReturn

import torch

from ..models.inference import logits_of
from .avalanche_template import AvalancheTemplate
from .evaluation import AccuracyRow, collect_logits
from .optimization import lr_factor, nonfinite_loss_source, num_iterations, set_lr, value_at
from .plugin import EVAL_EVENTS, Plugin, overrides_hook, strategy_name


class Learner(AvalancheTemplate):
    """Trains a network on one experience after another and evaluates it on all of them."""

    _resumed = False  # whether it was restored mid-experience and has not trained since

    def train_experience(self, number: int) -> None:
        """Train on experience `number` (0-based), or on the rest of it when resuming mid-experience."""
        if not self._resumed:
            self._prepare(number)
            self.train(self.benchmark.train_stream[number], eval_streams=[])
            return
        self._train_exp(self.experience)
        self._fire("after_training_exp")
        self._fire("after_training")
        self._train_cleanup()

    def _prepare(self, number: int) -> None:
        self.eval_mb_size = self.training.evaluation_batch_size
        self.train_mb_size = value_at(self.training.batch_size, number, "training.batch_size")
        self._collect_hooks()

    def evaluate(self) -> AccuracyRow:
        """Return accuracy on the test set of every experience; changes no state of the trial."""
        return self.test_set.row(self.logits())

    def logits(self) -> torch.Tensor:
        """Return logits (N, K) of all test samples, in the order of `test_set`; changes no state of the trial."""
        if any(overrides_hook(plugin, event) for plugin in self.strategies for event in EVAL_EVENTS):
            with collect_logits(self.plugins, self.clock) as logits:
                self._collect_hooks()
                self.eval(self.benchmark.test_stream)
            self._collect_hooks()
            return torch.cat(logits)
        batches = self.test_set.batches(self.training.evaluation_batch_size)
        return logits_of(self.model, batches, self.predict)

    def should_train(self, number: int) -> bool:
        """Return whether every plugin wants training on experience `number` (0-based)."""
        num_experiences = len(self.stream.experiences)
        return all(p.should_train(number, num_experiences) for p in self.plugins if isinstance(p, Plugin))

    @property
    def not_resumable(self) -> list[str]:
        """Return the strategies that cannot save their state: Avalanche's, and others without a `state_dict`."""
        needed = ("state_dict", "load_state_dict", "on_resume")
        return [
            strategy_name(plugin) for plugin in self.strategies if not all(hasattr(plugin, name) for name in needed)
        ]

    @property
    def in_experience(self) -> bool:
        """Return whether the training of an experience has begun and not ended."""
        return not isinstance(self.dataloader, list)

    @property
    def can_checkpoint(self) -> bool:
        """Return whether a checkpoint is possible here.

        Every strategy must have a `state_dict`, and the loader must be ours: the order of its samples can be resumed.
        """
        return not self.not_resumable and self.dataloader is self._own_loader

    def reopen_experience(self, number: int) -> None:
        """Choose the data of experience `number`, whose training was interrupted, without starting it again."""
        self._prepare(number)
        self.is_training = True
        self.model.train()
        self.experience = self.benchmark.train_stream[number]
        self.train_dataset_adaptation()
        self._fire("after_train_dataset_adaptation")
        self.make_train_dataloader()

    def resume_from(self, total: Any, measured: dict[str, float]) -> None:
        """Continue at the clock's position in the experience; `train_experience` trains the rest of it.

        Args:
            total: sum of the losses in the epoch so far.
            measured: values that strategies measured in the epoch so far.
        """
        self.total = total.to(self.device) if isinstance(total, torch.Tensor) else total
        self.measured, self._stop_training, self._resumed = dict(measured), False, True
        self.dataloader.seek(self.clock.train_exp_epochs, self.clock.train_epoch_iterations)

    def _train_exp(self, experience: Any, eval_streams: Any = None, **kwargs: Any) -> None:
        """Train on one experience, for its epochs or as many as its iterations need."""
        number, length = experience.current_experience, len(self.dataloader)
        self.num_iterations = num_iterations(self.training, number, length)
        self.train_epochs = -(-self.num_iterations // length)
        for _ in range(self.clock.train_exp_epochs, self.train_epochs):
            self._collect_hooks()
            if not self._resumed:
                self.measured, self.total = {}, 0.0
                self._before_training_epoch(**kwargs)
                if self._stop_training:
                    break
            self._resumed = False
            self.training_epoch(**kwargs)
            self._after_training_epoch(**kwargs)
            self.on_epoch(self)
        self._stop_training = False

    def training_epoch(self, **kwargs: Any) -> None:
        """Train for one pass over the loader, with hooks in Avalanche's order."""
        config, number = self.training, self.experience.current_experience
        base_lr = value_at(config.optimizer.lr, number, "training.optimizer.lr")
        clip = config.optimizer.clip and value_at(config.optimizer.clip, number, "training.optimizer.clip")
        scheduled = config.schedule.name != "constant" or config.schedule.warmup > 0
        early = self._hooks["before_forward"] or self._hooks["after_forward"]  # these hooks may add terms to the loss
        for mbatch in self.dataloader:
            iteration = self.clock.train_exp_iterations
            if self._stop_training or iteration >= self.num_iterations:
                break
            self.on_iteration(self)
            self.mbatch = mbatch
            if scheduled:
                set_lr(self.optimizer, base_lr * lr_factor(config.schedule, iteration, self.num_iterations))
            self._unpack_minibatch()
            self._fire("before_training_iteration")
            if self.augment is not None:
                self.mbatch[0] = self.augment(
                    self.mb_x, (number, self.clock.train_exp_epochs, self.clock.train_epoch_iterations)
                )
            self.optimizer.zero_grad()
            if early:
                self.loss = self._make_empty_loss()
            self._fire("before_forward")
            self.mb_output = self.forward()
            self._fire("after_forward")
            self.loss = self.loss + self.criterion() if early else self.criterion()
            self._fire("before_backward")
            self.total += self._loss_value(self.loss)
            self.backward()
            self._fire("after_backward")
            if clip:
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip)
            self._fire("before_update")
            self.optimizer_step()
            self._fire("after_update")
            self.samples += len(self.mb_y)
            self._fire("after_training_iteration")
        self.epoch_loss = float(self.total) / max(1, self.clock.train_epoch_iterations)
        self.check_loss_finite()

    def _loss_value(self, loss: torch.Tensor) -> Any:
        """The loss for the running mean: on the CPU a number, checked at once; on a GPU a tensor, to avoid waiting for it."""
        value = loss.item() if self.device.type == "cpu" else loss.detach()
        if isinstance(value, float) and not math.isfinite(value):
            self._raise_diverged(value, nonfinite_loss_source(self, self._hooks["before_backward"]))
        return value

    def check_loss_finite(self) -> None:
        """Raise FloatingPointError if a loss of this epoch was not finite; on a GPU this waits for the losses."""
        value = float(self.total)
        if not math.isfinite(value):
            self._raise_diverged(value, "")

    def _raise_diverged(self, value: float, culprit: str) -> NoReturn:
        strategies = ", ".join(map(strategy_name, self.strategies)) or "none"
        raise FloatingPointError(
            f"the loss became {value} in experience {self.experience.current_experience + 1}, iteration "
            f"{self.clock.train_exp_iterations + 1}{culprit} (strategies: {strategies}): lower "
            f"training.optimizer.lr={self.training.optimizer.lr}, or set training.optimizer.clip."
        )
