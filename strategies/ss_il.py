"""SS-IL: use separate softmaxes for old and new classes, so that new samples do not push old logits down.

    L = (sum over samples of old classes  -log softmax_old(logits)_y  +  sum over the others  -log softmax_new(logits)_y) / B
      + weight * sum_e T^2 mean_B KL_e,   e: the past experiences
    KL_e = sum_c p log(p / q) over the classes c that were new in e,  p = softmax(teacher / T),  q = softmax(student / T)

Old are the classes of past experiences, new are all other outputs; softmax_old and softmax_new are over these outputs alone. The
teacher is a copy of the network from the start of the experience. The memory is filled by herding, and its samples join the
mini-batches. In the first experience the loss is the cross-entropy. In a stream of domains all classes are old after it: replay
with distillation as in `lwf`. In a task-incremental stream both softmaxes are also limited to a sample's task.
Shapes: B batch (new samples, then remembered ones), C outputs, K outputs of the teacher.

Source: Ahn et al. 2021 (2003.13947): T = 2, weight 1, 128 new and 32 remembered samples in a mini-batch (its code's
replay_batch_size = batch_size).
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from ..platform.config.settings import MemorySize, NonNegativeFloat, PositiveFloat, PositiveInt, settings
from ..platform.methods.herded_memory import DistilledReplay
from ..platform.methods.logit_distillation import distillation_loss_by_task
from ..platform.methods.positions import positions_on
from ..platform.training.plugin import LearnerView, replace_criterion

NEUTRAL = None
NEUTRAL_REASON = "without a memory and distillation new samples still have a separate softmax"
NEEDS_PAST = True
ROLES = ("criterion", "memory")


@settings
class Config:
    """Separate the softmax of old and new classes, distil each experience's classes, and replay (SS-IL).

    memory: total number of remembered samples; 0: none.
    batch_size: remembered samples in a mini-batch; null: their share, as if they were shuffled into the new data.
    weight: weight of the distillation, >= 0.
    temperature: T > 0 of the distillation.
    """

    memory: MemorySize = 200
    batch_size: PositiveInt | None = 32
    weight: NonNegativeFloat = 1.0
    temperature: PositiveFloat = 2.0


def separated_cross_entropy(logits: Tensor, y: Tensor, old: Sequence[int]) -> Tensor:
    """Return the cross-entropy, a scalar, of logits (B, C) and labels y (B,).

    The softmax of a sample is over the old classes if its label is one of them, else over the other classes.
    """
    is_old = torch.zeros(logits.shape[1], dtype=torch.bool, device=y.device)
    is_old[positions_on(y.device, old)] = True
    others = is_old[y].unsqueeze(1) != is_old
    return functional.cross_entropy(logits.masked_fill(others, -torch.inf), y)


class SSILPlugin(DistilledReplay[Config]):
    """Replaces the cross-entropy by the separated softmax, and distils."""

    _restore_criterion: Callable[[], None]

    def has_teacher(self, learner: LearnerView) -> bool:
        """Return true from the second experience on, unless nothing is distilled."""
        return self.config.weight > 0 and bool(self.seen.all)

    def on_start(self, learner: LearnerView) -> None:
        """Replace the criterion."""
        self._restore_criterion = replace_criterion(learner, partial(separated_cross_entropy, old=self.seen.all))

    def before_backward(self, learner: LearnerView, **kwargs: object) -> None:
        """Add the distillation of the seen classes to the loss."""
        if self.teacher:
            student, teacher = learner.mb_output.float(), self.teacher.logits(learner)
            heads = [group for group in self.seen.groups if group]
            term = distillation_loss_by_task(student, teacher, heads, self.config.temperature)
            learner.loss = learner.loss + self.config.weight * term

    def finish(self, learner: LearnerView) -> None:
        """Restore the criterion."""
        self._restore_criterion()
