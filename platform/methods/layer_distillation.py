"""Base of strategies that hold layers of the network to the old network's outputs there, on the same samples.

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
    """Adds `term` to the loss from the second trained experience on; the teacher is the network as it was before the experience.

    For subclasses: `layers` names the layers that are compared, `reduced` computes what is compared of them, and `term` how.
    `num_trained` counts the experiences. `num_old` is the number of their classes, 1 + the highest label. `student_outputs`
    holds the layers' outputs in the mini-batch's main forward pass.
    """

    def __init__(self, is_on: bool, teacher: Teacher | None = None) -> None:
        """Set up the teacher.

        Args:
            is_on: False if the weights are 0, so that nothing is to be done.
            teacher: one with another reduction; by default a `Teacher` with `reduced`.
        """
        self.is_on = is_on
        self.teacher = Teacher(reduce=self.reduced) if teacher is None else teacher
        self.num_trained = self.num_old = 0
        self._capture = ActivationCapture()
        self.student_outputs: dict[str, Tensor] = {}

    def layers(self, model: nn.Module) -> list[str]:
        """Return the names of the layers; the head's inputs are called `models.features.FEATURES`."""
        raise NotImplementedError

    def reduced(self, layer: str, output: Tensor) -> Tensor:
        """Return what is compared, (B, ...), of a layer's float32 output (B, ...), in network and teacher alike."""
        return output

    def term(self, learner: Any, student: dict[str, Tensor], teacher: dict[str, Tensor]) -> Tensor:
        """Return the weighted term, a scalar.

        Args:
            learner: the learner.
            student: what `reduced` returned for the network's layers, by name.
            teacher: the same for the teacher, and its logits under LOGITS.
        """
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Return the counts and, mid-experience, the teacher's tensors."""
        return {"num_trained": self.num_trained, "num_old": self.num_old} | self.teacher.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state; `on_resume` rebuilds the teacher."""
        self.num_trained, self.num_old = state["num_trained"], state["num_old"]
        self.teacher.load_state_dict(state)

    def on_resume(self, learner: Any) -> None:
        """Rebuild the teacher from its tensors, and capture the layers again."""
        self.teacher.on_resume(learner)
        self._watch(learner.model)

    def before_train_dataset_adaptation(self, learner: Any, **kwargs: Any) -> None:
        """Copy the network as the teacher, before it sees the new experience."""
        if self.is_on and self.num_trained:
            self.teacher.take(learner.model)

    def before_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """Capture the layers."""
        self._watch(learner.model)

    def after_forward(self, learner: Any, **kwargs: Any) -> None:
        """Take the layers' outputs now: a later strategy may run the network again."""
        self.student_outputs, self._capture.outputs = self._capture.outputs, {}

    def before_backward(self, learner: Any, **kwargs: Any) -> None:
        """Add the term to the loss."""
        if self.teacher:
            teacher = self.teacher.outputs(learner)
            student = {name: self.reduced(name, output.float()) for name, output in self.student_outputs.items()}
            learner.loss = learner.loss + self.term(learner, student, teacher)
        self.student_outputs = {}

    def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """Drop the teacher, and count the experience and its classes."""
        self.num_trained += 1
        self.num_old = self.num_classes(learner)
        self.teacher.drop()
        self._capture.detach()

    def num_classes(self, learner: Any) -> int:
        """Return the number of classes up to and including this experience."""
        highest: int = max(learner.experience.classes_in_this_experience)
        return max(self.num_old, 1 + highest)

    def _watch(self, model: nn.Module) -> None:
        """Capture the layers if there is a teacher."""
        if self.teacher:
            self.teacher.layers = self._capture.layers = tuple(self.layers(model))
            self._capture.attach(model)


def growth(num_classes: int, learner: Any) -> float:
    """Return sqrt(num_classes / classes of this experience), the growth of a distillation's weight."""
    return math.sqrt(num_classes / len(set(learner.experience.classes_in_this_experience)))


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the cosine distance 1 - cos of (B, ...) and (B, ...), averaged over B: 0 in the same direction, at most 2."""
    cosine = nn.functional.cosine_similarity(student.flatten(1), teacher.flatten(1))
    return (1 - cosine).mean()


def map_layers(model: nn.Module, patterns: Sequence[str] | None, key: str) -> list[str]:
    """Return the names of the layers that match `patterns`, or of the trunk's blocks (None); each contains a convolution.

    Args:
        model: the network.
        patterns: patterns on names of layers.
        key: the YAML key of the patterns, for the message.

    Raises:
        UserError: A pattern matches no layer, or one without a convolution; or there is no layer at all.
    """
    modules = dict(model.named_modules())
    matching = [name for name in select_layers(model, patterns, key) if name != FEATURES]
    convolutional = [name for name in matching if any(isinstance(each, _ConvNd) for each in modules[name].modules())]
    if not convolutional or (patterns is not None and convolutional != matching):
        without = (
            f"{[name for name in matching if name not in convolutional]} hold no convolution, so they give no maps"
        )
        reason = without if patterns is not None and matching else "this network has no block with convolutions"
        raise UserError(f"{key}={list(patterns) if patterns is not None else 'null'}: {reason}.")
    return convolutional


def check_maps(layer: str, output: Tensor, key: str) -> None:
    """Refuse a layer with outputs other than maps (B, channels, H, W), which is only known when it runs.

    Raises:
        UserError: Names the actual shape, and `key`, the YAML key of the patterns.
    """
    if output.ndim != 4:
        shape = list(output.shape[1:])
        raise UserError(f"{key}: '{layer}' gives {shape} for a sample, no maps of channels, height and width.")
