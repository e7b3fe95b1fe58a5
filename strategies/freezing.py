"""Freezing: most layers stay as the first experiences left them, and only the rest learns what is new.

No formula: a frozen parameter has no gradient, so that no optimizer changes it by a bit, whatever its momentum or
weight decay. A BatchNorm layer all of whose parameters are frozen also keeps its running statistics and normalises
with them; FACIL's fix_bn lets gamma and beta learn on, and what Avalanche's freeze_up_to sets to eval mode is set free
again by the next train().

Peers: FACIL's freezing trains the first task and then freezes the trunk for good (our defaults); Avalanche's
freeze_up_to takes the name of a layer, where we take patterns. Everything is undone when the training of an experience
ends, so the network is always handed on as it came.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..platform.errors import UserError, listed
from ..platform.heads import layers_of
from ..platform.plugins import Plugin

NEUTRAL: dict[str, Any] | None = {"layers": []}
HEADS = ("head", "heads", "classifier", "fc")  # how a parameter's name starts: ours, Avalanche's, torchvision's


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Freeze layers, and the statistics of their BatchNorms, after the first experiences.

    layers: "trunk" (all but the head), or a list of patterns on parameter names, e.g. ["conv1.*", "*.bias"].
    from_experience: how many experiences are trained with everything free before; 0 (for a network that comes with
        good weights) freezes from the start.
    """

    layers: Literal["trunk"] | tuple[str, ...] = "trunk"
    from_experience: int = 1

    def __post_init__(self) -> None:
        layers, from_experience = self.layers, self.from_experience
        if isinstance(layers, str) and layers != "trunk":
            raise ValueError(f"{layers=}: must be 'trunk' or a list of patterns on parameter names")
        if not isinstance(layers, str) and not all(layers):
            raise ValueError(f"layers={list(layers)}: holds an empty pattern")
        if from_experience < 0:
            raise ValueError(f"{from_experience=}: must be >= 0")


def selector(layers: str | tuple[str, ...]) -> Callable[[str], bool]:
    """Whether a parameter of that name is to be frozen."""
    if layers == "trunk":
        return lambda name: name.partition(".")[0] not in HEADS
    return lambda name: any(fnmatchcase(name, pattern) for pattern in layers)


def frozen_norms(model: nn.Module, selected: Callable[[str], bool]) -> list[nn.Module]:
    """The BatchNorm layers all of whose parameters are selected (one without any goes by its ``running_mean``)."""
    found: list[nn.Module] = []
    for path, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            names = [name for name, _ in module.named_parameters()] or ["running_mean"]
            if all(selected(f"{path}.{name}" if path else name) for name in names):
                found.append(module)
    return found


def check_model(config: Config, model: nn.Module) -> None:
    """Refuse patterns that match no parameter of `model`, and a choice that leaves nothing to learn."""
    names = [name for name, _ in model.named_parameters()]
    key = f"strategies.freezing.layers={list(config.layers) if isinstance(config.layers, tuple) else config.layers}"
    known = layers_of(names)
    for pattern in config.layers if isinstance(config.layers, tuple) else ():
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(f"{key}: '{pattern}' matches no parameter. Layers of this network: {known}.")
    if all(map(selector(config.layers), names)):
        hint = f" A head is called one of {listed(HEADS)}; give patterns instead." if config.layers == "trunk" else ""
        raise UserError(f"{key}: freezes every parameter, so nothing could be learned.{hint} Layers: {known}.")


def check_stream(config: Config, num_classes: int, num_experiences: int) -> None:
    """Refuse to freeze only after the last of the `num_experiences` that are trained on."""
    if config.layers and config.from_experience >= num_experiences:
        key = f"strategies.freezing.from_experience={config.from_experience}"
        raise UserError(f"{key}: must be below {num_experiences}, the experiences trained on; else nothing is frozen")


class FreezingPlugin(Plugin):
    """Takes the selected parameters out of training while an experience is trained."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._num_trained = 0
        self._parameters: list[nn.Parameter] = []
        self._norms: list[tuple[nn.Module, bool]] = []

    def state_dict(self) -> dict[str, Any]:
        """Number of trained experiences; what is frozen follows from it."""
        return {"num_trained": self._num_trained}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inside an experience, `on_resume` freezes again."""
        self._num_trained = state["num_trained"]

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """The network has its final shape: check the patterns against it and freeze."""
        if self.config.layers:
            check_model(self.config, strategy.model)
        self._freeze(strategy.model)

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """A call of ``model.train()`` may have set the statistics free."""
        for module, _ in self._norms:
            module.eval()

    def on_resume(self, strategy: Any) -> None:
        """Freeze again."""
        self._freeze(strategy.model)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Hand the network on as it came."""
        for parameter in self._parameters:
            parameter.requires_grad_(True)
        for module, was_training in self._norms:
            module.train(was_training)
        self._parameters, self._norms = [], []
        self._num_trained += 1

    def _freeze(self, model: nn.Module) -> None:
        self._parameters = []
        if self._num_trained < self.config.from_experience:
            return
        selected = selector(self.config.layers)
        for name, parameter in model.named_parameters():
            if selected(name) and parameter.requires_grad:
                parameter.requires_grad_(False)
                parameter.grad = None  # a gradient of zeros would still let momentum and weight decay act
                self._parameters.append(parameter)
        self._norms = [(module, module.training) for module in frozen_norms(model, selected)]
        for module, _ in self._norms:
            module.eval()


def build(config: Config, seed: int) -> FreezingPlugin:
    """The plugin; it draws no random numbers."""
    return FreezingPlugin(config)
