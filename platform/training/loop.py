"""The training loop: an experience from its data to its last iteration, with Avalanche's hooks in Avalanche's order.

It has Avalanche's names and does not import it: a plugin written for Avalanche's template finds the same attributes here. It
differs from the template in three ways: only hooks that a plugin overrides are called, the head grows only in training, and each
experience can have a new optimizer.

Shapes: B mini-batch, C classes of the stream, E experiences.
"""

import math
from collections.abc import Callable, Sequence
from enum import Enum
from functools import cached_property
from typing import Any, NoReturn, Protocol

import torch

from ..config.schema import Training
from ..data.resident_loader import ResidentLoader
from ..data.samples import resident_samples
from ..data.stream_benchmark import StreamBenchmark
from ..data.streams import Stream
from ..errors import UserError
from ..seeding import generator
from .clock import Clock
from .compile import Compiler, compiler_of
from .optimization import (
    blocks_from_head,
    lr_factor,
    make_optimizer,
    nonfinite_loss_source,
    num_iterations,
    set_lr,
    set_rates,
    stability_advice,
    value_at,
)
from .optimizer_update import update_optimizer
from .per_sample_cache import Appended
from .plugin import hooks_of, strategy_name
from .steps import Steps

_ONE_SAMPLE = "Expected more than 1 value per channel"  # torch's message
Augment = Callable[[torch.Tensor, tuple[int, int, int]], torch.Tensor]  # (x, (experience, epoch, iteration)) -> x


class Phase(Enum):
    """What a loop is doing."""

    IDLE = "between experiences"
    RESUMED = "restored mid-experience, not yet trained since"
    TRAINING = "training on an experience"
    EVALUATING = "evaluating, with hooks"


class Benchmark(Protocol):
    """The experiences to train on and to evaluate on, such as a benchmark of Avalanche.

    Each has `current_experience` (its number) and `dataset`, with methods `train` and `eval`.
    """

    train_stream: Sequence[Any]
    valid_stream: Sequence[Any]
    test_stream: Sequence[Any]


class Loop(Steps):
    """Trains a network on experiences, one call of `train_experience` each.

    Attributes:
        phase: what the loop is doing.
        experience: the experience that is trained or evaluated; None between experiences.
        adapted_dataset: its data, which plugins may replace.
        dataloader: yields its mini-batches; [] between experiences.
        clock: counters of experiences, epochs and iterations.
        train_epochs: number of epochs of the experience, the last one perhaps not complete.
        num_iterations: number of iterations of the experience.
        measured: what strategies measured in this epoch, e.g. validation_accuracy.
        total: sum of the losses in this epoch so far.
        epoch_loss: mean loss of the last epoch.
        samples: number of samples trained on so far.
    """

    experience: Any
    adapted_dataset: Any

    def __init__(
        self,
        *,
        model: torch.nn.Module,
        stream: Stream,
        training: Training,
        benchmark: Benchmark | None = None,
        plugins: Sequence[Any] = (),
        seed_data: int = 0,
        seed_initialisation: int = 0,
        device: torch.device | str = "cpu",
        on_epoch: Callable[[Any], None] = lambda learner: None,
        on_note: Callable[[str], None] = lambda text: None,
        on_iteration: Callable[[Any], None] = lambda learner: None,
        augment: Augment | None = None,
    ) -> None:
        """Prepare to train `model` on the experiences of `stream`; `benchmark`: the same experiences, made for Avalanche."""
        device = torch.device(device)
        # task-incremental: only the classes of a sample's experience count, as with one head per experience
        heads = stream.class_mask.to(device) if stream.scenario == "task" else None
        super().__init__(model, training, device, heads)
        self.stream, self.benchmark = stream, StreamBenchmark(stream) if benchmark is None else benchmark
        self.seed_data, self.seed_initialisation = seed_data, seed_initialisation
        self.on_epoch, self.on_note, self.on_iteration = on_epoch, on_note, on_iteration
        self.augment = augment
        self.clock: Any = Clock()
        self.plugins = [*plugins, self.clock]
        self._hooks: dict[str, list[Callable[..., None]]] = {}
        self._plugins_augment = any(getattr(plugin, "augments", False) for plugin in plugins)
        self.phase = Phase.IDLE
        self._stop_training = False
        self._max_norm: float | None = None  # of the gradients
        self.train_mb_size = self.eval_mb_size = self.train_epochs = 1  # until the first experience sets them
        self.num_iterations = self.samples = 0
        self.epoch_loss = math.nan
        self.total: Any = 0.0
        self.measured: dict[str, float] = {}
        self._own_loader: ResidentLoader | None = None
        self._forget_experience()

    # Training, from top to bottom.

    def train_experience(self, number: int) -> None:
        """Train on experience `number` (0-based), or on the rest of it if it was reopened."""
        if self.phase is not Phase.RESUMED:
            self._enter(Phase.TRAINING)
            self._set_up(number)
            self.model.to(self.device)
            self._call_hooks("before_training")
            self.experience = self.benchmark.train_stream[number]
            self._call_hooks("before_train_dataset_adaptation")
            self.train_dataset_adaptation()
            self._call_hooks("after_train_dataset_adaptation")
            self.make_train_dataloader()
            self.check_model_and_optimizer()
            self._call_hooks("before_training_exp")
        self._train_epochs(number)
        self._call_hooks("after_training_exp")
        self._call_hooks("after_training")
        self._forget_experience()
        self._enter(Phase.IDLE)

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        self.is_training = phase in (Phase.TRAINING, Phase.RESUMED)

    def _set_up(self, number: int) -> None:
        """Prepare network, hooks and sizes for the training on experience `number`."""
        self.model.train()
        self._collect_hooks()
        self._stop_training = False
        self.train_mb_size = value_at(self.training.batch_size, number, "training.batch_size")
        self.eval_mb_size = self.training.evaluation_batch_size
        clip = self.training.optimizer.clip
        self._max_norm = None if clip is None else value_at(clip, number, "training.optimizer.clip")

    def _train_epochs(self, number: int) -> None:
        """Train for the experience's epochs, or as many as its iterations need."""
        length = len(self.dataloader)
        self.num_iterations = num_iterations(self.training, number, length)
        self.train_epochs = -(-self.num_iterations // length)
        for _ in range(self.clock.train_exp_epochs, self.train_epochs):
            self._collect_hooks()
            if self.phase is not Phase.RESUMED:
                self.measured, self.total = {}, 0.0
                self._call_hooks("before_training_epoch")
                if self._stop_training:
                    break
            self._enter(Phase.TRAINING)
            try:
                if self._compiler is None:
                    self.training_epoch()
                else:
                    self._compiler.run_epoch(self)
            except ValueError as error:
                explained = self._batch_of_one_error(error)
                if explained is None:
                    raise
                raise explained from error
            self._call_hooks("after_training_epoch")
            self.on_epoch(self)
        self._stop_training = False

    def training_epoch(self) -> None:
        """Train for one pass over the loader, or for the rest of it."""
        config, number = self.training, self.experience.current_experience
        base_lr = value_at(config.optimizer.lr, number, "training.optimizer.lr")
        scheduled = config.schedule.name != "constant" or config.schedule.warmup > 0
        step = self.recorded_step or self.training_step
        for mbatch in self.dataloader:
            iteration = self.clock.train_exp_iterations
            if self._stop_training or iteration >= self.num_iterations:
                break
            self.on_iteration(self)
            self.mbatch = mbatch
            if scheduled:
                set_lr(self.optimizer, base_lr * lr_factor(config.schedule, iteration, self.num_iterations))
            self._unpack_minibatch()
            self._call_hooks("before_training_iteration")
            if self.augment is not None:
                position = (number, self.clock.train_exp_epochs, self.clock.train_epoch_iterations)
                self.mbatch[0] = self.augment(self.mb_x, position)
            step()
            self.samples += len(self.mb_y)
            self._call_hooks("after_training_iteration")
        self.epoch_loss = float(self.total) / max(1, self.clock.train_epoch_iterations)
        self.check_loss_finite()

    def training_step(self) -> None:
        """Train on the mini-batch."""
        self.compute_gradients()
        self.update_weights()

    def compute_gradients(self) -> None:
        """Compute the gradients of the mini-batch's loss, and clip them."""
        self.optimizer.zero_grad()
        early = self._hooks["before_forward"] or self._hooks["after_forward"]  # these hooks may add terms to the loss
        if early:
            self.loss = self._make_empty_loss()
        self._call_hooks("before_forward")
        self.mb_output = self.forward()
        self._call_hooks("after_forward")
        self.loss = self.loss + self.criterion() if early else self.criterion()
        self._call_hooks("before_backward")
        self.total += self._loss_value()
        self.backward()
        self._call_hooks("after_backward")
        self.clip_gradients()

    def update_weights(self) -> None:
        """Step the optimizer."""
        self._call_hooks("before_update")
        self.optimizer_step()
        self._call_hooks("after_update")

    @cached_property
    def _compiler(self) -> Compiler | None:
        """What runs compiled epochs; None if `training.compile` is null."""
        return compiler_of(self.training.compile, self.device)

    # Data, head and optimizer of an experience, under Avalanche's names.

    def train_dataset_adaptation(self) -> None:
        """Take the experience's training data; plugins may replace them."""
        self.adapted_dataset = self.experience.dataset.train()

    def make_train_dataloader(self) -> None:
        """Load mini-batches in an order that follows from the seed."""
        samples = resident_samples(self.adapted_dataset)
        if samples is None:
            self.make_foreign_dataloader()
            return
        order = (self.seed_data, self.experience.current_experience)
        self.dataloader = self._own_loader = ResidentLoader(samples, self.train_mb_size, self.device, order)

    def make_foreign_dataloader(self) -> None:
        """Set `dataloader` for an `adapted_dataset` that is not made of a stream's arrays; `AvalancheLearner` can.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            f"{type(self.adapted_dataset).__qualname__}: is not made of a stream's arrays, which the loader needs"
        )

    def check_model_and_optimizer(self) -> None:
        """Grow the head, then set up the optimizer: a new one, or the old one with its state, over all parameters."""
        before = dict(self.model.named_parameters())
        self.model = self.model_adaptation()
        number, config = self.experience.current_experience, self.training.optimizer
        if config.reset or self.clock.train_exp_counter == 0:
            self.optimizer = make_optimizer(config, self.model.named_parameters(), number, blocks_from_head(self.model))
        else:
            update_optimizer(self.optimizer, dict(self.model.named_parameters()), before)
        set_rates(self.optimizer, config, number)

    def model_adaptation(self, model: Any = None) -> Any:
        """Grow the head of `model` (default: the network) to the classes of the training data; return the model."""
        model = self.model if model is None else model
        if not self.is_training:
            return model
        if not hasattr(model, "head") or not hasattr(model.head, "grow"):
            self.grow_foreign_head(model, self.experience)
            return model.to(self.device)
        loader = self.dataloader
        labels = [loader.y.max()] if isinstance(loader, ResidentLoader) else self.adapted_dataset.targets
        rng = generator(self.seed_initialisation, "head", self.experience.current_experience)
        model.head.grow(1 + max(map(int, labels)), rng)
        return model

    def grow_foreign_head(self, model: Any, experience: Any) -> None:
        """Grow a head that has no method `grow` to an experience's classes; nothing grows it here, `AvalancheLearner` can."""

    # The loss.

    def _loss_value(self) -> Any:
        """The loss for the running mean: on the CPU a number, checked at once; on a GPU a tensor, to avoid waiting for it."""
        value = self.loss.item() if self.reads_losses else self.loss.detach()
        if isinstance(value, float) and not math.isfinite(value):
            source = nonfinite_loss_source(self, self._hooks["before_backward"])
            self._raise_diverged(value, f"iteration {self.clock.train_exp_iterations + 1}{source}")
        return value

    def check_loss_finite(self) -> None:
        """Raise FloatingPointError if a loss of this epoch was not finite; on a GPU this waits for the losses."""
        value = float(self.total)
        if not math.isfinite(value):
            epoch, last = self.clock.train_exp_epochs + 1, self.clock.train_exp_iterations
            self._raise_diverged(value, f"epoch {epoch}, by iteration {last} (a GPU's losses are read once per epoch)")

    def _raise_diverged(self, value: float, where: str) -> NoReturn:
        strategies = ", ".join(map(strategy_name, self.strategies)) or "none"
        raise FloatingPointError(
            f"the loss became {value} in experience {self.experience.current_experience + 1}, {where} "
            f"(strategies: {strategies}): {stability_advice(self.training.optimizer, self.experience.current_experience)}"
        )

    def _batch_of_one_error(self, error: ValueError) -> UserError | None:
        """Return an explanation of torch's error for BatchNorm on one sample; None for any other error."""
        if _ONE_SAMPLE not in str(error):
            return None
        where = f"experience {self.experience.current_experience + 1}, iteration {self.clock.train_exp_iterations + 1}"
        if len(self.mb_y) == 1:
            cause, size = f"{len(self.adapted_dataset)} samples leave one for a mini-batch", self.train_mb_size
            cause, remedy = f"{cause} of training.batch_size={size}", "choose another training.batch_size"
        else:
            names = ", ".join(map(strategy_name, self.strategies))
            cause = f"a strategy passes a single sample through the network (strategies: {names})"
            remedy = "let it remember or replay more samples"
        return UserError(f"{where}: {cause}, which BatchNorm cannot normalise: {remedy}.")

    def _forget_experience(self) -> None:
        """Forget the experience, its data and the last mini-batch."""
        self.experience = None
        self.adapted_dataset = None
        self.dataloader = []
        self.mbatch = None
        self.appended: Appended | None = None
        self.mb_output = None
        self.loss = self._make_empty_loss()

    # Hooks.

    def _collect_hooks(self) -> None:
        """Collect, for each event, the plugins' methods that override the no-op; again each epoch, since plugins may change."""
        self._hooks = hooks_of(self.plugins)
        self._plugins_augment = any(getattr(plugin, "augments", False) for plugin in self.plugins)

    def _call_hooks(self, event: str) -> None:
        """Call the plugins' methods for an event, in the order of the plugins."""
        for hook in self._hooks[event]:
            hook(self)

    # Used by plugins.

    @property
    def mb_index(self) -> torch.Tensor | None:
        """Return positions (B,) in `adapted_dataset` of the samples from our loader; None with another loader."""
        return self.dataloader.index if isinstance(self.dataloader, ResidentLoader) else None

    def note_appended(self, memory: torch.Tensor, index: torch.Tensor) -> None:
        """Note that the last rows of the mini-batch are the samples at `index` (M,) of a memory (m, *shape)."""
        self.appended = Appended(memory, index, self.mb_x, self.mb_x._version)

    @property
    def is_eval(self) -> bool:
        """Return whether the loop does not train."""
        return not self.is_training

    @property
    def augments(self) -> bool:
        """Return whether the network sees a sample differently each time."""
        return self.augment is not None or self._plugins_augment

    def clip_gradients(self) -> None:
        """Scale the gradients so that their norm, over all parameters, is at most `training.optimizer.clip` (null: do nothing).

        Pascanu et al. 2013 (1211.5063).
        """
        if self._max_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._max_norm)

    def stop_training(self) -> None:
        """End the training of this experience before the next iteration."""
        self._stop_training = True
