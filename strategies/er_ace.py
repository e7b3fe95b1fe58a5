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

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..platform.config.settings import NonNegativeInt, PositiveInt, settings
from ..platform.methods.replay_memory import separate_logits
from ..platform.methods.reservoir_memory import ReservoirPlugin
from ..platform.training.plugin import LearnerView, replace_criterion

NEEDS_PAST = True
ROLES = ("criterion", "memory")


@settings
class Config:
    """Replay samples, with a softmax over only the present classes for new samples (ER-ACE).

    memory: how many samples are remembered in all, >= 0.
    batch_size: remembered samples in a mini-batch; null: as many as new ones.
    """

    memory: NonNegativeInt = 200
    batch_size: PositiveInt | None = None


def asymmetric(logits: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy, a scalar, of logits (B, C) among the outputs of the classes in y (B,)."""
    present = torch.zeros(logits.shape[1], dtype=torch.bool, device=y.device)
    present[y] = True
    return cross_entropy(logits.masked_fill(~present, -torch.inf), y)


class ERACEPlugin(ReservoirPlugin[Config]):
    """Uses the asymmetric loss and adds that of a remembered mini-batch, from the second trained experience on."""

    STATE = ("num_trained",)
    num_trained = 0  # number of experiences
    _restore_criterion: Callable[[], None] | None = None

    def separate_batch_size(self, batch_size: int, num_trained: int) -> int:
        """Return how many remembered samples form a mini-batch, from the second trained experience on."""
        return super().separate_batch_size(batch_size, num_trained) if num_trained else 0

    def on_start(self, learner: LearnerView) -> None:
        """Replace the criterion if there are old classes."""
        if self.num_trained and self.config.memory > 0:
            self._restore_criterion = replace_criterion(learner, asymmetric)

    def before_forward(self, learner: LearnerView, **kwargs: object) -> None:
        """Add the loss of the remembered mini-batch, in a separate forward pass."""
        if self.num_trained and len(self):
            remembered = self.minibatch(learner, self.draw(learner))
            learner.loss = learner.loss + cross_entropy(separate_logits(learner, remembered), remembered[1])

    def after_training_exp(self, learner: LearnerView, **kwargs: object) -> None:
        """Restore the criterion, and count the experience."""
        self.num_trained += 1
        if self._restore_criterion is not None:
            self._restore_criterion()
            self._restore_criterion = None
