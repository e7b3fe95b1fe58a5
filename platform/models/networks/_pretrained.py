"""Settings and construction that the networks of a library (torchvision, timm) share.

A pretrained network gets inputs like those that it was trained on: a factor and a shift per channel convert the stream's
normalisation into the network's, and a grey picture is repeated on three channels. (Summing the first convolution's weights
over its channels would give the same inside the picture, but not at its border, where zeros are padded.)

Shapes: B batch, C channels, H height, W width, D features.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from ...config.settings import PositiveInt, settings
from ...data.cache import DataFolders
from ...data.streams import Stream
from ...errors import UserError
from ..heads import Classifier
from ._layers import group_norm
from ._weight_files import StateDict, find_weight_file, load_weights, read_weights


@settings
class PretrainedConfig:
    """Settings of a library's network.

    name: the network's name in the library: the part after the colon in the YAML.
    pretrained: true for the library's weights, which it downloads; or the path of a state_dict (.pth or .safetensors), looked
        for in the working folder, then in data.root. The classifier's weights are left out.
    norm: "keep", or "group" to replace each BatchNorm by GroupNorm (the weights must then come from such a network).
    resize: side in pixels to which pictures are resized before the first layer; null: as they are.
    """

    name: str
    pretrained: bool | str = False
    norm: Literal["keep", "group"] = "keep"
    resize: PositiveInt | None = None

    def __post_init__(self) -> None:
        if self.pretrained == "":
            raise ValueError("pretrained='': must be true, false or the path of a file")
        if self.norm == "group" and self.pretrained is True:
            raise ValueError(
                "norm='group': must be 'keep' with pretrained=true: those weights were trained with other layers"
            )
        if isinstance(self.pretrained, str) and Path(self.pretrained).expanduser().is_file():
            # absolute, since workers run in other folders
            object.__setattr__(self, "pretrained", str(Path(self.pretrained).expanduser().absolute()))


@dataclass(frozen=True, slots=True)
class Trunk:
    """A library's network without its classifier.

    Attributes:
        network: the network.
        state: weights that are still to be loaded; None: none.
        classifier: prefixes of the names of the classifier's weights in a file.
        mean: per channel; with `std`, the normalisation of pictures in [0, 1] that the pretrained weights expect.
        std: per channel.
    """

    network: nn.Module
    state: StateDict | None
    classifier: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


class LibraryNetwork(Classifier):
    """A library's network with a growing head, which converts pictures before its first layer."""

    def __init__(
        self, trunk: nn.Module, num_features: int, num_classes: int, generator: torch.Generator, resize: int | None
    ) -> None:
        super().__init__(trunk, num_features, num_classes, generator)
        self.resize = resize
        self.register_buffer(
            "scale", None, persistent=False
        )  # derived from the stream, hence not saved with the weights
        self.register_buffer("shift", None, persistent=False)

    def expect(self, scale: torch.Tensor, shift: torch.Tensor) -> None:
        """Make `features` compute ``x * scale + shift`` per channel first; both are (3,).

        A grey picture becomes three channels.
        """
        self.scale, self.shift = scale.view(-1, 1, 1), shift.view(-1, 1, 1)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Return features (B, D) of pictures (B, C, H, W)."""
        if self.scale is not None:
            x = x * self.scale + self.shift
        if self.resize is not None:
            x = functional.interpolate(x, size=(self.resize, self.resize), mode="bilinear", antialias=True)
        return self.trunk(x)  # type: ignore[no-any-return]


MakeTrunk = Callable[[str, PretrainedConfig, int], Trunk]


def build(
    key: str,
    make: MakeTrunk,
    config: PretrainedConfig,
    shape: tuple[int, ...],
    num_classes: int,
    generator: torch.Generator,
) -> LibraryNetwork:
    """Build a network with `make` for pictures of `shape` that are normalised as its pretrained weights expect.

    Args:
        key: the network's path in the YAML, for errors.
        make: called with the key, the settings and the number of channels.
        config: settings of the network.
        shape: (C, H, W) of a picture.
        num_classes: initial size of the head.
        generator: for the initial weights.

    Raises:
        UserError: the network does not take such samples, or its weights are missing or belong to another network.
    """
    return _build_with_trunk(key, make, config, shape, None, num_classes, generator)[0]


def build_for(
    key: str,
    make: MakeTrunk,
    config: PretrainedConfig,
    stream: Stream,
    folders: DataFolders,
    num_classes: int,
    generator: torch.Generator,
) -> LibraryNetwork:
    """Build a network as `build` does, for the pictures of a stream and its normalisation.

    Relative paths of weights are also looked for in ``folders.root``.
    """
    network, trunk = _build_with_trunk(key, make, config, stream.shape, folders.root, num_classes, generator)
    if config.pretrained:
        mean, std, network_mean, network_std = map(torch.tensor, (stream.mean, stream.std, trunk.mean, trunk.std))
        network.expect(std / network_std, (mean - network_mean) / network_std)
    return network


def _build_with_trunk(
    key: str,
    make: MakeTrunk,
    config: PretrainedConfig,
    shape: tuple[int, ...],
    root: Path | None,
    num_classes: int,
    generator: torch.Generator,
) -> tuple[LibraryNetwork, Trunk]:
    if len(shape) != 3 or (config.pretrained and shape[0] not in (1, 3)):
        channels = " of 1 or 3 channels, as its weights need" if config.pretrained else ""
        raise UserError(f"{key}: needs pictures{channels}; these samples have the shape {list(shape)}.")
    path = f"{key}.pretrained"
    file = find_weight_file(path, config.pretrained, root) if isinstance(config.pretrained, str) else None
    state = (
        read_weights(path, file) if file is not None else None
    )  # read first, so that a wrong file is reported at once
    with torch.random.fork_rng(devices=[]):  # libraries initialise weights with the global generator
        torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        trunk = make(key, config, 3 if config.pretrained else shape[0])
    if config.norm == "group":
        _replace_norms(key, trunk.network)
    state = trunk.state if state is None else state
    if state is not None:
        load_weights(path if file is None else f"{path}='{file}'", trunk.network, state, trunk.classifier)
    num_features = _num_features(key, trunk.network, config, 3 if config.pretrained else shape[0], shape[1:])
    network = LibraryNetwork(trunk.network, num_features, num_classes, generator, config.resize)
    if config.pretrained and shape[0] == 1:
        network.expect(torch.ones(3), torch.zeros(3))
    return network, trunk


def _replace_norms(key: str, network: nn.Module) -> None:
    """Replace each BatchNorm2d by a GroupNorm."""
    norms = {name: module for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}
    if not norms or any(type(module) is not nn.BatchNorm2d for module in norms.values()):
        reason = "has BatchNorm layers that do more than normalise" if norms else "has no BatchNorm layer"
        raise UserError(f"{key}.norm='group': this network {reason}; it must be 'keep'.")
    for name, module in norms.items():
        network.set_submodule(name, group_norm(module.num_features))


def _num_features(key: str, network: nn.Module, config: PretrainedConfig, channels: int, sides: tuple[int, ...]) -> int:
    """D, from a forward pass of one black picture, which also shows whether the network takes this size."""
    height, width = sides if config.resize is None else (config.resize, config.resize)
    network.eval()
    try:
        with torch.no_grad():
            features = network(torch.zeros(1, channels, height, width))
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{key}.resize={config.resize}: the network does not take pictures of {height} x {width} pixels "
            f"({reason}); set it to a size that it takes, such as 224."
        ) from None
    network.train()
    return int(features.shape[1])
