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

import math
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from ..platform.errors import UserError
from ..platform.methods.logit_distillation import distillation_loss, distillation_loss_by_task
from ..platform.methods.teacher import Teacher
from ..platform.training import plugin_api
from ..platform.training.plugin import Plugin

NEUTRAL: dict[str, Any] | None = {"weight": 0.0}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Distil the old network's outputs on the new data (Learning without Forgetting).

    weight: lambda, >= 0; a list has one value per experience (the first is not used), as Avalanche's list alpha.
    temperature: T > 0 of the softened probabilities; only used by loss "kl".
    loss: "kl" (compares softened probabilities) or "mse" (compares logits).
    """

    weight: float | tuple[float, ...] = 1.0
    temperature: float = 2.0
    loss: Literal["kl", "mse"] = "kl"

    def __post_init__(self) -> None:
        weight, temperature, loss = self.weight, self.temperature, self.loss
        weights = weight if isinstance(weight, tuple) else (weight,)
        if not weights or not all(0 <= value < math.inf for value in weights):
            raise ValueError(f"{weight=}: must be >= 0 and finite, one number or one for each experience")
        if not 0 < temperature < math.inf:
            raise ValueError(f"{temperature=}: must be > 0 and finite")
        if loss not in ("kl", "mse"):
            raise ValueError(f"{loss=}: must be 'kl' or 'mse'")
        if loss == "mse" and temperature != 2.0:
            raise ValueError(f"{temperature=}: is not used by loss 'mse': leave it out")


def check_stream(config: Config, num_classes: int, num_experiences: int) -> None:
    """Refuse a list of weights that does not match the number of experiences trained on."""
    if isinstance(config.weight, tuple) and len(config.weight) != num_experiences:
        requirement = f"must have {num_experiences} numbers, one for each experience trained on"
        raise UserError(f"strategies.lwf.weight={list(config.weight)}: {requirement}")


class LwFPlugin(Plugin):
    """Adds weight * L_KD to the loss from the second trained experience on."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._num_trained = 0
        self._teacher = Teacher()
        self._heads: list[Tensor] | None = None  # of old tasks; looked up once per experience

    def state_dict(self) -> dict[str, Any]:
        """Return the number of trained experiences and, inside one, the teacher's tensors."""
        return {"num_trained": self._num_trained} | self._teacher.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the state; `on_resume` rebuilds the teacher."""
        self._num_trained = state["num_trained"]
        self._teacher.load_state_dict(state)

    def on_resume(self, learner: Any) -> None:
        """Rebuild the teacher from its tensors."""
        self._teacher.on_resume(learner)

    def before_train_dataset_adaptation(self, learner: Any, **kwargs: Any) -> None:
        """Make the network the teacher, before it sees the new experience."""
        if self._weight() > 0:
            self._teacher.take(learner.model)

    def before_backward(self, learner: Any, **kwargs: Any) -> None:
        """Add the distillation term to the loss."""
        if self._teacher:
            teacher = self._teacher.logits(learner)
            student = learner.mb_output[:, : teacher.shape[1]].float()
            learner.loss = learner.loss + self._weight() * self._term(learner, student, teacher)

    def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """Count the experience, and drop the teacher."""
        self._num_trained += 1
        self._teacher.drop()
        self._heads = None

    def _term(self, learner: Any, student: Tensor, teacher: Tensor) -> Tensor:
        """Return L_KD, summed over the old tasks' heads where there are several."""
        if self._heads is None:
            heads = plugin_api.task_heads(learner, teacher.shape[1])
            # a head of fixed size has those of later experiences too
            self._heads = heads and heads[: learner.experience.current_experience]
        if self._heads and self.config.loss == "kl":
            return distillation_loss_by_task(student, teacher, self._heads, self.config.temperature)
        return distillation_loss(student, teacher, self.config.temperature, self.config.loss)

    def _weight(self) -> float:
        """Return lambda of the experience being trained; 0 for the first, which has no teacher."""
        weight = self.config.weight
        if isinstance(weight, tuple):
            check_stream(self.config, 0, max(len(weight), self._num_trained + 1))
            weight = weight[self._num_trained]
        return weight if self._num_trained else 0.0


def build(config: Config, seed: int) -> LwFPlugin:
    """Return the plugin; it uses no random numbers."""
    return LwFPlugin(config)
