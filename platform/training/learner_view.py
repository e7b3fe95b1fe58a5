"""The types of what a strategy may use of its learner: our `Learner`, or a template of Avalanche in a plain script.

A strategy's hooks take a `LearnerView`, so that mypy checks them. What only our learner has (`note`, `measured`,
`mask_other_tasks`, `augment`, ...) is reached through `plugin_api`, which also works with an Avalanche template.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Clock(Protocol):
    """Avalanche's counters of training."""

    @property
    def train_exp_counter(self) -> int:
        """Return the number of experiences whose training has ended."""

    @property
    def train_iterations(self) -> int:
        """Return the number of iterations, over all experiences."""

    @property
    def train_exp_epochs(self) -> int:
        """Return the number of epochs of this experience that have ended."""

    @property
    def train_exp_iterations(self) -> int:
        """Return the number of iterations of this experience that have ended."""

    @property
    def train_epoch_iterations(self) -> int:
        """Return the number of iterations of this epoch that have ended."""


class ExperienceView(Protocol):
    """An experience of an Avalanche stream."""

    dataset: Any
    origin_stream: Any

    @property
    def current_experience(self) -> int:
        """Return its number, from 0."""

    @property
    def classes_in_this_experience(self) -> Sequence[int]:
        """Return its classes, as positions among the head's outputs."""


class LearnerView(Protocol):
    """A learner while it trains.

    Shapes: B mini-batch, C outputs of the head.

    Attributes:
        model: the network; its head may have grown since the experience before.
        optimizer: of this experience.
        experience: the experience that is trained or evaluated.
        adapted_dataset: the data that it is trained on.
        clock: counters of experiences, epochs and iterations.
        mbatch: the mini-batch [x, y, t], on the device; rows may be appended in `before_training_iteration`.
        mb_output: logits (B, C), from `after_forward` on.
        loss: a scalar, from `before_backward` on (or from `before_forward` on, where terms may be added too).
        plugins: all plugins, in the order of their hooks.
        is_training: False in evaluation.
        train_mb_size: samples in a mini-batch of training; `eval_mb_size`: of evaluation.
        train_epochs: the number of epochs of this experience.
        device: where network and mini-batches are.
    """

    model: Any  # a module; strategies reach into networks that they changed
    optimizer: "torch.optim.Optimizer"
    _criterion: Any  # (logits (B, C), y (B,)) -> scalar; change it through `plugin.replace_criterion`
    experience: Any  # an ExperienceView; Any, since Avalanche's experiences have no common type
    adapted_dataset: Any
    mbatch: Any
    mb_output: Any
    loss: Any
    plugins: Any
    is_training: bool
    train_mb_size: Any
    eval_mb_size: Any
    train_epochs: Any
    device: Any

    @property
    def clock(self) -> Clock:
        """Return the counters."""

    @property
    def mb_x(self) -> "Tensor":
        """Return the inputs (B, *shape) of the mini-batch."""

    @property
    def mb_y(self) -> "Tensor":
        """Return the labels (B,) of the mini-batch."""

    @property
    def mb_task_id(self) -> "Tensor":
        """Return the task labels (B,) of the mini-batch."""

    def forward(self) -> Any:
        """Return the logits (B, C) of the mini-batch `mbatch`."""

    def stop_training(self) -> None:
        """End the training of this experience before the next iteration."""
