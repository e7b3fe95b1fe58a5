"""iCaRL: distil old classes with binary cross-entropies, keep a herded memory, classify by the nearest mean of exemplars.

    L = mean over samples of  sum over outputs c of  BCE(sigmoid(g_c), target_c)
    target_c = sigmoid(teacher_c / T)  for the absent classes,  1 if c is the sample's class else 0  for all others
    predicted class = argmin_c || f - mu_c ||,   mu_c = mean of the exemplars' f, scaled to length 1

g: logits. f: features scaled to length 1. teacher: the network from the start of the experience. A class is absent if it was
seen before and the experience does not have it. A stream of domains has no absent classes; there the method is replay with this
loss and classifier. In a task-incremental stream only the outputs of a sample's task count.
Exemplars are chosen by herding when an experience ends, by the network as it is then (after other strategies have changed it
there). They join the mini-batches, by default as if shuffled into the new data. During the training of an experience the outputs
classify.
Shapes: B batch (new samples, then remembered ones), C outputs, K outputs of the teacher, D features.

Source: Rebuffi et al. 2017 (1611.07725), with T = 1; the sum over samples and outputs there only scales the learning rate.
Peers: Avalanche's ICaRL (memory_size = memory; fixed_memory=False: per_class) and Mammoth's average over the outputs (ours / C).
"Three types of incremental learning" (van de Ven 2022) has memory 100, per_class, T = 2.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional

from ..platform.config.settings import OnePerClass, PositiveFloat, PositiveInt, settings
from ..platform.methods.dataset_features import batched_features
from ..platform.methods.herded_memory import DistilledReplay
from ..platform.methods.herding import negative_distances, unit_class_means
from ..platform.methods.positions import positions_on
from ..platform.models.activation_capture import layer_outputs
from ..platform.models.features import FEATURES
from ..platform.training.plugin import LearnerView, replace_criterion

NEUTRAL = None
NEUTRAL_REASON = "its loss (binary) and its classifier (means) differ from those of naive finetuning with any settings"
NEEDS_PAST = True
ROLES = ("criterion", "predictions", "memory")


@settings
class Config:
    """Distil by binary cross-entropy, replay a herded memory, and classify by the nearest mean of exemplars (iCaRL).

    memory: total number of remembered samples, >= 1 for each class.
    per_class: whether `memory` is the number for each class instead.
    batch_size: remembered samples in a mini-batch; null: their share, as if they were shuffled into the new data.
    temperature: T > 0 of the distilled outputs.
    """

    memory: Annotated[PositiveInt, OnePerClass(per_class=False)] = 200
    per_class: bool = False
    batch_size: PositiveInt | None = None
    temperature: PositiveFloat = 1.0


def targets(y: Tensor, num_outputs: int, teacher: Tensor | None, absent: Sequence[int], temperature: float) -> Tensor:
    """Return the target (B, C) of each output's sigmoid, for labels y (B,).

    For the `absent` classes it is the teacher's probability, from its logits (B, K).
    """
    target = functional.one_hot(y, num_outputs).float()
    if teacher is not None and absent:
        columns = positions_on(y.device, absent)
        target[:, columns] = teacher[:, columns].div(temperature).sigmoid()
    return target


def binary_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return L of this file's formula, a scalar, for logits and targets (B, C); outputs of other tasks (-inf) do not count."""
    others = logits == -torch.inf
    losses = functional.binary_cross_entropy_with_logits(logits.masked_fill(others, 0.0), targets, reduction="none")
    return losses.masked_fill(others, 0.0).sum(1).mean()


class ICaRLPlugin(DistilledReplay[Config]):
    """Replaces the criterion and the classifier."""

    STATE = (*DistilledReplay.STATE, "means")
    means: Tensor | None = None  # (classes in memory, D), by rising label; None while an experience is trained

    def capacity(self, num_classes: int) -> int:
        """Return how many samples are remembered in all for `num_classes` classes."""
        return self.config.memory * num_classes if self.config.per_class else self.config.memory

    def predict(self, learner: LearnerView, x: Tensor, network: Callable[[Tensor], Tensor]) -> Tensor:
        """Return minus the squared distances to the means as scores (B, C), or the network's logits where there are no means.

        A class without exemplars has -inf.
        """
        if self.means is None:
            return network(x)
        logits, outputs = layer_outputs(learner.model, x)
        scores = torch.full_like(logits, -torch.inf)
        classes = self.memory.columns["y"].unique().to(x.device)
        scores[:, classes] = negative_distances(outputs[FEATURES], self.means.to(x.device))
        return scores

    def on_start(self, learner: LearnerView) -> None:
        """Replace the criterion, and drop the means."""
        self.means = None
        self._restore_criterion = replace_criterion(learner, partial(self._criterion, learner))

    def finish(self, learner: LearnerView) -> None:
        """Restore the criterion, and compute the means of the exemplars."""
        self._restore_criterion()
        batches = self.memory.inputs(learner).split(learner.eval_mb_size)
        self.means = unit_class_means(batched_features(learner.model, batches), self.memory.columns["y"])

    def _criterion(self, learner: LearnerView, logits: Tensor, y: Tensor) -> Tensor:
        teacher = self.teacher.logits(learner) if self.teacher and learner.is_training else None
        target = targets(y, logits.shape[1], teacher, self.seen.absent_classes(learner), self.config.temperature)
        return binary_loss(logits, target)
