"""iCaRL: distil old classes with binary cross-entropies, keep a herded memory, classify by the nearest mean of exemplars.

    L = mean over samples of  sum over outputs c of  BCE(sigmoid(g_c), target_c)
    target_c = sigmoid(teacher_c / T)  for the absent classes,  1 if c is the sample's class else 0  for all others
    predicted class = argmin_c || f - mu_c ||,   mu_c = mean of the exemplars' f, scaled to length 1

g: logits. f: features scaled to length 1. teacher: the network from the start of the experience. A class is absent if it was
seen before and the experience does not have it. A stream of domains has no absent classes; there the method is replay with this
loss and classifier. In a task-incremental stream only the outputs of a sample's task count.
Exemplars are chosen by herding when an experience ends, by the network as it is then (name strategies that change it there
before this one). They join the mini-batches, by default as if shuffled into the new data. During the training of an experience
the outputs classify.
Shapes: B batch (new samples, then remembered ones), C outputs, K outputs of the teacher, D features.

Source: Rebuffi et al. 2017 (1611.07725), with T = 1; the sum over samples and outputs there only scales the learning rate.
Peers: Avalanche's ICaRL (memory_size = memory; fixed_memory=False: per_class) and Mammoth's average over the outputs (ours / C).
"Three types of incremental learning" (van de Ven 2022) has memory 100, per_class, T = 2.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..platform.methods.dataset_features import batched_features
from ..platform.methods.herded_memory import DistilledMemory
from ..platform.methods.herding import negative_distances, unit_class_means
from ..platform.methods.replay_memory import REDUNDANT_MEMORY, check_capacity
from ..platform.models.activation_capture import layer_outputs
from ..platform.models.features import FEATURES
from ..platform.training.plugin import replace_criterion

NEUTRAL: dict[str, Any] | None = None
NEUTRAL_REASON = "its loss (binary) and its classifier (means) differ from those of naive finetuning with any settings"
ROLES = ("criterion", "predictions", "memory")
CONFLICTS = REDUNDANT_MEMORY


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Distil by binary cross-entropy, replay a herded memory, and classify by the nearest mean of exemplars (iCaRL).

    memory: total number of remembered samples, >= 1 for each class.
    per_class: whether `memory` is the number for each class instead.
    batch_size: remembered samples in a mini-batch; null: their share, as if they were shuffled into the new data.
    temperature: T > 0 of the distilled outputs.
    """

    memory: int = 200
    per_class: bool = False
    batch_size: int | None = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        memory, batch_size, temperature = self.memory, self.batch_size, self.temperature
        if memory < 1:
            raise ValueError(f"{memory=}: must be >= 1 sample: without exemplars nothing could be classified")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"{batch_size=}: must be >= 1 sample, or null for the memory's share")
        if not 0 < temperature < math.inf:
            raise ValueError(f"{temperature=}: must be > 0 and finite")


def check_stream(config: Config, num_classes: int, num_experiences: int) -> None:
    """Refuse a memory that cannot hold one sample of each of the stream's classes."""
    if not config.per_class:
        check_capacity("strategies.icarl.memory", config.memory, num_classes)


def targets(y: Tensor, num_outputs: int, teacher: Tensor | None, absent: Sequence[int], temperature: float) -> Tensor:
    """Return the target (B, C) of each output's sigmoid, for labels y (B,).

    For the `absent` classes it is the teacher's probability, from its logits (B, K).
    """
    target = functional.one_hot(y, num_outputs).float()
    if teacher is not None and absent:
        columns = torch.as_tensor(absent, device=y.device)
        target[:, columns] = teacher[:, columns].div(temperature).sigmoid()
    return target


def binary_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return L of this file's formula, a scalar, for logits and targets (B, C); outputs of other tasks (-inf) do not count."""
    others = logits == -torch.inf
    losses = functional.binary_cross_entropy_with_logits(logits.masked_fill(others, 0.0), targets, reduction="none")
    return losses.masked_fill(others, 0.0).sum(1).mean()


class ICaRLPlugin(DistilledMemory):
    """Replaces the criterion and the classifier."""

    def __init__(self, config: Config, seed: int) -> None:
        super().__init__(config.memory, config.batch_size, seed, "icarl", config.per_class)
        self.config = config
        self._means: Tensor | None = None  # (classes in memory, D); None while an experience is trained
        self._undo: Callable[[], None] = lambda: None

    def state_dict(self) -> dict[str, Any]:
        """Return the memory's state and, between experiences, the means."""
        return super().state_dict() | ({} if self._means is None else {"means": self._means})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the memory and the means."""
        super().load_state_dict(state)
        self._means = state.get("means")

    def predict(self, learner: Any, x: Tensor, network: Callable[[Tensor], Tensor]) -> Tensor:
        """Return minus the squared distances to the means as scores (B, C), or the network's logits where there are no means.

        A class without exemplars has -inf.
        """
        if self._means is None:
            return network(x)
        logits, outputs = layer_outputs(learner.model, x)
        scores = torch.full_like(logits, -torch.inf)
        scores[:, self.columns["y"].unique().to(x.device)] = negative_distances(
            outputs[FEATURES], self._means.to(x.device)
        )
        return scores

    def before_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """Replace the criterion, and drop the means."""
        self._means = None
        self._replace(learner)

    def on_resume(self, learner: Any) -> None:
        """Rebuild the teacher, and replace the criterion again."""
        super().on_resume(learner)
        self._replace(learner)

    def finish(self, learner: Any) -> None:
        """Restore the criterion, and compute the means of the exemplars."""
        self._undo()
        batches = self.inputs(learner).split(learner.eval_mb_size)
        self._means = unit_class_means(batched_features(learner.model, batches), self.columns["y"])

    def _replace(self, learner: Any) -> None:
        self._undo = replace_criterion(learner, partial(self._criterion, learner))

    def _criterion(self, learner: Any, logits: Tensor, y: Tensor) -> Tensor:
        teacher = self.teacher.logits(learner) if self.teacher and learner.is_training else None
        target = targets(y, logits.shape[1], teacher, self.seen.absent_classes(learner), self.config.temperature)
        return binary_loss(logits, target)


def build(config: Config, seed: int) -> ICaRLPlugin:
    """Return the plugin; its random numbers are derived from `seed`."""
    return ICaRLPlugin(config, seed)
