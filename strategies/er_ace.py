"""ER-ACE: experience replay in which new samples do not lower the outputs of old classes.

    L = L_CE(new; outputs of P) + L_CE(remembered; all outputs)

P are the classes in the new mini-batch: its softmax is over their outputs alone, so only the remembered samples separate new
classes from old ones. Each mini-batch has a separate forward pass. The memory is a reservoir filled during training, as in
`der`, so it contains new classes early on. In the first experience, which has no old classes, the loss is the plain
cross-entropy and nothing is replayed. On a task-incremental stream both terms are also limited to each sample's task.
Shapes: B new samples, M remembered in a mini-batch, C outputs.

Source: Caccia et al. 2022 (2104.05025). Peers: Mammoth's er_ace has buffer_size = memory and minibatch_size = batch_size
(besides P it keeps the outputs of classes that have not come yet, which a growing head lacks). Avalanche's ER_ACE halves the
sum, so it takes the same steps at half of the learning rate.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..platform.methods.replay_memory import REDUNDANT_MEMORY, separate_logits
from ..platform.methods.reservoir_memory import ReservoirPlugin
from ..platform.training.plugin import replace_criterion

NEUTRAL: dict[str, Any] | None = {"memory": 0}
ROLES = ("criterion", "memory")
CONFLICTS = REDUNDANT_MEMORY


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Replay samples, with a softmax over only the present classes for new samples (ER-ACE).

    memory: how many samples are remembered in all, >= 0.
    batch_size: remembered samples in a mini-batch; null: as many as new ones.
    """

    memory: int = 200
    batch_size: int | None = None

    def __post_init__(self) -> None:
        memory, batch_size = self.memory, self.batch_size
        if memory < 0:
            raise ValueError(f"{memory=}: must be >= 0 samples")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"{batch_size=}: must be >= 1 sample, or null for the training batch size")


def asymmetric(logits: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy, a scalar, of logits (B, C) among the outputs of the classes in y (B,)."""
    present = torch.zeros(logits.shape[1], dtype=torch.bool, device=y.device)
    present[y] = True
    return cross_entropy(logits.masked_fill(~present, -torch.inf), y)


class ERACEPlugin(ReservoirPlugin):
    """Uses the asymmetric loss and adds that of a remembered mini-batch, from the second trained experience on."""

    def __init__(self, config: Config, seed: int) -> None:
        super().__init__(config.memory, config.batch_size, seed, "er_ace")
        self._num_trained = 0
        self._undo: Callable[[], None] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the base's state, and the number of trained experiences."""
        return super().state_dict() | {"num_trained": self._num_trained}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state; `on_resume` replaces the criterion."""
        super().load_state_dict(state)
        self._num_trained = state["num_trained"]

    def before_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """Replace the criterion if there are old classes."""
        if self._num_trained and self.memory > 0:
            self._undo = replace_criterion(learner, asymmetric)

    def on_resume(self, learner: Any) -> None:
        """Replace the criterion again."""
        self.before_training_exp(learner)

    def before_forward(self, learner: Any, **kwargs: Any) -> None:
        """Add the loss of the remembered mini-batch, in a separate forward pass."""
        if self._num_trained and len(self):
            remembered = self.minibatch(learner, self.draw(learner))
            learner.loss = learner.loss + cross_entropy(separate_logits(learner, remembered), remembered[1])

    def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """Restore the criterion, and count the experience."""
        self._num_trained += 1
        if self._undo is not None:
            self._undo()
            self._undo = None


def build(config: Config, seed: int) -> ERACEPlugin:
    """Return the plugin; its random numbers are derived from `seed`."""
    return ERACEPlugin(config, seed)
