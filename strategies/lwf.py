"""Learning without Forgetting: keep the new network's old outputs close to the old network's, on the new data.

    L = L_CE + weight * L_KD
    kl:  L_KD = T^2 * mean_B sum_K p log(p / q),  p = softmax(teacher / T),  q = softmax(student / T)
    mse: L_KD = mean_{B,K} (student - teacher)^2

The teacher is a copy of the network from the start of the experience, before its head grows. K is the number of its outputs: the
old classes with a growing head, all classes with a head of fixed size. The first experience has no teacher. Where the task is
given, kl is computed for each old task's outputs and summed (one softmax per task, as with one head per task).
Shapes: B batch, C classes, K old classes (K <= C), n samples of the experience. All logits are pre-softmax.

Source: Li & Hoiem 2016 (1606.09282), with T^2 as in Hinton et al. 2015, so that `weight` means the same at any T. Peers leave
T^2 out: Avalanche's alpha (KL), PyCIL's lamda and FACIL's lamb (cross-entropy, which has the same gradient as KL; FACIL also
smooths by 1e-5) all convert as weight = theirs / T^2. LwF.MC, with binary cross-entropies, is lwf_mc.
"""

from typing import Annotated, Literal

from torch import Tensor

from ..platform.config.settings import NonNegativeFloat, OnlyWith, PerExperience, PositiveFloat, settings, value_at
from ..platform.methods.logit_distillation import Softened, distillation_loss, distillation_loss_by_task
from ..platform.methods.teacher import Teacher
from ..platform.training import plugin_api
from ..platform.training.plugin import LearnerView, Plugin

NEEDS_PAST = True


@settings
class Config:
    """Distil the old network's outputs on the new data (Learning without Forgetting).

    weight: lambda, >= 0; a list has one value per experience (the first is not used), as Avalanche's list alpha.
    temperature: T > 0 of the softened probabilities; only used by loss "kl".
    loss: "kl" (compares softened probabilities) or "mse" (compares logits).
    """

    weight: PerExperience[NonNegativeFloat] = 1.0
    temperature: Annotated[PositiveFloat, OnlyWith(loss="kl")] = 2.0
    loss: Literal["kl", "mse"] = "kl"


class LwFPlugin(Plugin[Config]):
    """Adds weight * L_KD to the loss from the second trained experience on."""

    STATE = ("num_trained", "teacher")
    capturable = True

    def init_state(self) -> None:
        """Set the initial state."""
        self.num_trained, self.teacher = 0, Teacher(temperature=self.config.temperature)
        self._old_heads: list[Tensor] | None = None  # where the task is given; looked up once per experience

    def before_train_dataset_adaptation(self, learner: LearnerView, **kwargs: object) -> None:
        """Make the network the teacher, before it sees the new experience."""
        if self._weight() > 0:
            self.teacher.take(learner.model)

    def before_backward(self, learner: LearnerView, **kwargs: object) -> None:
        """Add the distillation term to the loss."""
        if self.teacher:
            teacher = self.teacher.softened(learner)
            student = learner.mb_output[:, : teacher.logits.shape[1]].float()
            learner.loss = learner.loss + self._weight() * self._term(learner, student, teacher)

    def after_training_exp(self, learner: LearnerView, **kwargs: object) -> None:
        """Count the experience, and drop the teacher."""
        self.num_trained += 1
        self.teacher.drop()
        self._old_heads = None

    def _term(self, learner: LearnerView, student: Tensor, teacher: Softened) -> Tensor:
        """Return L_KD, summed over the old tasks' heads where there are several."""
        if self._old_heads is None:
            heads = plugin_api.task_heads(learner, student.shape[1])
            # a head of fixed size has those of later experiences too
            self._old_heads = heads[: learner.experience.current_experience]
        if self._old_heads and self.config.loss == "kl":
            return distillation_loss_by_task(student, teacher.logits, self._old_heads, self.config.temperature)
        return distillation_loss(student, teacher, self.config.temperature, self.config.loss)

    def _weight(self) -> float:
        """Return lambda of the experience being trained; 0 for the first, which has no teacher."""
        weight = value_at(self.config.weight, self.num_trained, "strategies.lwf.weight")
        return weight if self.num_trained else 0.0
