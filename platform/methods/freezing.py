"""Freezing: parameters without gradients, and BatchNorm layers that keep their statistics.

A frozen parameter has no gradient, so no optimizer changes a bit of it, even with momentum or weight decay.
"""

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import UserError
from ..models.blocks import is_added, is_head
from ..training.plugin import Plugin

FrozenParts = tuple[list[nn.Parameter], list[nn.Module]]  # parameters, and BatchNorm layers that keep their statistics


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


class FreezingPlugin(Plugin):
    """Base of the strategies that freeze parts of the network while an experience is trained.

    A subclass returns the parts from `frozen_parts`. It is called again before each epoch: ``model.train()`` may have unfrozen
    the statistics, and what is frozen may change within an experience.
    """

    def __init__(self) -> None:
        self.num_trained = 0  # number of experiences
        self._frozen = Freezer()

    def frozen_parts(self, model: nn.Module) -> FrozenParts:
        """Return what is frozen now."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Return the number of trained experiences; what is frozen follows from it."""
        return {"num_trained": self.num_trained}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the number of experiences; mid-experience, `on_resume` freezes again."""
        self.num_trained = state["num_trained"]

    def before_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """Freeze, now that the network has its final shape."""
        self._frozen.freeze_only(*self.frozen_parts(learner.model))

    def before_training_epoch(self, learner: Any, **kwargs: Any) -> None:
        """Freeze what this epoch must not change."""
        self._frozen.freeze_only(*self.frozen_parts(learner.model))

    def on_resume(self, learner: Any) -> None:
        """Freeze again."""
        self._frozen.freeze_only(*self.frozen_parts(learner.model))

    def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
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


def all_parts_except(model: nn.Module, learns: Callable[[str], bool]) -> FrozenParts:
    """Return all parameters except the head's and those that `learns` selects by name, and all BatchNorm layers."""
    named = model.named_parameters()
    parameters = [parameter for name, parameter in named if not is_head(name) and not learns(name)]
    return parameters, [module for module in model.modules() if isinstance(module, _BatchNorm)]


class AddedLayersPlugin(FreezingPlugin):
    """Base of `lora` and `adapters`: the layers that they add learn, and the original network is frozen.

    In the first `from_experience` experiences it is the reverse: the network learns, and the added layers have no effect yet.
    """

    def __init__(self, from_experience: int, is_there: bool) -> None:
        """Freeze from `from_experience` on; `is_there`: whether layers are added at all."""
        super().__init__()
        self._from_experience, self._is_there = from_experience, is_there

    def frozen_parts(self, model: nn.Module) -> FrozenParts:
        """Return the original network's parts, or at first the added ones."""
        if not self._is_there:
            return [], []
        if self.num_trained < self._from_experience:
            return [parameter for name, parameter in model.named_parameters() if is_added(name)], []
        return all_parts_except(model, is_added)


def check_from_experience(name: str, from_experience: int, num_experiences: int) -> None:
    """Refuse a strategy that would begin after the last of the `num_experiences` that are trained on.

    Raises:
        UserError: It would never freeze anything.
    """
    if from_experience >= num_experiences:
        key = f"strategies.{name}.from_experience={from_experience}"
        raise UserError(f"{key}: must be below {num_experiences}, the experiences trained on; else nothing is frozen")
