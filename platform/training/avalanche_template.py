"""Avalanche's supervised template on our data path: Avalanche's hooks in Avalanche's order, with resident tensors as batches.

This is the only module that subclasses Avalanche's types. It differs from Avalanche's template in three ways: only hooks that
a plugin overrides are called, the head grows only in training, and each experience can have a new optimizer.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from avalanche.models.dynamic_optimizers import update_optimizer
from avalanche.training.templates import SupervisedTemplate

from ..config.schema import Training
from ..data.avalanche_export import avalanche_benchmark
from ..data.resident_loader import ResidentLoader
from ..data.streams import Stream, resident_samples
from ..seeding import generator
from .evaluation import TestSet
from .frozen_feature_cache import FrozenFeatureCache
from .optimization import blocks_from_head, make_criterion, make_optimizer, set_rates
from .plugin import EVENTS, hooks_of, prediction_function

Augment = Callable[[torch.Tensor, tuple[int, int, int]], torch.Tensor]  # (x, (experience, epoch, iteration)) -> x


class AvalancheTemplate(SupervisedTemplate):  # type: ignore[misc]
    """The steps that differ from Avalanche's template.

    It adds the attributes `mb_index` (positions of the mini-batch in `adapted_dataset`), `note` and `measured`.
    """

    model: Any
    clock: Any
    dataloader: Any
    optimized_param_id: Any
    _stop_training: bool

    def __init__(
        self,
        *,
        model: torch.nn.Module,
        stream: Stream,
        training: Training,
        plugins: Sequence[Any] = (),
        seed_data: int = 0,
        seed_initialisation: int = 0,
        device: torch.device | str = "cpu",
        on_epoch: Callable[[Any], None] = lambda learner: None,
        on_note: Callable[[str], None] = lambda text: None,
        on_iteration: Callable[[Any], None] = lambda learner: None,
        augment: Augment | None = None,
    ) -> None:
        warnings.filterwarnings("ignore", "No loggers specified")  # we log to the ledger
        super().__init__(
            model=model.to(device),
            optimizer=make_optimizer(training.optimizer, model.named_parameters(), 0, blocks_from_head(model)),
            criterion=make_criterion(training),
            train_mb_size=1,
            plugins=list(plugins),
            evaluator=None,
            device=device,
        )
        self.plugins = [*plugins, self.clock]  # Avalanche's empty evaluator and periodic evaluation are dropped
        self.stream, self.training = stream, training
        self.seed_data, self.seed_initialisation = seed_data, seed_initialisation
        self.benchmark = avalanche_benchmark(stream)
        self.test_set = TestSet(stream, self.device)
        self.on_epoch, self.on_note, self.on_iteration = on_epoch, on_note, on_iteration
        self.augment = augment
        # task-incremental: only the classes of a sample's experience count, as with one head per experience
        self._heads = stream.class_mask.to(self.device) if stream.scenario == "task" else None
        self.epoch_loss = math.nan
        self.total: Any = 0.0  # sum of the losses in this epoch
        self.measured: dict[str, float] = {}  # what strategies measured in this epoch, e.g. validation_accuracy
        self.num_iterations = self.samples = 0
        self.scaler = torch.amp.GradScaler(self.device.type) if training.precision == "float16" else None
        low = training.precision != "float32"
        self._autocast = torch.autocast(self.device.type, getattr(torch, training.precision)) if low else None
        self._own_loader: ResidentLoader | None = None
        self._frozen_features = FrozenFeatureCache()
        self._hooks: dict[str, list[Callable[..., None]]] = {}
        self._collect_hooks()

    # Used by plugins.

    @property
    def mb_index(self) -> torch.Tensor | None:
        """Return positions (B,) in `adapted_dataset` of the samples from our loader; None with another loader."""
        return self.dataloader.index if isinstance(self.dataloader, ResidentLoader) else None

    @property
    def augments(self) -> bool:
        """Return whether the network sees a sample differently each time."""
        return self.augment is not None or any(getattr(plugin, "augments", False) for plugin in self.strategies)

    def note(self, text: str) -> None:
        """Write a sentence to the ledger."""
        self.on_note(text)

    @property
    def heads(self) -> torch.Tensor | None:
        """Return which outputs belong to each experience, (E, C) bool, if the task is given; else None."""
        return self._heads

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

    # Avalanche's steps, where ours differ.

    def make_train_dataloader(self, **kwargs: Any) -> None:
        """Load resident tensors in an order derived from the seed, or use Avalanche's loader if the data are not ours."""
        samples = resident_samples(self.adapted_dataset)
        if samples is None:
            super().make_train_dataloader(**kwargs)
            return
        order = (self.seed_data, self.experience.current_experience)
        self.dataloader = self._own_loader = ResidentLoader(samples, self.train_mb_size, self.device, order)

    def make_eval_dataloader(self, **kwargs: Any) -> None:
        """Load the experience's test samples in order."""
        samples = resident_samples(self.adapted_dataset)
        if samples is None:
            super().make_eval_dataloader(**kwargs)
            return
        self.dataloader = ResidentLoader(samples, self.eval_mb_size, self.device, None)

    def _unpack_minibatch(self) -> None:
        """Move the mini-batch to the device; resident tensors are there already."""
        if not isinstance(self.dataloader, ResidentLoader):
            super()._unpack_minibatch()

    def model_adaptation(self, model: Any = None) -> Any:
        """Grow the head to the classes of the training data; never in evaluation."""
        model = self.model if model is None else model
        if not self.is_training:
            return model
        if not hasattr(model, "head") or not hasattr(model.head, "grow"):
            return super().model_adaptation(model)
        number = self.experience.current_experience
        # Avalanche's `uniques` reads the labels one by one
        loader, targets = self.dataloader, self.adapted_dataset.targets
        labels = [int(loader.y.max())] if isinstance(loader, ResidentLoader) else targets.uniques
        model.head.grow(1 + max(labels), generator(self.seed_initialisation, "head", number))
        return model

    def check_model_and_optimizer(self, **kwargs: Any) -> None:
        """Grow the head, then set up the optimizer.

        It is a new one, or the old one with its state mapped to the parameters that grew.
        """
        before = dict(self.model.named_parameters())
        self.model = self.model_adaptation()
        number, config = self.experience.current_experience, self.training.optimizer
        if config.reset or self.optimized_param_id is None:
            self.optimizer = make_optimizer(config, self.model.named_parameters(), number, blocks_from_head(self.model))
        else:
            update_optimizer(self.optimizer, dict(self.model.named_parameters()), before)
        self.optimized_param_id = dict(self.model.named_parameters())
        set_rates(self.optimizer, config, number)

    def criterion(self) -> torch.Tensor:
        """Return the cross-entropy of the mini-batch; evaluation leaves out samples of classes that the head lacks.

        In a task-incremental stream it is taken among the classes of each sample's task, as with one head per task.
        """
        output, y = self.mask_other_tasks(self.mb_output, self.mb_task_id), self.mb_y
        if not self.is_training:
            known = y < output.shape[1]
            output, y = output[known], y[known]
        loss: torch.Tensor = self._criterion(output, y)
        return loss

    @property
    def own_outputs(self) -> Any:
        """Refuse the old name of `mask_other_tasks`: code that asks for it with hasattr would silently leave the mask out."""
        raise TypeError("own_outputs was renamed to mask_other_tasks")

    def mask_other_tasks(self, logits: torch.Tensor, tasks: torch.Tensor) -> torch.Tensor:
        """Return logits (n, K) with -inf for the classes of other tasks, if the task is given.

        `tasks` (n,): the task of each sample.
        """
        if self._heads is None:
            return logits
        own = logits.new_zeros(len(self._heads), logits.shape[1], dtype=torch.bool)
        shared = min(own.shape[1], self._heads.shape[1])  # a head that is not ours may be wider than the stream
        own[:, :shared] = self._heads[:, :shared]
        return logits.masked_fill(~own[tasks], -torch.inf)

    def forward(self) -> Any:
        """Return logits (B, K) of the mini-batch, float32 at any training precision; evaluation runs in float32 throughout."""
        if not self.is_training:
            return self.predict(self.mb_x)
        with self._autocast or nullcontext():
            features = self._frozen_features.lookup(self)
            output = self.model(self.mb_x) if features is None else self.model.head(features)
        return output if self._autocast is None else output.float()

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

    # Hooks.

    def _collect_hooks(self) -> None:
        """Collect, for each event, the plugins' methods that override the no-op."""
        self._hooks = hooks_of(self.plugins)

    def _fire(self, event: str, **kwargs: Any) -> None:
        for hook in self._hooks[event]:
            hook(self, **kwargs)


def _trigger(event: str) -> Callable[..., None]:
    """The template's method for an event; it calls only plugins that override the event's hook."""

    def method(self: AvalancheTemplate, **kwargs: Any) -> None:
        self._fire(event, **kwargs)

    return method


# the two excluded stay Avalanche's, since they set up data and head
for _event in set(EVENTS) - {"before_training_exp", "before_eval_exp"}:
    setattr(AvalancheTemplate, f"_{_event}", _trigger(_event))
