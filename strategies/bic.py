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

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from torch import Tensor

from ..platform.config.settings import Interval, NonNegativeInt, PositiveFloat, PositiveInt, UnitInterval, settings
from ..platform.errors import UserError
from ..platform.methods.bias_correction import correct_logits, fit_correction
from ..platform.methods.herded_memory import DistilledReplay
from ..platform.methods.logit_distillation import distillation_loss
from ..platform.methods.positions import positions_on
from ..platform.methods.replay_memory import ReplayMemory, keep_balanced
from ..platform.methods.validation_samples import required_validation_dataset
from ..platform.models.inference import logits_of
from ..platform.training import plugin_api
from ..platform.training.plugin import LearnerView

NEUTRAL = {"memory": 0, "weight": 0.0}
NEEDS_PAST = True
ROLES = ("predictions", "memory")


@settings
class Config:
    """Distil, replay a herded memory, and correct the new classes' logits by means of held-out samples (BiC).

    memory: how many samples are remembered in all, including held-out ones; 0: none, and nothing is corrected.
    held_out: share of the memory that is held out, from the validation splits; at least one sample of each class.
    batch_size: remembered samples in a mini-batch; null: their share, as if they were shuffled into the new data.
    weight: l in [0, 1]; null: the share of absent classes.
    temperature: T > 0 of the distillation.
    """

    memory: NonNegativeInt = 200
    held_out: Annotated[float, Interval(gt=0, lt=1)] = 0.1
    batch_size: PositiveInt | None = None
    weight: UnitInterval | None = None
    temperature: PositiveFloat = 2.0

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
        parts = f"{held_out} held out, {replayed} replayed"
        raise UserError(f"strategies.bic.memory={config.memory}: must be at least {num_classes} in both parts: {parts}")


class BiCPlugin(DistilledReplay[Config]):
    """Distils while an experience is trained, and fits the correction afterwards."""

    STATE = (*DistilledReplay.STATE, "held_out")

    def init_state(self) -> None:
        """Set the initial state."""
        super().init_state()
        self.held_out = ReplayMemory(self.seed, "bic held out", key="held")
        self.correction: list[Any] = [[], 1.0, 0.0]  # of the last experience: classes, alpha, beta
        self.in_experience = False

    def capacity(self, num_classes: int) -> int:
        """Return how many samples are remembered to be replayed."""
        return self.config.memory - self.config.num_held

    def has_teacher(self, learner: LearnerView) -> bool:
        """Return whether there is a teacher; none if nothing is distilled."""
        return self.config.weight != 0 and super().has_teacher(learner)

    def state_dict(self) -> dict[str, Any]:
        """Return what `STATE` names, and the correction."""
        return super().state_dict() | {"last": [*self.correction, self.in_experience]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state."""
        super().load_state_dict(state)
        *self.correction, self.in_experience = state["last"]

    def predict(self, learner: LearnerView, x: Tensor, network: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the corrected logits; mid-experience the network itself is trained towards corrected logits."""
        return network(x) if self.in_experience else correct_logits(network(x), *self.correction)

    def on_start(self, learner: LearnerView) -> None:
        """Stop correcting the network: the last correction now belongs to the teacher."""
        self.in_experience = True

    def before_backward(self, learner: LearnerView, **kwargs: object) -> None:
        """Weight the loss so far against the distillation."""
        if self.teacher:
            absent = self.seen.absent_classes(learner)
            weight = self.config.weight
            if weight is None:
                weight = len(absent) / (len(absent) + len(set(learner.experience.classes_in_this_experience)))
            columns, temperature = positions_on(learner.mb_output.device, absent), self.config.temperature
            teacher = correct_logits(self.teacher.logits(learner), *self.correction)[:, columns]
            student = learner.mb_output[:, columns].float()
            # the paper's, up to a constant
            term = distillation_loss(student, teacher, temperature, "kl") / temperature**2
            learner.loss = (1 - weight) * learner.loss + weight * term

    def finish(self, learner: LearnerView) -> None:
        """Update the held-out samples too, and fit the correction."""
        absent, new = self.seen.absent_classes(learner), self.seen.new_classes(learner)
        self.correction, self.in_experience = [[], 1.0, 0.0], False
        if self.config.memory == 0:
            return
        new_held_out = self.held_out.new_samples(learner, required_validation_dataset(learner, "bic"))
        self.held_out.update(new_held_out, partial(keep_balanced, memory=self.config.num_held))
        if absent and new:
            batches = iter(self.held_out.inputs(learner).split(learner.eval_mb_size))
            alpha, beta = fit_correction(logits_of(learner.model, batches), self.held_out.columns["y"], new)
            self.correction = [new, alpha, beta]
            plugin_api.note(
                learner, f"bic: the new classes' logits are scaled by {alpha:.3f} and shifted by {beta:.3f}"
            )
