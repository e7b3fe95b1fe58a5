"""Bias correction: scale and shift the new classes' logits by two numbers that are fitted on held-out samples.

    L = (1 - l) L_CE + l L_KD,   l = absent / (absent + classes of the experience)
    L_KD = mean_B sum_absent p log(p / q),  p = softmax(teacher / T),  q = softmax(student / T)   over the absent classes
    logit_c <- alpha * logit_c + beta  for the new classes c;
    alpha, beta = argmin  L_CE(held out, corrected) + 0.05 beta^2 + 0.05 (alpha - 1)^2

A class is absent if it was seen before and the experience lacks it. A class is new if no experience before had it. L_CE is the
loss so far, over new and remembered samples, with the terms of strategies named before. The teacher's logits are corrected as
after the last experience. The network's logits are corrected only in evaluation, once its training has ended. A share of the
memory is held out: samples of the validation splits, never trained on, the same number of each class. The rest, chosen by
herding, joins the mini-batches. Without absent classes (a stream of domains) this is replay.
Shapes: B batch (new samples, then remembered ones), C outputs, K outputs of the teacher, n held out.

Source: Wu et al. 2019 (1905.13260), without T^2, as there. Its code minimises by SGD, without the term for alpha. Peers:
Avalanche's BiCPlugin (val_percentage = held_out, lamb = -1: weight null) and FACIL's bic hold out training samples. FACIL and
PyCIL keep applying the corrections of all experiences.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..platform.errors import UserError
from ..platform.methods.bias_correction import correct_logits, fit_correction
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
    """Distil, replay a herded memory, and correct the new classes' logits by means of held-out samples (BiC).

    memory: how many samples are remembered in all, including held-out ones; 0: none, and nothing is corrected.
    held_out: share of the memory that is held out, from the validation splits; at least one sample of each class.
    batch_size: remembered samples in a mini-batch; null: their share, as if they were shuffled into the new data.
    weight: l in [0, 1]; null: the share of absent classes.
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
            raise ValueError(f"{weight=}: must be >= 0 and <= 1, or null for the share of absent classes")
        if not 0 < temperature < math.inf:
            raise ValueError(f"{temperature=}: must be > 0 and finite")

    @property
    def num_held(self) -> int:
        """Return the number of held-out samples."""
        return round(self.held_out * self.memory)


def needs_validation(config: Config) -> bool:
    """Return whether the benchmark must set validation data aside."""
    return config.memory > 0


def check_stream(config: Config, num_classes: int, num_experiences: int) -> None:
    """Refuse a memory with a part that cannot hold one sample of each of the stream's classes."""
    held_out, replayed = config.num_held, config.memory - config.num_held
    if config.memory > 0 and min(held_out, replayed) < num_classes:
        requirement = (
            f"must be >= {num_classes}, one for each class, in both parts: {held_out} held out, {replayed} replayed"
        )
        raise UserError(f"strategies.bic.memory={config.memory}: {requirement}")


class BiCPlugin(DistilledMemory):
    """Distils while an experience is trained, and fits the correction afterwards."""

    def __init__(self, config: Config, seed: int) -> None:
        super().__init__(config.memory - config.num_held, config.batch_size, seed, "bic")
        self.config, self._held = config, HeldOutMemory(config.num_held, seed, "bic")
        self._correction: list[Any] = [[], 1.0, 0.0]  # of the last experience: classes, alpha, beta
        self._in_experience = False

    def has_teacher(self, learner: Any) -> bool:
        """Return whether there is a teacher; none if nothing is distilled."""
        return self.config.weight != 0 and super().has_teacher(learner)

    def state_dict(self) -> dict[str, Any]:
        """Return the base's state, the held-out samples and the correction."""
        return super().state_dict() | {"held": self._held.columns, "last": [*self._correction, self._in_experience]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state."""
        super().load_state_dict(state)
        self._held.load_state_dict(state["held"])
        *self._correction, self._in_experience = state["last"]

    def predict(self, learner: Any, x: Tensor, network: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the corrected logits; mid-experience the network itself is trained towards corrected logits."""
        return network(x) if self._in_experience else correct_logits(network(x), *self._correction)

    def before_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """Stop correcting the network: the last correction now belongs to the teacher."""
        self._in_experience = True

    def before_backward(self, learner: Any, **kwargs: Any) -> None:
        """Weight the loss so far against the distillation."""
        if self.teacher:
            absent = self.seen.absent_classes(learner)
            weight = self.config.weight
            if weight is None:
                weight = len(absent) / (len(absent) + len(set(learner.experience.classes_in_this_experience)))
            teacher = correct_logits(self.teacher.logits(learner), *self._correction)[:, absent]
            student, temperature = learner.mb_output[:, absent].float(), self.config.temperature
            # the paper's, up to a constant
            term = distillation_loss(student, teacher, temperature, "kl") / temperature**2
            learner.loss = (1 - weight) * learner.loss + weight * term

    def finish(self, learner: Any) -> None:
        """Update the held-out samples too, and fit the correction."""
        absent, new = self.seen.absent_classes(learner), self.seen.new_classes(learner)
        self._correction, self._in_experience = [[], 1.0, 0.0], False
        if self.config.memory == 0:
            return
        self._held.after_training_exp(learner)
        if absent and new:
            batches = iter(self._held.inputs(learner).split(learner.eval_mb_size))
            alpha, beta = fit_correction(logits_of(learner.model, batches), self._held.columns["y"], new)
            self._correction = [new, alpha, beta]
            plugin_api.note(
                learner, f"bic: the new classes' logits are scaled by {alpha:.3f} and shifted by {beta:.3f}"
            )


def build(config: Config, seed: int) -> BiCPlugin:
    """Return the plugin; its random numbers are derived from `seed`."""
    return BiCPlugin(config, seed)
