"""Base of strategies that hold layers of the network to the old network's outputs there, on the same samples.

Shapes: B mini-batch, K outputs of the teacher.
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ..errors import UserError
from ..models.activation_capture import ActivationCapture
from ..models.features import FEATURES, select_layers
from ..training.learner_view import LearnerView
from ..training.plugin import C, Plugin
from .teacher import Teacher


class LayerDistillation(Plugin[C]):
    """Adds `term` to the loss from the second trained experience on; the teacher is the network as it was before the experience.

    For subclasses: `layers` names the layers that are compared, `reduced` computes what is compared of them, and `term` how.

    Attributes:
        WEIGHTS: names of the settings that are weights; nothing is done if all are 0.
        num_trained: number of experiences; `num_old`: of their classes, 1 + the highest label.
        student_outputs: the layers' outputs in the mini-batch's main forward pass.
    """

    STATE: ClassVar[tuple[str, ...]] = ("num_trained", "num_old", "teacher")
    WEIGHTS: ClassVar[tuple[str, ...]] = ("weight",)
    capturable = True  # so `reduced` and `term` do the same in each iteration

    def init_state(self) -> None:
        """Set the initial state."""
        self.teacher = Teacher(reduce=self.reduced)
        self.num_trained = self.num_old = 0
        self._capture = ActivationCapture()
        self.student_outputs: dict[str, Tensor] = {}

    def layers(self, model: nn.Module) -> list[str]:
        """Return the names of the layers; the head's inputs are called `models.features.FEATURES`."""
        raise NotImplementedError

    def reduced(self, layer: str, output: Tensor) -> Tensor:
        """Return what is compared, (B, ...), of a layer's float32 output (B, ...), in network and teacher alike."""
        return output

    def term(self, learner: LearnerView, student: dict[str, Tensor], teacher: dict[str, Tensor]) -> Tensor:
        """Return the weighted term, a scalar.

        Args:
            learner: the learner.
            student: what `reduced` returned for the network's layers, by name.
            teacher: the same for the teacher, and its logits under LOGITS.
        """
        raise NotImplementedError

    def before_train_dataset_adaptation(self, learner: LearnerView, **kwargs: Any) -> None:
        """Copy the network as the teacher, before it sees the new experience."""
        if self.num_trained and any(getattr(self.config, name) > 0 for name in self.WEIGHTS):
            self.teacher.take(learner.model)

    def on_start(self, learner: LearnerView) -> None:
        """Capture the layers if there is a teacher."""
        if self.teacher:
            self.teacher.layers = self._capture.layers = tuple(self.layers(learner.model))
            self._capture.attach(learner.model)

    def after_forward(self, learner: LearnerView, **kwargs: Any) -> None:
        """Take the layers' outputs now: a later strategy may run the network again."""
        self.student_outputs, self._capture.outputs = self._capture.outputs, {}

    def before_backward(self, learner: LearnerView, **kwargs: Any) -> None:
        """Add the term to the loss."""
        if self.teacher:
            teacher = self.teacher.outputs(learner)
            student = {name: self.reduced(name, output.float()) for name, output in self.student_outputs.items()}
            learner.loss = learner.loss + self.term(learner, student, teacher)
        self.student_outputs = {}

    def after_training_exp(self, learner: LearnerView, **kwargs: Any) -> None:
        """Drop the teacher, and count the experience and its classes."""
        self.num_trained += 1
        self.num_old = self.num_classes(learner)
        self.teacher.drop()
        self._capture.detach()

    def num_classes(self, learner: LearnerView) -> int:
        """Return the number of classes up to and including this experience."""
        highest: int = max(learner.experience.classes_in_this_experience)
        return max(self.num_old, 1 + highest)


def growth(num_classes: int, learner: LearnerView) -> float:
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
