"""Avalanche's supervised template on our data path: the hooks and their order are Avalanche's, the batches are resident tensors.

The only module that subclasses Avalanche's types. What differs from the stock template: only hooks that a plugin really
overrides are called, the head grows in training only, each experience can have a new optimizer, and evaluation of the whole
stream is one pass unless a plugin has evaluation hooks.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from avalanche.models.dynamic_optimizers import update_optimizer
from avalanche.models.utils import avalanche_model_adaptation
from avalanche.training.templates import SupervisedTemplate

from . import plugins
from .bridge import avalanche_benchmark
from .evaluation import Row, TestSet, collecting, logits_of
from .loader import ResidentLoader
from .optimization import check_finite, factor, make_optimizer, num_iterations, set_rates, value_at
from .plugins import EVAL_EVENTS, EVENTS, Plugin
from .seeding import generator
from .settings import Training
from .streams import Stream, resident


class Learner(SupervisedTemplate):  # type: ignore[misc]
    """Trains a network on one experience after another and evaluates it on all of them.

    Beside Avalanche's attributes: `mb_index` (positions of the mini-batch in `adapted_dataset`), `note`, `measured`.
    """

    model: Any
    clock: Any
    dataloader: Any
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
        on_epoch: Callable[["Learner"], None] = lambda learner: None,
        on_note: Callable[[str], None] = lambda text: None,
    ) -> None:
        warnings.filterwarnings("ignore", "No loggers specified")  # the ledger is ours
        super().__init__(
            model=model.to(device),
            optimizer=make_optimizer(training.optimizer, model.parameters(), 0),
            train_mb_size=1,
            plugins=list(plugins),
            evaluator=None,
            device=device,
        )
        self.plugins = [*plugins, self.clock]  # the empty evaluator and the periodic evaluation do nothing here
        self.stream, self.training = stream, training
        self.seed_data, self.seed_initialisation = seed_data, seed_initialisation
        self.benchmark = avalanche_benchmark(stream)
        self.test_set = TestSet(stream, self.device)
        self.on_epoch, self.on_note = on_epoch, on_note
        self.epoch_loss = math.nan
        self.measured: dict[str, float] = {}  # what strategies measured in this epoch, e.g. validation_accuracy
        self.num_iterations = self.samples = 0
        self._hooks: dict[str, list[Callable[..., None]]] = {}
        self._collect_hooks()

    # What a trial calls.

    def train_experience(self, number: int) -> None:
        """Train on experience `number` (0-based)."""
        self.eval_mb_size = self.training.evaluation_batch_size
        self.train_mb_size = value_at(self.training.batch_size, number, "training.batch_size")
        self._collect_hooks()
        self.train(self.benchmark.train_stream[number], eval_streams=[])

    def evaluate(self) -> Row:
        """Accuracy on the test set of every experience; changes no state of the trial."""
        if any(plugins.overrides(plugin, event) for plugin in self._strategies for event in EVAL_EVENTS):
            with collecting(self.plugins, self.clock) as logits:
                self._collect_hooks()
                self.eval(self.benchmark.test_stream)
            self._collect_hooks()
            return self.test_set.row(torch.cat(logits))
        return self.test_set.row(logits_of(self.model, self.test_set.batches(self.training.evaluation_batch_size)))

    def trains_on(self, number: int) -> bool:
        """Whether every plugin wants training on experience `number` (0-based)."""
        num_experiences = len(self.stream.experiences)
        return all(p.trains_on(number, num_experiences) for p in self.plugins if isinstance(p, Plugin))

    @property
    def _strategies(self) -> list[Any]:
        return [plugin for plugin in self.plugins if plugin is not self.clock]

    @property
    def resumable(self) -> bool:
        """Whether all plugins can save their state (Avalanche's own cannot)."""
        return all(hasattr(plugin, "state_dict") for plugin in self._strategies)

    def state_dict(self) -> dict[str, Any]:
        """Everything that later experiences depend on: network, optimizer, plugins, clock."""
        return {
            "num_outputs": getattr(getattr(self.model, "head", None), "num_classes", None),
            "model": dict(self.model.state_dict()),
            "optimizer": None if self.training.optimizer.reset else self.optimizer.state_dict(),
            "plugins": [plugin.state_dict() for plugin in self._strategies],
            "clock": dict(vars(self.clock)),
            "samples": self.samples,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        if state["num_outputs"] is not None:
            self.model.head.grow(state["num_outputs"], torch.Generator())
        else:
            for experience in self.benchmark.train_stream[: state["clock"]["train_exp_counter"]]:
                avalanche_model_adaptation(self.model, experience)  # Avalanche's own heads grow there
            self.model.to(self.device)
        self.model.load_state_dict(state["model"])
        if state["optimizer"] is not None:
            self.optimizer = make_optimizer(self.training.optimizer, self.model.parameters(), 0)
            # without the mapping, Avalanche's first look at the parameters would wipe the state that is loaded next
            self.optimized_param_id = dict(self.model.named_parameters())
            self.optimizer.load_state_dict(state["optimizer"])
        for plugin, saved in zip(self._strategies, state["plugins"], strict=True):
            plugin.load_state_dict(saved)
        vars(self.clock).update(state["clock"])
        self.samples = state["samples"]

    # What plugins use.

    @property
    def mb_index(self) -> torch.Tensor | None:
        """Positions (B,) of the mini-batch's own samples in `adapted_dataset`; None where another loader feeds it."""
        return self.dataloader.index if isinstance(self.dataloader, ResidentLoader) else None

    def note(self, text: str) -> None:
        """Put a sentence into the ledger."""
        self.on_note(text)

    # Avalanche's steps, where ours differ.

    def make_train_dataloader(self, **kwargs: Any) -> None:
        """Resident tensors in an order derived from the seed; Avalanche's loader where the data are not ours."""
        samples = resident(self.adapted_dataset)
        if samples is None:
            super().make_train_dataloader(**kwargs)
            return
        order = (self.seed_data, self.experience.current_experience)
        self.dataloader = ResidentLoader(samples, self.train_mb_size, self.device, order)

    def make_eval_dataloader(self, **kwargs: Any) -> None:
        """The experience's test samples in order."""
        samples = resident(self.adapted_dataset)
        if samples is None:
            super().make_eval_dataloader(**kwargs)
            return
        self.dataloader = ResidentLoader(samples, self.eval_mb_size, self.device, None)

    def _unpack_minibatch(self) -> None:
        """Onto the device; resident tensors are there."""
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
        # Avalanche's uniques goes through the labels one by one
        loader, targets = self.dataloader, self.adapted_dataset.targets
        labels = [int(loader.y.max())] if isinstance(loader, ResidentLoader) else targets.uniques
        model.head.grow(1 + max(labels), generator(self.seed_initialisation, "head", number))
        return model

    def check_model_and_optimizer(self, **kwargs: Any) -> None:
        """Grow the head, then a new optimizer, or the old one with its state mapped onto the parameters that grew."""
        before = dict(self.model.named_parameters())
        self.model = self.model_adaptation()
        number, config = self.experience.current_experience, self.training.optimizer
        if config.reset or self.optimized_param_id is None:
            self.optimizer = make_optimizer(config, self.model.parameters(), number)
        else:
            update_optimizer(self.optimizer, dict(self.model.named_parameters()), before)
        self.optimized_param_id = dict(self.model.named_parameters())
        set_rates(self.optimizer, config, number)

    def _train_exp(self, experience: Any, eval_streams: Any = None, **kwargs: Any) -> None:
        """Epochs, or as many as the iterations need, of one experience."""
        number, length = experience.current_experience, len(self.dataloader)
        self.num_iterations = num_iterations(self.training, number, length)
        self.train_epochs = -(-self.num_iterations // length)
        for _ in range(self.train_epochs):
            self._collect_hooks()
            self.measured = {}
            self._before_training_epoch(**kwargs)
            if self._stop_training:
                break
            self.training_epoch(**kwargs)
            self._after_training_epoch(**kwargs)
            self.on_epoch(self)
        self._stop_training = False

    def training_epoch(self, **kwargs: Any) -> None:
        """One pass over the loader, hooks in Avalanche's order."""
        config, number = self.training, self.experience.current_experience
        base_lr = value_at(config.optimizer.lr, number, "training.optimizer.lr")
        clip = config.optimizer.clip and value_at(config.optimizer.clip, number, "training.optimizer.clip")
        scheduled = config.schedule.name != "constant" or config.schedule.warmup > 0
        early = self._hooks["before_forward"] or self._hooks["after_forward"]  # they may put terms into the loss
        total, iterations = 0.0, 0
        for mbatch in self.dataloader:
            self.mbatch = mbatch
            done = self.clock.train_exp_iterations
            if self._stop_training or done >= self.num_iterations:
                break
            if scheduled:
                for group in self.optimizer.param_groups:
                    group["lr"] = base_lr * factor(config.schedule, done, self.num_iterations)
            self._unpack_minibatch()
            self._fire("before_training_iteration")
            self.optimizer.zero_grad()
            if early:
                self.loss = self._make_empty_loss()
            self._fire("before_forward")
            self.mb_output = self.forward()
            self._fire("after_forward")
            self.loss = self.loss + self.criterion() if early else self.criterion()
            self._fire("before_backward")
            total += self._finite(self.loss)
            self.backward()
            self._fire("after_backward")
            if clip:
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip)
            self._fire("before_update")
            self.optimizer_step()
            self._fire("after_update")
            iterations += 1
            self.samples += len(self.mb_y)
            self._fire("after_training_iteration")
        self.epoch_loss = float(total) / max(1, iterations)
        self._check_finite(self.epoch_loss)

    def criterion(self) -> torch.Tensor:
        """Cross-entropy of the mini-batch; in evaluation without the samples whose class the head lacks."""
        output, y = self.mb_output, self.mb_y
        if not self.is_training:
            known = y < output.shape[1]
            output, y = output[known], y[known]
        loss: torch.Tensor = self._criterion(output, y)
        return loss

    def forward(self) -> Any:
        """Logits (B, K) of the mini-batch."""
        return self.model(self.mb_x)

    def _finite(self, loss: torch.Tensor) -> Any:
        """The loss for the running mean: on the CPU a number, checked at once; on a GPU a tensor, so that nothing waits."""
        value = loss.item() if self.device.type == "cpu" else loss.detach()
        if isinstance(value, float) and not math.isfinite(value):
            self._check_finite(value)
        return value

    def _check_finite(self, value: float) -> None:
        number = self.experience.current_experience + 1
        check_finite(value, self.training.optimizer, number, self.clock.train_exp_iterations + 1)

    # Hooks.

    def _collect_hooks(self) -> None:
        """For each event, the plugins' methods that really do something."""
        self._hooks = plugins.hooks_of(self.plugins)

    def _fire(self, event: str, **kwargs: Any) -> None:
        for hook in self._hooks[event]:
            hook(self, **kwargs)


def _trigger(event: str) -> Callable[..., None]:
    """The template's method that triggers an event, without looking at plugins that ignore it."""

    def method(self: Learner, **kwargs: Any) -> None:
        self._fire(event, **kwargs)

    return method


# stock, since these two set up data and head:
for _event in set(EVENTS) - {"before_training_exp", "before_eval_exp"}:
    setattr(Learner, f"_{_event}", _trigger(_event))
