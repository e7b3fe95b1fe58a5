"""Bias correction: the new classes' logits are scaled and shifted by two numbers, fitted on samples that were held out.

    L = (1 - l) L_CE + l L_KD,   l = gone / (gone + classes of the experience)
    L_KD = mean_B sum_gone p log(p / q),  p = softmax(teacher / T),  q = softmax(student / T)   over the classes that are gone
    logit_c <- alpha * logit_c + beta  for the new classes c;
    alpha, beta = argmin  L_CE(held out, corrected) + 0.05 beta^2 + 0.05 (alpha - 1)^2

Gone is a class that was met before and that the experience does not have, new is one that no experience before had. L_CE: the
loss so far, over new and remembered samples, with the terms of strategies named before. The teacher's logits are corrected as
its own experience was; the network's only in evaluation, once its training has ended. A share of the memory is held out: samples
of the validation splits, never trained on, as many of each class. The rest, chosen by herding, joins the mini-batches. Without
classes that are gone (a stream of domains) this is replay.
Shapes: B batch (new samples, then remembered ones), C outputs, K outputs of the teacher, n held out.

Source: Wu et al. 2019 (1905.13260), without T^2, as there; its code minimises by SGD, without the term for alpha. Peers:
Avalanche's BiCPlugin (val_percentage = held_out, lamb = -1: weight null) and FACIL's bic hold out training samples; FACIL and
PyCIL go on applying the corrections of all experiences.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..platform.errors import UserError
from ..platform.methods.bias_correction import corrected, fitted
from ..platform.methods.herded_memory import DistilledMemory
from ..platform.methods.logit_distillation import distillation_loss
from ..platform.methods.replay_memory import REDUNDANT_MEMORY
from ..platform.methods.validation_samples import HeldOutMemory
from ..platform.models.inference import logits_of
from ..platform.training import plugin_api

NEUTRAL: dict[str, Any] | None = {"memory": 0, "weight": 0.0}
ROLES = ("predictions", "memory")
CONFLICTS = REDUNDANT_MEMORY


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """BiC: distil, remember, and correct the new classes' logits by what held-out samples show.

    memory: how many samples are remembered in all, held-out ones among them; 0: none, and nothing is corrected.
    held_out: share of the memory that is held out, of the validation splits; at least one for each class.
    batch_size: remembered samples in a mini-batch; null: their share, as if they were shuffled into the new data.
    weight: l in [0, 1]; null: the share of classes that are gone.
    temperature: T > 0 of the distillation.
    """

    memory: int = 200
    held_out: float = 0.1
    batch_size: int | None = None
    weight: float | None = None
    temperature: float = 2.0

    def __post_init__(self) -> None:
        memory, held_out, batch_size, weight = self.memory, self.held_out, self.batch_size, self.weight
        temperature = self.temperature
        if memory < 0:
            raise ValueError(f"{memory=}: must be >= 0 samples")
        if not 0 < held_out < 1:
            raise ValueError(f"{held_out=}: must be > 0 and < 1")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"{batch_size=}: must be >= 1 sample, or null for the memory's share")
        if weight is not None and not 0 <= weight <= 1:
            raise ValueError(f"{weight=}: must be >= 0 and <= 1, or null for the share of classes that are gone")
        if not 0 < temperature < math.inf:
            raise ValueError(f"{temperature=}: must be > 0 and finite")

    @property
    def num_held(self) -> int:
        """Places of the samples that are held out."""
        return round(self.held_out * self.memory)


def needs_validation(config: Config) -> bool:
    """Whether the benchmark must set validation data aside."""
    return config.memory > 0


def check_stream(config: Config, num_classes: int, num_experiences: int) -> None:
    """Refuse a memory either part of which cannot hold one sample of each of the stream's classes."""
    held, replayed = config.num_held, config.memory - config.num_held
    if config.memory > 0 and min(held, replayed) < num_classes:
        wanted = f"must be >= {num_classes}, one for each class, in both parts: {held} held out, {replayed} replayed"
        raise UserError(f"strategies.bic.memory={config.memory}: {wanted}")


class BiCPlugin(DistilledMemory):
    """Distils while an experience is trained, and fits the correction afterwards."""

    def __init__(self, config: Config, seed: int) -> None:
        super().__init__(config.memory - config.num_held, config.batch_size, seed, "bic")
        self.config, self._held = config, HeldOutMemory(config.num_held, seed, "bic")
        self._correction: list[Any] = [[], 1.0, 0.0]  # of the last experience: classes, alpha, beta
        self._amid = False

    def has_teacher(self, learner: Any) -> bool:
        """Unless nothing is distilled."""
        return self.config.weight != 0 and super().has_teacher(learner)

    def state_dict(self) -> dict[str, Any]:
        """What is held out and the correction too."""
        return super().state_dict() | {"held": self._held.columns, "last": [*self._correction, self._amid]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them over."""
        super().load_state_dict(state)
        self._held.load_state_dict(state["held"])
        *self._correction, self._amid = state["last"]

    def predict(self, learner: Any, x: Tensor, network: Callable[[Tensor], Tensor]) -> Tensor:
        """The network's logits, corrected; amid an experience it is held to corrected logits itself."""
        return network(x) if self._amid else corrected(network(x), *self._correction)

    def before_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """The last correction is the teacher's now."""
        self._amid = True

    def before_backward(self, learner: Any, **kwargs: Any) -> None:
        """Weigh the loss so far against the distillation."""
        if self.teacher:
            gone = self.seen.absent_classes(learner)
            weight = self.config.weight
            if weight is None:
                weight = len(gone) / (len(gone) + len(set(learner.experience.classes_in_this_experience)))
            teacher = corrected(self.teacher.logits(learner), *self._correction)[:, gone]
            student, temperature = learner.mb_output[:, gone].float(), self.config.temperature
            term = (
                distillation_loss(student, teacher, temperature, "kl") / temperature**2
            )  # the paper's, up to a constant
            learner.loss = (1 - weight) * learner.loss + weight * term

    def finish(self, learner: Any) -> None:
        """Let the new samples compete for the other part of the memory too; fit the correction."""
        gone, new = self.seen.absent_classes(learner), self.seen.new_classes(learner)
        self._correction, self._amid = [[], 1.0, 0.0], False
        if self.config.memory == 0:
            return
        self._held.after_training_exp(learner)
        if gone and new:
            batches = iter(self._held.inputs(learner).split(learner.eval_mb_size))
            alpha, beta = fitted(logits_of(learner.model, batches), self._held.columns["y"], new)
            self._correction = [new, alpha, beta]
            plugin_api.note(
                learner, f"bic: the new classes' logits are scaled by {alpha:.3f} and shifted by {beta:.3f}"
            )


def build(config: Config, seed: int) -> BiCPlugin:
    """The plugin; its random numbers are derived from `seed`."""
    return BiCPlugin(config, seed)
