"""End-to-end incremental learning: a distilled loss on new and old samples, then finetuning on equally many of each class.

    L = L_CE + weight * sum_e mean_B KL_e,   e: the experiences before
    KL_e = sum_c p log(p / q) over the classes c that e added,  p = softmax(teacher / T),  q = softmax(student / T)

Balanced finetuning follows the training of each experience from the second on. The memory first takes in the new classes
(equally many samples of each, by herding). Then the network is trained on it for `epochs` with the same loss, at `lr_factor`
times the learning rate that the experience began with, by a new optimizer of the same kind. The classes that the experience
added are distilled there too, from the network as its training left it. What was frozen in the last epoch stays frozen. It
runs in float32, without augmentation or schedule. The teacher is the network as it was before the experience. New
classes are those that no experience before had. A stream of domains adds none after the first: all classes are distilled, and
finetuned too.
Shapes: B batch (new samples, then remembered ones), C outputs, K outputs of the teacher, m in memory.

Source: Castro et al. 2018 (1807.09536), without T^2, as there; without its noise on gradients, and new exemplars are chosen
before the finetuning. Peers: FACIL's eeil has lamb = weight, nepochs_finetuning = epochs, lr_finetuning_factor = lr_factor.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ..platform.config.settings import (
    MemorySize,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    settings,
)
from ..platform.methods.balanced_finetuning import Finetuning
from ..platform.methods.herded_memory import DistilledReplay
from ..platform.methods.logit_distillation import distillation_loss_by_task
from ..platform.methods.teacher import LOGITS
from ..platform.models.inference import logits_of
from ..platform.training.plugin import EndOrder, LearnerView
from ..platform.training.plugin_api import mask_other_tasks

NEUTRAL = {"memory": 0, "weight": 0.0}
NEEDS_PAST = True
ROLES = ("memory", "second loss")


@settings
class Config:
    """Distil each experience's classes, replay a herded memory, and finetune on balanced data (EEIL).

    memory: how many samples are remembered in all; 0: none, and nothing is finetuned.
    batch_size: remembered samples in a mini-batch; null: their share, as if they were shuffled into the new data.
    weight: of the distillation, >= 0.
    temperature: T > 0 of the distillation.
    epochs: of the balanced finetuning, over the memory; 0: none.
    lr_factor: learning rate of the finetuning, relative to the experience's.
    """

    memory: MemorySize = 200
    batch_size: PositiveInt | None = None
    weight: NonNegativeFloat = 1.0
    temperature: PositiveFloat = 2.0
    epochs: NonNegativeInt = 30
    lr_factor: PositiveFloat = 0.1


def distillation(student: Tensor, teacher: Tensor, groups: Sequence[Sequence[int]], temperature: float) -> Tensor:
    """Return sum_e mean_B KL_e, a scalar: logits (B, >= K) of student and teacher, the classes of each experience."""
    heads = [group for group in groups if group]
    return distillation_loss_by_task(student, teacher, heads, temperature) / temperature**2


class EEILPlugin(DistilledReplay[Config]):
    """Distils while an experience is trained, and finetunes afterwards."""

    STATE = (*DistilledReplay.STATE, "finetuning")
    end_order = EndOrder.CHANGE_WEIGHTS

    def init_state(self) -> None:
        """Set the initial state."""
        super().init_state()
        self.finetuning = Finetuning(self.seed, "eeil")

    def has_teacher(self, learner: LearnerView) -> bool:
        """Return whether there is a teacher: from the second experience on, unless nothing is distilled."""
        return self.config.weight > 0 and bool(self.seen.all)

    def before_training_exp(self, learner: LearnerView, **kwargs: object) -> None:
        """Record the optimizer's learning rates."""
        self.finetuning.record_learning_rates(learner)

    def before_backward(self, learner: LearnerView, **kwargs: object) -> None:
        """Add the distillation of the seen classes."""
        if self.teacher:
            student, teacher = learner.mb_output.float(), self.teacher.logits(learner)
            term = distillation(student, teacher, self.seen.groups, self.config.temperature)
            learner.loss = learner.loss + self.config.weight * term

    def after_training_epoch(self, learner: LearnerView, **kwargs: object) -> None:
        """Record what is frozen."""
        self.finetuning.record_frozen(learner)

    def finish(self, learner: LearnerView) -> None:
        """Finetune on the memory."""
        config = self.config
        if not len(self.memory) or not self.seen.all or not config.epochs:
            return
        x, y, tasks = self.memory.inputs(learner), self.memory.columns["y"], self.memory.columns["t"]
        soft = self._soft_targets(learner, x) if self.teacher else None
        groups = [*self.seen.groups, self.seen.new_classes(learner)]

        def loss(logits: Tensor, index: Tensor) -> Tensor:
            value = functional.cross_entropy(mask_other_tasks(learner, logits, tasks[index]), y[index])
            if soft is None:
                return value
            return value + config.weight * distillation(logits, soft[index], groups, config.temperature)

        self.finetuning.run(learner, x, loss, config.epochs, config.lr_factor)

    def _soft_targets(self, learner: LearnerView, x: Tensor) -> Tensor:
        """Logits (m, C): the teacher's for the seen classes, the current network's for the others."""
        soft = logits_of(learner.model, iter(x.split(learner.eval_mb_size)))
        old = torch.cat([self.teacher.outputs_for(each)[LOGITS] for each in x.split(learner.eval_mb_size)])
        soft[:, self.seen.all] = old[:, self.seen.all]
        return soft
