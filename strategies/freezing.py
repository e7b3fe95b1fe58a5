"""Freezing: most layers stay as the first experiences left them, and only the rest keeps learning.

No formula: a frozen parameter has no gradient, so no optimizer changes it by a bit, with any momentum or weight decay. A
BatchNorm layer with only frozen parameters also keeps its running statistics and normalises with them. `norm` sets the
normalisation layers apart from the others.

`layers` as a number counts the trunk's blocks from the input: layers of an MLP or a small CNN, residual blocks, transformer
blocks (platform/models/blocks.py). Layers between two blocks belong to the earlier one.

Peers: FACIL's freezing trains the first task and then freezes the trunk for good (our defaults). Its fix_bn freezes the
statistics of all BatchNorm layers, while gamma and beta keep learning: {layers: [], norm: [statistics]}. Avalanche's
freeze_up_to takes the name of a layer, where we take patterns or a number of blocks; the layers that it sets to eval mode are
set back by the next train(). Here everything is unfrozen when the training of an experience ends, so later code gets the network
as it was.
"""

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..platform.config.settings import FromExperience, MinLen, NonNegativeInt, settings
from ..platform.errors import UserError, comma_separated
from ..platform.methods.freezing import NORMS, FrozenParts, frozen_norms, names_of_norms
from ..platform.methods.freezing import FreezingPlugin as Base
from ..platform.models.blocks import HEADS, block_numbers, blocks_of, is_added, is_head
from ..platform.models.heads import summarise_layers
from ..platform.training.plugin import LearnerView

NEUTRAL: dict[str, Any] = {"layers": [], "norm": None}
Layers = Literal["trunk"] | NonNegativeInt | tuple[Annotated[str, MinLen(1)], ...]


@settings
class Config:
    """Freeze layers, and the statistics of their BatchNorms, after the first experiences.

    layers: "trunk" (all but the head and the layers that lora or adapters add), a number n (the first n blocks of the trunk,
        from the input), or a list of patterns on parameter names, e.g. ["conv1.*", "*.bias"].
    norm: null: normalisation layers are frozen as `layers` says. A list is for all of them and overrides `layers`: "statistics"
        (BatchNorm's running ones) and/or "affine" (gamma and beta) are frozen, and the rest keeps learning.
    from_experience: how many experiences are trained first with nothing frozen; 0 freezes from the start (for a network with
        good weights).
    """

    layers: Layers = "trunk"
    norm: tuple[Literal["statistics", "affine"], ...] | None = None
    from_experience: FromExperience = 1


def selector(layers: Layers, numbers: Mapping[str, int] | None = None) -> Callable[[str], bool]:
    """Return a function of a parameter's name that says whether to freeze it.

    `numbers`: the block of each of the trunk's parameters; needed where `layers` is a number of blocks.
    """
    if layers == "trunk":
        return lambda name: not is_head(name) and not is_added(name)
    if isinstance(layers, int):
        return lambda name: name in (numbers or {}) and (numbers or {})[name] < layers
    return lambda name: any(fnmatchcase(name, pattern) for pattern in layers)


def frozen_names(config: Config, model: nn.Module) -> set[str]:
    """Return the names of the parameters to freeze."""
    selected = selector(config.layers, block_numbers(model))
    names = {name for name, _ in model.named_parameters() if selected(name)}
    if config.norm is None:
        return names
    affine = names_of_norms(model)
    return names | affine if "affine" in config.norm else names - affine


def parts_to_freeze(config: Config, model: nn.Module) -> FrozenParts:
    """Return the parameters to freeze, and the BatchNorm layers with frozen statistics."""
    names = frozen_names(config, model)
    parameters = [parameter for name, parameter in model.named_parameters() if name in names]
    if config.norm is None:
        return parameters, frozen_norms(model, selector(config.layers, block_numbers(model)))
    layers: list[nn.Module] = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    return parameters, layers if "statistics" in config.norm else []


def check_model(config: Config, model: nn.Module) -> None:
    """Refuse layers that match nothing in `model`, and a choice that leaves nothing to learn."""
    names = [name for name, _ in model.named_parameters()]
    layers, norm = config.layers, config.norm
    key = f"strategies.freezing.layers={list(layers) if isinstance(layers, tuple) else layers}"
    known = summarise_layers(names)
    for pattern in layers if isinstance(layers, tuple) else ():
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(f"{key}: '{pattern}' matches no parameter. Layers of this network: {known}.")
    if isinstance(layers, int) and layers > len(blocks_of(model)):
        blocks = blocks_of(model)
        raise UserError(f"{key}: the trunk of this network has {len(blocks)} blocks: {', '.join(blocks)}.")
    if norm and not any(isinstance(module, NORMS if "affine" in norm else _BatchNorm) for module in model.modules()):
        raise UserError(f"strategies.freezing.norm={list(norm)}: the network has no such normalisation layers")
    if set(names) == frozen_names(config, model):
        hint = f" A head is called one of {comma_separated(HEADS)}; give patterns instead." if layers == "trunk" else ""
        raise UserError(f"{key}: freezes every parameter, so nothing could be learned.{hint} Layers: {known}.")


class FreezingPlugin(Base[Config]):
    """Freezes the selected parameters while an experience is trained."""

    def frozen_parts(self, model: nn.Module) -> FrozenParts:
        """Return the frozen parts."""
        return parts_to_freeze(self.config, model)

    def on_start(self, learner: LearnerView) -> None:
        """Check the patterns against the network's final shape, and freeze."""
        if self.config.layers or self.config.norm:
            check_model(self.config, learner.model)
        super().on_start(learner)
