"""What is out of training for a while: parameters without gradients, BatchNorm layers that keep the statistics they have.

A frozen parameter has no gradient, so that no optimizer changes it by a bit, whatever its momentum or weight decay.
"""

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import UserError
from ..models.blocks import is_added, is_head
from ..training.plugin import Plugin

FrozenParts = tuple[list[nn.Parameter], list[nn.Module]]  # parameters, and BatchNorm layers whose statistics are kept


class Freezer:
    """Takes parts of a network out of training, and hands them on as they came.

    What others have frozen already is left alone, so several of these together freeze what any of them does.
    """

    def __init__(self) -> None:
        self._parameters: set[nn.Parameter] = set()
        self._norms: set[nn.Module] = set()

    def freeze_only(self, parameters: Iterable[nn.Parameter], norms: Iterable[nn.Module]) -> None:
        """Freeze these, and set free what was held before and is not among them."""
        wanted, still = set(parameters), set(norms)
        for parameter in self._parameters - wanted:
            parameter.requires_grad_(True)
        for module in self._norms - still:
            module.train()
        taken = {parameter for parameter in wanted if parameter.requires_grad}
        for parameter in taken:
            parameter.requires_grad_(False)
            parameter.grad = None  # a gradient of zeros would still let momentum and weight decay act
        switched = {module for module in still if module.training}
        for module in switched:
            module.eval()
        self._parameters = (self._parameters & wanted) | taken
        self._norms = (self._norms & still) | switched

    def release(self) -> None:
        """Set everything free."""
        self.freeze_only((), ())


class FreezingPlugin(Plugin):
    """Base of the strategies that take parts of the network out of training while an experience is trained.

    A subclass says which, in `part`. It is asked again before each epoch: a call of ``model.train()`` may have set the
    statistics free, and what is frozen may change within an experience.
    """

    def __init__(self) -> None:
        self.num_trained = 0  # experiences
        self._frozen = Freezer()

    def frozen_parts(self, model: nn.Module) -> FrozenParts:
        """What is frozen now."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Number of trained experiences; what is frozen follows from it."""
        return {"num_trained": self.num_trained}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inside an experience, `on_resume` freezes again."""
        self.num_trained = state["num_trained"]

    def before_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """The network has its final shape: freeze."""
        self._frozen.freeze_only(*self.frozen_parts(learner.model))

    def before_training_epoch(self, learner: Any, **kwargs: Any) -> None:
        """Freeze what this epoch is to leave alone."""
        self._frozen.freeze_only(*self.frozen_parts(learner.model))

    def on_resume(self, learner: Any) -> None:
        """Freeze again."""
        self._frozen.freeze_only(*self.frozen_parts(learner.model))

    def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """Hand the network on as it came."""
        self._frozen.release()
        self.num_trained += 1


def selected_parts(model: nn.Module, selected: Callable[[str], bool]) -> FrozenParts:
    """The selected parameters, and the BatchNorm layers that these leave nothing to learn."""
    return [parameter for name, parameter in model.named_parameters() if selected(name)], frozen_norms(model, selected)


def frozen_norms(model: nn.Module, selected: Callable[[str], bool]) -> list[nn.Module]:
    """The BatchNorm layers all of whose parameters are selected (one without any goes by its ``running_mean``)."""
    found: list[nn.Module] = []
    for path, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            names = [name for name, _ in module.named_parameters()] or ["running_mean"]
            if all(selected(f"{path}.{name}" if path else name) for name in names):
                found.append(module)
    return found


def all_parts_except(model: nn.Module, learns: Callable[[str], bool]) -> FrozenParts:
    """All parameters but the head's and those that learn beside the frozen ones, and all BatchNorm layers."""
    named = model.named_parameters()
    parameters = [parameter for name, parameter in named if not is_head(name) and not learns(name)]
    return parameters, [module for module in model.modules() if isinstance(module, _BatchNorm)]


class AddedLayersPlugin(FreezingPlugin):
    """Base of `lora` and `adapters`: what they add to the network learns instead of what was there.

    In the first `from_experience` experiences it is the other way round: the network learns, what is added stays without effect.
    """

    def __init__(self, from_experience: int, is_there: bool) -> None:
        """`is_there`: whether anything is added at all."""
        super().__init__()
        self._from_experience, self._is_there = from_experience, is_there

    def frozen_parts(self, model: nn.Module) -> FrozenParts:
        """What was there before, or what is added."""
        if not self._is_there:
            return [], []
        if self.num_trained < self._from_experience:
            return [parameter for name, parameter in model.named_parameters() if is_added(name)], []
        return all_parts_except(model, is_added)


def check_from_experience(name: str, from_experience: int, num_experiences: int) -> None:
    """Refuse a strategy that begins only after the last of the `num_experiences` that are trained on.

    Raises:
        UserError: it would never freeze anything.
    """
    if from_experience >= num_experiences:
        key = f"strategies.{name}.from_experience={from_experience}"
        raise UserError(f"{key}: must be below {num_experiences}, the experiences trained on; else nothing is frozen")
