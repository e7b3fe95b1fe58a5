"""Learning without Forgetting: the new network's old outputs are held to the old network's, on the new data.

    L = L_CE + weight * L_KD
    kl:  L_KD = T^2 * mean_B sum_K p log(p / q),  p = softmax(teacher / T),  q = softmax(student / T)
    mse: L_KD = mean_{B,K} (student - teacher)^2

The teacher is the network as the experience found it, before its head grew; K is the number of its outputs, so with a
head that grows they are the old classes (with a head of fixed size: all of them). The first experience has no teacher.
Where the task is given, kl is that of each old task's own outputs, added up (a softmax each, as with a head each).
Shapes: B batch, C classes, K old classes (K <= C), n samples of the experience. All logits are pre-softmax.

Source: Li & Hoiem 2016 (1606.09282), with T^2 as in Hinton et al. 2015, so that `weight` means the same at any T. Peers
leave T^2 out: Avalanche's alpha (KL), PyCIL's lamda and FACIL's lamb (cross-entropy, whose gradient is KL's; FACIL also
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
    """Learning without Forgetting: distil the old network's outputs on the new data.

    weight: lambda, >= 0; a list gives each experience its own (the first is not used), as Avalanche's list alpha.
    loss: "kl" (probabilities softened by `temperature` > 0) or "mse" (logits, no temperature).
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
    """Refuse a list of weights that does not fit the number of experiences trained on."""
    if isinstance(config.weight, tuple) and len(config.weight) != num_experiences:
        wanted = f"must have {num_experiences} numbers, one for each experience trained on"
        raise UserError(f"strategies.lwf.weight={list(config.weight)}: {wanted}")


class LwFPlugin(Plugin):
    """Adds weight * L_KD to the loss from the second trained experience on."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._num_trained = 0
        self._teacher = Teacher()
        self._heads: list[Tensor] | None = None  # of old tasks; looked up once an experience

    def state_dict(self) -> dict[str, Any]:
        """Number of trained experiences and, inside one, the teacher's tensors."""
        return {"num_trained": self._num_trained} | self._teacher.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The teacher itself is made in `on_resume`."""
        self._num_trained = state["num_trained"]
        self._teacher.load_state_dict(state)

    def on_resume(self, learner: Any) -> None:
        """Make the teacher from its tensors."""
        self._teacher.on_resume(learner)

    def before_train_dataset_adaptation(self, learner: Any, **kwargs: Any) -> None:
        """The network has not met the new experience yet: it becomes the teacher."""
        if self._weight() > 0:
            self._teacher.take(learner.model)

    def before_backward(self, learner: Any, **kwargs: Any) -> None:
        """Add the distillation term to the loss."""
        if self._teacher:
            teacher = self._teacher.logits(learner)
            student = learner.mb_output[:, : teacher.shape[1]].float()
            learner.loss = learner.loss + self._weight() * self._term(learner, student, teacher)

    def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """The teacher has done its work."""
        self._num_trained += 1
        self._teacher.drop()
        self._heads = None

    def _term(self, learner: Any, student: Tensor, teacher: Tensor) -> Tensor:
        """L_KD, head by head where there are several."""
        if self._heads is None:
            heads = plugin_api.task_heads(learner, teacher.shape[1])
            # a head of fixed size has those of later experiences too
            self._heads = heads and heads[: learner.experience.current_experience]
        if self._heads and self.config.loss == "kl":
            return distillation_loss_by_task(student, teacher, self._heads, self.config.temperature)
        return distillation_loss(student, teacher, self.config.temperature, self.config.loss)

    def _weight(self) -> float:
        """Lambda of the experience being trained; the first has no teacher."""
        weight = self.config.weight
        if isinstance(weight, tuple):
            check_stream(self.config, 0, max(len(weight), self._num_trained + 1))
            weight = weight[self._num_trained]
        return weight if self._num_trained else 0.0


def build(config: Config, seed: int) -> LwFPlugin:
    """The plugin; it draws no random numbers."""
    return LwFPlugin(config)
