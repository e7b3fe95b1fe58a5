"""Freezing: parameters without gradients, and BatchNorm layers that keep their statistics.

A frozen parameter has no gradient, so no optimizer changes a bit of it, even with momentum or weight decay.
"""

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Protocol, TypeVar

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from ..errors import UserError, comma_separated
from ..models.blocks import is_added, is_head
from ..training.learner_view import LearnerView
from ..training.plugin import Plugin

FrozenParts = tuple[list[nn.Parameter], list[nn.Module]]  # parameters, and BatchNorm layers that keep their statistics
NOTHING: FrozenParts = ([], [])
NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)  # classes of normalisation layers


class Freezer:
    """Freezes parts of a network, and restores them afterwards.

    What is already frozen is left alone, so several Freezers together freeze all of their parts.
    """

    def __init__(self) -> None:
        self._parameters: set[nn.Parameter] = set()
        self._norms: set[nn.Module] = set()

    def freeze_only(self, parameters: Iterable[nn.Parameter], norms: Iterable[nn.Module]) -> None:
        """Freeze these parts, and unfreeze those that this object froze before and that are not among them."""
        to_freeze, to_fix = set(parameters), set(norms)
        for parameter in self._parameters - to_freeze:
            parameter.requires_grad_(True)
        for module in self._norms - to_fix:
            module.train()
        newly_frozen = {parameter for parameter in to_freeze if parameter.requires_grad}
        for parameter in newly_frozen:
            parameter.requires_grad_(False)
            parameter.grad = None  # with a gradient of zeros, momentum and weight decay would still act
        newly_fixed = {module for module in to_fix if module.training}
        for module in newly_fixed:
            module.eval()
        self._parameters = (self._parameters & to_freeze) | newly_frozen
        self._norms = (self._norms & to_fix) | newly_fixed

    def release(self) -> None:
        """Unfreeze everything that this object froze."""
        self.freeze_only((), ())


class FreezingSettings(Protocol):
    """Settings with the experience from which on something is frozen."""

    @property
    def from_experience(self) -> int | None:
        """Return how many experiences are trained first with nothing frozen; None: all."""


F = TypeVar("F", bound=FreezingSettings)


class FreezingPlugin(Plugin[F]):
    """Base of the strategies that freeze parts of the network while an experience is trained.

    A subclass returns the parts from `frozen_parts`. It is called again before each epoch: ``model.train()`` may have unfrozen
    the statistics, and what is frozen may change within an experience.
    """

    STATE: ClassVar[tuple[str, ...]] = ("num_trained",)

    def init_state(self) -> None:
        """Set the initial state."""
        self.num_trained = 0  # number of experiences
        self._frozen = Freezer()

    def frozen_parts(self, model: nn.Module) -> FrozenParts:
        """Return what is frozen now, after the first `from_experience` experiences."""
        raise NotImplementedError

    def frozen_at_first(self, model: nn.Module) -> FrozenParts:
        """Return what is frozen in the first `from_experience` experiences; by default nothing."""
        return NOTHING

    def always_frozen(self, model: nn.Module, num_trained: int) -> FrozenParts:
        """Return what is frozen from the first epoch of the experience to its last."""
        start = self.config.from_experience
        return self.frozen_at_first(model) if start is None or num_trained < start else self.frozen_parts(model)

    def freeze(self, learner: LearnerView) -> None:
        """Freeze what must not change now, and unfreeze the rest."""
        self._frozen.freeze_only(*FreezingPlugin.always_frozen(self, learner.model, self.num_trained))

    def on_start(self, learner: LearnerView) -> None:
        """Freeze, now that the network has its final shape."""
        self.freeze(learner)

    def before_training_epoch(self, learner: LearnerView, **kwargs: Any) -> None:
        """Freeze what this epoch must not change."""
        self.freeze(learner)

    def after_training_exp(self, learner: LearnerView, **kwargs: Any) -> None:
        """Unfreeze, and count the experience."""
        self._frozen.release()
        self.num_trained += 1


def selected_parts(model: nn.Module, selected: Callable[[str], bool]) -> FrozenParts:
    """Return the parameters that are selected by name, and the BatchNorm layers that then have nothing left to learn."""
    return [parameter for name, parameter in model.named_parameters() if selected(name)], frozen_norms(model, selected)


def frozen_norms(model: nn.Module, selected: Callable[[str], bool]) -> list[nn.Module]:
    """Return the BatchNorm layers with only selected parameters; ``running_mean`` decides for a layer without parameters."""
    norms: list[nn.Module] = []
    for path, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            names = [name for name, _ in module.named_parameters()] or ["running_mean"]
            if all(selected(f"{path}.{name}" if path else name) for name in names):
                norms.append(module)
    return norms


def names_of_norms(model: nn.Module) -> set[str]:
    """Return the names of the normalisation layers' parameters."""
    norms = [(path, module) for path, module in model.named_modules() if isinstance(module, NORMS)]
    return {name for path, module in norms for name, _ in module.named_parameters(prefix=path)}


def all_parts_except(model: nn.Module, learns: Callable[[str], bool]) -> FrozenParts:
    """Return all parameters except the head's and those that `learns` selects by name, and all BatchNorm layers."""
    named = model.named_parameters()
    parameters = [parameter for name, parameter in named if not is_head(name) and not learns(name)]
    return parameters, [module for module in model.modules() if isinstance(module, _BatchNorm)]


def added_parts(model: nn.Module) -> FrozenParts:
    """Return the parameters that strategies such as `lora` added."""
    return [parameter for name, parameter in model.named_parameters() if is_added(name)], []


def check_added_layers(
    key: str, patterns: Sequence[str] | None, kind: str, added: Sequence[str], known: Sequence[str]
) -> None:
    """Refuse a pattern that fits no layer to which something was added.

    Args:
        key: the YAML key of the patterns.
        patterns: patterns on names of layers; None: any layer.
        kind: the kind of layers, in words.
        added: names of the layers with an addition.
        known: names of the layers that can have one.

    Raises:
        UserError: names the pattern and the known layers.
    """
    for pattern in patterns or ("*",):
        if not any(fnmatchcase(name, pattern) for name in added):
            given = None if patterns is None else list(patterns)
            raise UserError(
                f"{key}={given}: '{pattern}' fits no {kind} of the trunk. Known: {comma_separated(filter(None, known))}."
            )
