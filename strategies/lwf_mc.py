"""LwF.MC: one binary classifier per class; new classes learn from labels, old classes from the old network's outputs.

    L = 1 / (B C) * sum_B (sum_{c in N} bce(student_c, [y = c]) + weight * sum_{k < K} bce(student_k, sigmoid(teacher_k)))
    bce(s, p) = -p log sigmoid(s) - (1 - p) log(1 - sigmoid(s)) = log(1 + exp(s)) - p s

N are the classes of the experience. The teacher is a copy of the network from the start of the experience; K is the number of its
outputs. L replaces the cross-entropy, from the first experience on. A sample of an old class (from a memory) is a negative for N,
and its only label is the teacher's output: that is iCaRL's loss. Where classes come again (a stream of domains) their outputs
have both terms. The mean over the C outputs makes the loss small, so it needs a larger learning rate.
Shapes: B batch, C classes, K old outputs (K <= C). All logits are pre-sigmoid.

Source: Rebuffi et al. 2017 (1611.07725), where LwF.MC is iCaRL's network without its memory. Peers: Avalanche's
ICaRLLossPlugin is weight = 1 (same scale), as the authors' code. FACIL's icarl keeps the cross-entropy and adds only the
second sum, not divided by C (its lamb).
"""

import torch
from torch import Tensor, nn

from ..platform.config.settings import NonNegativeFloat, settings
from ..platform.methods.teacher import Teacher
from ..platform.training.plugin import LearnerView, Plugin, replace_criterion

NEUTRAL = None
NEUTRAL_REASON = "its classification loss is binary cross-entropy: with weight 0 that is not naive finetuning either"
NEEDS_PAST = True
ROLES = ("criterion",)
NO_FULL_HEAD = "it distils all outputs of the old network, which would include those of new classes"


@settings
class Config:
    """Train by binary cross-entropy, with labels for new classes and the old network's outputs for old ones (LwF.MC).

    weight: weight of the term for old outputs, >= 0.
    """

    weight: NonNegativeFloat = 1.0


def binary(logits: Tensor, targets: Tensor) -> Tensor:
    """Return bce of this file's formula, elementwise; a logit of -inf with target 0 costs nothing."""
    return nn.functional.softplus(logits) - torch.where(targets > 0, targets * logits, 0.0)


def classification(logits: Tensor, y: Tensor, classes: Tensor) -> Tensor:
    """Return the first sum / (B C), a scalar, for logits (B, C), labels (B,) and N as `classes` (n,)."""
    targets = (y.unsqueeze(1) == classes).to(logits.dtype)
    return binary(logits[:, classes], targets).sum() / logits.numel()


def distillation(logits: Tensor, teacher: Tensor) -> Tensor:
    """Return the second sum / (B C), a scalar, for logits (B, C) and the teacher's (B, K)."""
    return binary(logits[:, : teacher.shape[1]], teacher.sigmoid()).sum() / logits.numel()


class LwFMCPlugin(Plugin[Config]):
    """Replaces the criterion, and adds the term for old outputs from the second trained experience on."""

    STATE = ("num_trained", "teacher")
    capturable = True

    def init_state(self) -> None:
        """Set the initial state."""
        self.num_trained, self.teacher = 0, Teacher()

    def before_train_dataset_adaptation(self, learner: LearnerView, **kwargs: object) -> None:
        """Make the network the teacher, before it sees the new experience."""
        if self.num_trained and self.config.weight > 0:
            self.teacher.take(learner.model)

    def on_start(self, learner: LearnerView) -> None:
        """Replace the criterion."""
        classes = torch.tensor(sorted(learner.experience.classes_in_this_experience), device=learner.device)
        self._restore_criterion = replace_criterion(learner, lambda logits, y: classification(logits, y, classes))

    def before_backward(self, learner: LearnerView, **kwargs: object) -> None:
        """Add the term for old outputs to the loss."""
        if self.teacher:
            term = distillation(learner.mb_output.float(), self.teacher.logits(learner))
            learner.loss = learner.loss + self.config.weight * term

    def after_training_exp(self, learner: LearnerView, **kwargs: object) -> None:
        """Restore the criterion, count the experience, and drop the teacher."""
        self._restore_criterion()
        self.num_trained += 1
        self.teacher.drop()
