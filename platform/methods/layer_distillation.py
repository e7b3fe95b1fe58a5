"""The base of strategies that hold layers of the network to what the old network gives there, on the same samples.

Shapes: B mini-batch, K outputs of the teacher.
"""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ..errors import UserError
from ..models.activation_capture import ActivationCapture
from ..models.features import FEATURES, select_layers
from ..training.plugin import Plugin
from .teacher import Teacher


class LayerDistillation(Plugin):
    """Adds `term` to the loss from the second trained experience on; its teacher is the network as the experience found it.

    For subclasses: `layers` says which layers are compared, `reduced` what of them, `term` how. `num_trained`: experiences;
    `num_old`: classes of those, 1 + the highest label; `found`: what the layers gave in the mini-batch's own pass.
    """

    def __init__(self, is_on: bool, teacher: Teacher | None = None) -> None:
        """`is_on`: false where the weights are 0, and nothing is to be done; `teacher`: one that reduces in a way of its own."""
        self.is_on = is_on
        self.teacher = Teacher(reduce=self.reduced) if teacher is None else teacher
        self.num_trained = self.num_old = 0
        self._capture = ActivationCapture()
        self.found: dict[str, Tensor] = {}

    def layers(self, model: nn.Module) -> list[str]:
        """Names of the layers, or `representation.FEATURES`."""
        raise NotImplementedError

    def reduced(self, layer: str, output: Tensor) -> Tensor:
        """What is compared of a layer's float32 output (B, ...): (B, ...), of the network and of the teacher."""
        return output

    def term(self, learner: Any, student: dict[str, Tensor], teacher: dict[str, Tensor]) -> Tensor:
        """The weighted term, a scalar: what `reduced` made of the layers by name; the teacher's logits under LOGITS."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """The counts and, inside an experience, the teacher's tensors."""
        return {"num_trained": self.num_trained, "num_old": self.num_old} | self.teacher.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The teacher itself is made in `on_resume`."""
        self.num_trained, self.num_old = state["num_trained"], state["num_old"]
        self.teacher.load_state_dict(state)

    def on_resume(self, learner: Any) -> None:
        """Make the teacher from its tensors, and watch the layers again."""
        self.teacher.on_resume(learner)
        self._watch(learner.model)

    def before_train_dataset_adaptation(self, learner: Any, **kwargs: Any) -> None:
        """The network has not met the new experience yet: it becomes the teacher."""
        if self.is_on and self.num_trained:
            self.teacher.take(learner.model)

    def before_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """Watch the layers."""
        self._watch(learner.model)

    def after_forward(self, learner: Any, **kwargs: Any) -> None:
        """Take what the layers gave: a later strategy may run the network again."""
        self.found, self._capture.outputs = self._capture.outputs, {}

    def before_backward(self, learner: Any, **kwargs: Any) -> None:
        """Add the term to the loss."""
        if self.teacher:
            teacher = self.teacher.outputs(learner)
            student = {name: self.reduced(name, output.float()) for name, output in self.found.items()}
            learner.loss = learner.loss + self.term(learner, student, teacher)
        self.found = {}

    def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """The teacher has done its work."""
        self.num_trained += 1
        self.num_old = self.num_classes(learner)
        self.teacher.drop()
        self._capture.detach()

    def num_classes(self, learner: Any) -> int:
        """Classes up to and with the present experience."""
        highest: int = max(learner.experience.classes_in_this_experience)
        return max(self.num_old, 1 + highest)

    def _watch(self, model: nn.Module) -> None:
        """Only where there is a teacher."""
        if self.teacher:
            self.teacher.layers = self._capture.layers = tuple(self.layers(model))
            self._capture.attach(model)


def growth(num_classes: int, learner: Any) -> float:
    """sqrt(num_classes / classes of the present experience): what the weight of a distillation grows by."""
    return math.sqrt(num_classes / len(set(learner.experience.classes_in_this_experience)))


def distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Cosine distance 1 - cos, the mean over B, of (B, ...) and (B, ...): 0 where they point the same way, at most 2."""
    cosine = nn.functional.cosine_similarity(student.flatten(1), teacher.flatten(1))
    return (1 - cosine).mean()


def map_layers(model: nn.Module, patterns: Sequence[str] | None, key: str) -> list[str]:
    """Names of the layers that fit `patterns`, or of the trunk's blocks (null); each with a convolution in it.

    Raises:
        UserError: a pattern fits no layer, or one without a convolution; there is none at all. `key`: that of the patterns.
    """
    modules = dict(model.named_modules())
    found = [name for name in select_layers(model, patterns, key) if name != FEATURES]
    kept = [name for name in found if any(isinstance(each, _ConvNd) for each in modules[name].modules())]
    if not kept or (patterns is not None and kept != found):
        without = f"{[name for name in found if name not in kept]} hold no convolution, so they give no maps"
        what = without if patterns is not None and found else "this network has no block with convolutions"
        raise UserError(f"{key}={list(patterns) if patterns is not None else 'null'}: {what}.")
    return kept


def check_maps(layer: str, output: Tensor, key: str) -> None:
    """Refuse a layer whose outputs are no maps (B, channels, H, W), which only shows when it runs.

    Raises:
        UserError: with the shape that there is; `key`: that of the patterns.
    """
    if output.ndim != 4:
        shape = list(output.shape[1:])
        raise UserError(f"{key}: '{layer}' gives {shape} for a sample, no maps of channels, height and width.")
