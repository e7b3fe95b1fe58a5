"""Networks: the contract for every file, published sizes, oracles, library networks with real weights, parameter groups."""

import copy
import importlib
import math
import os
import random
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from retain.platform.config import registry
from retain.platform.config.dotted_paths import split_colon
from retain.platform.config.load import build_config, from_dict, load_config, to_dict
from retain.platform.config.schema import Experiment, Optimizer, Schedule, Training
from retain.platform.data.cache import DataFolders
from retain.platform.data.streams import Stream
from retain.platform.errors import UserError
from retain.platform.ledger.reader import Trial
from retain.platform.models.heads import Classifier, summarise_layers
from retain.platform.models.networks import _layers, mlp, resnet, vit, wide_resnet
from retain.platform.models.networks import torchvision as library
from retain.platform.seeding import generator
from retain.platform.training.avalanche_learner import AvalancheLearner as Learner
from retain.platform.training.optimization import make_optimizer, parameter_groups, set_lr
from retain.platform.trial.builder import build_trial
from retain.platform.trial.resolve import resolve_experiment
from retain.platform.trial.run import run as run_trial

Build = Callable[..., Stream]
Make = Callable[..., Experiment]
Shape = tuple[int, ...]
PICTURE = (3, 32, 32)
WEIGHTS = "mobilenet_v2-b0353104.pth"  # torchvision's IMAGENET1K_V1; `make data` fetches it into the data folder
CASES: dict[str, tuple[str, dict[str, Any], Shape]] = {
    "mlp": ("mlp", {"hidden": [16]}, (1, 8, 8)),
    "mlp, norm": ("mlp", {"hidden": [16, 8], "norm": "batch", "activation": "gelu", "dropout": 0.5}, (5,)),
    "mlp, layer": ("mlp", {"hidden": [16], "norm": "layer", "activation": "leaky_relu", "init": "xavier"}, (1, 28, 28)),
    "small_cnn": ("small_cnn", {"channels": [4, 8], "hidden": 16}, (1, 28, 28)),
    "small_cnn, group": ("small_cnn", {"channels": [4], "hidden": 16, "norm": "group"}, (1, 8, 8)),
    "lenet": ("lenet", {}, (1, 28, 28)),
    "lenet, layer": ("lenet", {"activation": "tanh", "norm": "layer", "init": "xavier"}, PICTURE),
    "resnet": ("resnet", {"depth": 20, "width": 4}, (1, 28, 28)),
    "resnet 18": ("resnet", {"depth": 18, "width": 4, "norm": "group"}, PICTURE),
    "resnet 50": ("resnet", {"depth": 50, "width": 4, "stem": "imagenet", "norm": "layer"}, PICTURE),
    "resnet, none": ("resnet", {"depth": 20, "width": 4, "norm": None}, (1, 8, 8)),
    "wide_resnet": ("wide_resnet", {"depth": 10, "widen": 1, "dropout": 0.3}, (1, 28, 28)),
    "vit": ("vit", {"dim": 24, "depth": 2, "heads": 3, "dropout": 0.1}, PICTURE),
    "vit, grey": ("vit", {"dim": 24, "depth": 1, "heads": 2, "patch": 2}, (1, 8, 8)),
    "torchvision": ("torchvision:mnasnet0_5", {}, PICTURE),
    "torchvision, grey": ("torchvision:shufflenet_v2_x0_5", {"norm": "group"}, (1, 28, 28)),
    "torchvision, 5 channels": ("torchvision:shufflenet_v2_x0_5", {"resize": 40}, (5, 16, 24)),
    "timm": ("timm:test_resnet", {}, (1, 28, 28)),
    "timm, resized": ("timm:test_vit", {"resize": 160}, PICTURE),
}


def config_of(name: str, settings: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return a network's module and its checked settings."""
    if name.startswith("timm"):
        pytest.importorskip("timm", reason="timm is an optional package")
    module_name, in_the_name = split_colon(name)
    module = importlib.import_module(f"retain.platform.models.networks.{module_name}")
    return module, build_config(module.Config, {**settings, **in_the_name}, f"model.{name}")


def make(case: str, seed: int = 0, num_classes: int = 3) -> Any:
    """Return the network of a case, in evaluation mode."""
    name, settings, shape = CASES[case]
    module, config = config_of(name, settings)
    return module.build(config, shape, num_classes, generator(seed)).eval()


def pictures(case: str, num: int = 4) -> torch.Tensor:
    """Return normalised samples (num, *shape)."""
    return torch.randn(num, *CASES[case][2], generator=generator(7))


def logits(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return network(x)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


# The contract.


def test_every_network_has_a_case() -> None:
    assert {split_colon(name)[0] for name, _, _ in CASES.values()} == set(registry.names("networks"))


@pytest.mark.parametrize("case", CASES)
def test_the_head_applied_to_features_gives_the_logits(case: str) -> None:
    network, x = make(case), pictures(case)
    out = logits(network, x)
    assert out.shape == (4, 3) and out.dtype == torch.float32 and bool(out.isfinite().all())
    with torch.no_grad():
        features = network.features(x)
        assert torch.equal(features @ network.head.weight.T + network.head.bias, out) or torch.allclose(
            features @ network.head.weight.T + network.head.bias, out, rtol=1e-5, atol=1e-5
        )
    assert features.shape == (4, network.head.weight.shape[1])
    assert torch.equal(logits(network, x), out), "evaluation draws nothing"
    assert torch.allclose(logits(network, x[:1]), out[:1], rtol=1e-3, atol=1e-4), "a sample does not see the others"


@pytest.mark.parametrize("case", CASES)
def test_weights_come_from_the_generator_alone(case: str) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    state = make(case).state_dict()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]
    torch.rand(3)  # the state of the global generator does not matter
    same, other = make(case).state_dict(), make(case, seed=1).state_dict()
    assert all(torch.equal(state[name], same[name]) for name in state)
    matrices = [name for name, value in state.items() if value.ndim > 1 and "token" not in name and value.std() > 0]
    assert matrices and not any(torch.equal(state[name], other[name]) for name in matrices)


@pytest.mark.parametrize("case", CASES)
def test_networks_grow_copy_and_load_their_state(case: str) -> None:
    network, x = make(case), pictures(case)
    before = logits(network, x)
    network.head.grow(5, generator(2))
    assert torch.allclose(logits(network, x)[:, :3], before, atol=1e-6) and logits(network, x).shape == (4, 5)
    other = make(case, seed=1, num_classes=5)
    other.load_state_dict(network.state_dict())
    assert torch.equal(logits(other, x), logits(network, x))
    assert torch.equal(logits(copy.deepcopy(network), x), logits(network, x))
    assert all(name.startswith(("trunk.", "head.")) for name, _ in network.named_parameters())


@pytest.mark.parametrize(
    "case", [case for case in CASES if case not in ("torchvision", "torchvision, grey", "timm, resized")]
)
def test_overfits_one_batch(case: str) -> None:
    network, x, y = make(case).train(), pictures(case, 12), torch.arange(12) % 3
    torch.manual_seed(0)  # for dropout
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        loss = functional.cross_entropy(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in network.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[-3:]) < 0.8 * losses[0]


REFUSED = [
    ("small_cnn", {"channels": [4, 4, 4, 4]}, (1, 8, 8), ("model.small_cnn.channels", "16 pixels", "[1, 8, 8]")),
    ("lenet", {}, (1, 8, 8), ("model.lenet", "12 pixels", "[1, 8, 8]")),
    ("resnet", {"stem": "imagenet"}, (3, 28, 28), ("model.resnet", "32 pixels", "[3, 28, 28]")),
    ("resnet", {}, (64,), ("model.resnet", "[64]")),
    ("wide_resnet", {}, (3, 4, 4), ("model.wide_resnet", "8 pixels")),
    ("vit", {}, (1, 30, 32), ("model.vit.patch=4", "[30, 32]")),
    ("torchvision:resnet18", {}, (64,), ("model.torchvision:resnet18", "[64]")),
    ("torchvision:resnet81", {}, PICTURE, ("model.torchvision:resnet81", "'resnet18'?")),
    ("torchvision:densenet121", {}, (1, 16, 16), ("model.torchvision:densenet121.resize=None", "16 x 16", "224")),
    ("torchvision:densenet121", {"resize": 8}, PICTURE, ("model.torchvision:densenet121.resize=8", "8 x 8")),
    ("torchvision:squeezenet1_0", {}, PICTURE, ("model.torchvision:squeezenet1_0", "no linear layer")),
    ("torchvision:googlenet", {}, PICTURE, ("model.torchvision:googlenet", "several outputs")),
    ("torchvision:convnext_tiny", {"norm": "group"}, PICTURE, ("convnext_tiny.norm='group'", "no BatchNorm")),
    ("torchvision:resnet18", {"pretrained": "none.pth"}, PICTURE, ("resnet18.pretrained='none.pth'", "no such file")),
    ("timm:test_resnett", {}, PICTURE, ("model.timm:test_resnett", "'test_resnet'?")),
    ("timm:vit_tiny_patch16_224", {}, PICTURE, ("vit_tiny_patch16_224.resize=None", "32 x 32", "224")),
    ("timm:efficientnet_lite0", {"norm": "group"}, PICTURE, ("norm='group'", "more than normalise")),
]


@pytest.mark.parametrize(("name", "settings", "shape", "said"), REFUSED)
def test_invalid_settings_are_refused(name: str, settings: dict[str, Any], shape: Shape, said: tuple[str, ...]) -> None:
    module, config = config_of(name, settings)
    with pytest.raises(UserError) as caught:
        module.build(config, shape, 2, generator(0))
    assert all(part in str(caught.value) for part in said), caught.value


BAD = [
    ("mlp", {"activation": "selu"}, ("model.mlp.activation='selu'", "'leaky_relu'")),
    ("small_cnn", {"norm": "bach"}, ("model.small_cnn.norm='bach'", "'batch'")),
    ("small_cnn", {"batch_norm": True}, ("model.small_cnn.batch_norm",)),
    ("resnet", {"depth": 19}, ("model.resnet.depth=19", "18, 20")),
    ("resnet", {"width": 0}, ("model.resnet.width=0", "above 0")),
    ("wide_resnet", {"depth": 27}, ("model.wide_resnet.depth=27", "6n + 4")),
    ("wide_resnet", {"dropout": 1.0}, ("model.wide_resnet.dropout=1.0", "[0, 1)")),
    ("vit", {"heads": 5}, ("model.vit.heads=5", "dim=192")),
    ("vit", {"depth": 0}, ("model.vit.depth=0", "above 0")),
    ("torchvision:resnet18", {"resize": 0}, ("model.torchvision:resnet18.resize=0", "above 0")),
    ("torchvision:resnet18", {"pretrained": ""}, ("model.torchvision:resnet18.pretrained=''", "path")),
    ("torchvision:resnet18", {"norm": "group", "pretrained": True}, ("resnet18.norm='group'", "'keep'")),
    ("torchvision:resnet18", {"norm": "layer"}, ("resnet18.norm='layer'", "'keep'")),
]


@pytest.mark.parametrize(("name", "settings", "said"), BAD)
def test_settings_are_checked(name: str, settings: dict[str, Any], said: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught:
        config_of(name, settings)
    assert all(part in str(caught.value) for part in said), caught.value


# Architectures: published sizes, and the same logits as other implementations with the same weights.

SIZES = [  # He 2016, Zagoruyko 2016 and Touvron 2021 give millions; torchvision and timm exact numbers
    ("lenet", {}, (1, 28, 28), 10, 61_706, 0),
    ("resnet", {"depth": 20}, PICTURE, 10, 0.27e6, 0.005e6),
    ("resnet", {"depth": 32}, PICTURE, 10, 0.46e6, 0.005e6),
    ("resnet", {"depth": 44}, PICTURE, 10, 0.66e6, 0.005e6),
    ("resnet", {"depth": 18}, PICTURE, 10, 11.17e6, 0.005e6),
    ("resnet", {"depth": 34, "stem": "imagenet"}, (3, 224, 224), 1000, 21_797_672, 0),
    ("wide_resnet", {"depth": 40, "widen": 1}, PICTURE, 10, 0.6e6, 0.05e6),
    ("wide_resnet", {"depth": 16, "widen": 8}, PICTURE, 10, 11.0e6, 0.05e6),
    ("wide_resnet", {"depth": 28, "widen": 10}, PICTURE, 10, 36.5e6, 0.05e6),
    ("vit", {"patch": 16}, (3, 224, 224), 1000, 5_717_416, 0),
    ("vit", {"patch": 16, "size": "small"}, (3, 224, 224), 1000, 22_050_664, 0),
]


@pytest.mark.parametrize(("name", "settings", "shape", "num_classes", "published", "tolerance"), SIZES)
def test_has_the_published_size(
    name: str, settings: dict[str, Any], shape: Shape, num_classes: int, published: float, tolerance: float
) -> None:
    module, config = config_of(name, settings)
    size = count(module.build(config, shape, num_classes, generator(0)))
    assert abs(size - published) <= tolerance


def copied(own: nn.Module, others: Mapping[str, torch.Tensor]) -> nn.Module:
    """Return our network with another network's weights, which are in the same order."""
    names = own.state_dict().keys()
    own.load_state_dict(dict(zip(names, others.values(), strict=True)))
    return own.eval()


@pytest.mark.parametrize("depth", [18, 50])
def test_resnet_is_torchvisions(depth: Any) -> None:
    from torchvision import models

    theirs = models.get_model(f"resnet{depth}", num_classes=5).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    config = resnet.Config(depth=depth, stem="imagenet")
    own = copied(resnet.build(config, (3, 64, 64), 5, generator(0)), theirs.state_dict())
    x = torch.randn(2, 3, 64, 64)
    assert torch.allclose(logits(own, x), logits(theirs, x), rtol=1e-4, atol=1e-5)


def test_vit_is_torchvisions() -> None:
    from torchvision.models import VisionTransformer

    theirs = VisionTransformer(32, 8, 2, 3, 48, 4 * 48, num_classes=5).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.2)
    weights = {name: value for name, value in theirs.state_dict().items() if name != "encoder.pos_embedding"}
    start = list(weights)[:3]  # the class token, the patches' weight and bias; the positions come next in ours
    order = ["class_token", "encoder.pos_embedding", *start[1:], *list(weights)[3:]]
    config = vit.Config(dim=48, depth=2, heads=3, patch=8)
    own = copied(vit.build(config, PICTURE, 5, generator(0)), {name: theirs.state_dict()[name] for name in order})
    x = torch.randn(3, *PICTURE)
    assert torch.allclose(logits(own, x), logits(theirs, x), rtol=1e-4, atol=1e-4)
    assert float(logits(own, x).std()) > 0.1


def _normalised(state: Mapping[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
    keys = ("running_mean", "running_var", "weight", "bias")
    return functional.batch_norm(x, *(state[f"trunk.{name}.{key}"] for key in keys))


def _wrn(state: Mapping[str, torch.Tensor], x: torch.Tensor, per_stage: int) -> torch.Tensor:
    """A second implementation of a wide ResNet: x + conv(relu(bn(conv(relu(bn(x)))))), 1x1 of the activated input."""
    x = functional.conv2d(x, state["trunk.stem.weight"], padding=1)
    for stage in (1, 2, 3):
        for index in range(per_stage):
            at = f"stage{stage}.{index}"
            stride = 2 if index == 0 and stage > 1 else 1
            active = _normalised(state, f"{at}.norm1", x).relu()
            out = functional.conv2d(active, state[f"trunk.{at}.conv1.weight"], stride=stride, padding=1)
            out = _normalised(state, f"{at}.norm2", out).relu()
            out = functional.conv2d(out, state[f"trunk.{at}.conv2.weight"], padding=1)
            short = state.get(f"trunk.{at}.shortcut.weight")
            x = out + (x if short is None else functional.conv2d(active, short, stride=stride))
    return _normalised(state, "norm", x).relu().mean((2, 3))


def _cifar_resnet(state: Mapping[str, torch.Tensor], x: torch.Tensor, per_stage: int) -> torch.Tensor:
    """A second implementation of He's ResNet for CIFAR: option A subsamples the shortcut and pads it with zeros."""
    x = _normalised(state, "stem.1", functional.conv2d(x, state["trunk.stem.0.weight"], padding=1)).relu()
    for stage in (1, 2, 3):
        for index in range(per_stage):
            at = f"stage{stage}.{index}"
            stride = 2 if index == 0 and stage > 1 else 1
            out = functional.conv2d(x, state[f"trunk.{at}.conv1.weight"], stride=stride, padding=1)
            out = _normalised(state, f"{at}.norm1", out).relu()
            out = functional.conv2d(out, state[f"trunk.{at}.conv2.weight"], padding=1)
            out = _normalised(state, f"{at}.norm2", out)
            if stride == 2:
                half = functional.avg_pool2d(x, 1, 2)
                x = torch.cat([half, torch.zeros_like(half)], dim=1)
            x = (x + out).relu()
    return x.mean((2, 3))


@pytest.mark.parametrize("kind", ["wide", "cifar"])
def test_residual_networks_match_the_papers(kind: str) -> None:
    network: nn.Module
    if kind == "wide":
        network = wide_resnet.build(wide_resnet.Config(depth=16, widen=2), PICTURE, 2, generator(0))
    else:
        network = resnet.build(resnet.Config(depth=20), PICTURE, 2, generator(0))
    x = torch.randn(4, *PICTURE, generator=generator(1))
    network(x)  # so that the statistics are not their initial values
    second = _wrn if kind == "wide" else _cifar_resnet
    network.eval()
    with torch.no_grad():
        expected = second(network.state_dict(), x, 2 if kind == "wide" else 3)
        assert torch.allclose(network.features(x), expected, rtol=1e-4, atol=1e-5)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("channels", "groups"), [(1, 1), (3, 1), (4, 2), (5, 1), (16, 8), (32, 16), (64, 32), (96, 32), (512, 32)]
)
def test_groups_of_group_norm(channels: int, groups: int) -> None:
    assert _layers.group_norm(channels).num_groups == groups


def test_norms_and_activations_are_where_they_should_be() -> None:
    config = mlp.Config(hidden=(8, 4), norm="layer", activation="gelu", dropout=0.2)
    trunk = mlp.build(config, (6,), 2, generator(0)).trunk
    assert isinstance(trunk, nn.Sequential)
    kinds = [type(layer).__name__ for layer in trunk]
    assert kinds == ["Flatten", *["Linear", "LayerNorm", "GELU", "Dropout"] * 2]
    x = torch.randn(3, 8, 2, 2)
    layer = _layers.norm2d("layer", 8)(x)
    assert torch.allclose(layer, functional.layer_norm(x, [8, 2, 2]), atol=1e-6)


def test_layers_of_a_deep_network_are_summarised() -> None:
    assert summarise_layers(["trunk.1.weight", "head.weight", "weight"]) == "head, trunk.1, weight"
    deep = [f"trunk.a{i}.b{j}.weight" for i in range(3) for j in range(20)]
    assert summarise_layers([*deep, "head.bias"]) == "head, trunk.a0.*, trunk.a1.*, trunk.a2.*"


@pytest.mark.parametrize(
    "model", [{"resnet": {"depth": 20, "width": 4}}, {"vit": {"dim": 24, "depth": 1, "heads": 2, "patch": 2}}]
)
def test_a_trial_learns(model: dict[str, Any], tmp_path: Path) -> None:
    training = {"epochs": 3, "batch_size": 64, "optimizer": {"name": "adam", "lr": 0.003}}
    stream = {"split_digits": {"num_experiences": 2, "validation": 0.7}}
    run_trial(from_dict({"name": "t", "benchmark": stream, "model": model, "training": training}), tmp_path)
    losses = [event["loss"] for _, event in Trial(tmp_path).events() if event["kind"] == "epoch"]
    assert len(losses) == 6 and losses[2] < losses[0] and losses[5] < losses[3]


# Networks of libraries.


def weights_file() -> Path:
    """Return the path of torchvision's MobileNetV2 weights; skip the test if they are missing."""
    places = [Path(os.environ.get("RETAIN_DATA", ".")) / "weights", Path(torch.hub.get_dir()) / "checkpoints"]
    for place in places:
        if (place / WEIGHTS).is_file():
            return place / WEIGHTS
    pytest.skip(f"{WEIGHTS} is not there: `make data`, and RETAIN_DATA set to its folder")


def stream_of(shape: Shape, mean: tuple[float, ...], std: tuple[float, ...]) -> Stream:
    return Stream("pictures", "class", (), ("a", "b"), shape, mean, std)


@pytest.fixture
def folders(tmp_path: Path) -> DataFolders:
    """Return a data folder with a file of weights, of an untrained network."""
    (tmp_path / "weights").mkdir()
    from torchvision import models

    torch.manual_seed(0)
    torch.save(models.shufflenet_v2_x0_5().state_dict(), tmp_path / "weights" / "shufflenet.pth")
    return DataFolders(tmp_path, tmp_path / "cache")


PRETRAINED = {"pretrained": "weights/shufflenet.pth"}


def loaded(settings: dict[str, Any], stream: Stream, folders: DataFolders) -> Any:
    """Return torchvision's small ShuffleNet with those weights, in evaluation mode."""
    _, config = config_of("torchvision:shufflenet_v2_x0_5", settings)
    return library.build_for(config, stream, folders, 2, generator(0)).eval()


def imagenet(x: torch.Tensor) -> torch.Tensor:
    """Return pictures in [0, 1], normalised as torchvision's weights expect."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (x - mean.view(3, 1, 1)) / std.view(3, 1, 1)


@pytest.mark.parametrize("resize", [None, 48])
def test_pretrained_features_are_the_librarys(resize: int | None, folders: DataFolders) -> None:
    """With any normalisation of the stream, the network's input is normalised as in its pretraining."""
    from torchvision import models

    assert folders.root is not None
    theirs = models.shufflenet_v2_x0_5()
    theirs.load_state_dict(torch.load(folders.root / "weights" / "shufflenet.pth", weights_only=True))
    theirs.fc = nn.Identity()
    theirs.eval()
    x = torch.randint(0, 256, (2, 3, 40, 32), dtype=torch.uint8, generator=generator(3))
    stream = stream_of((3, 40, 32), (0.5, 0.2, 0.1), (0.3, 0.2, 0.4))
    own = loaded(PRETRAINED | {"resize": resize}, stream, folders)
    seen = imagenet(x / 255)
    if resize is not None:
        seen = functional.interpolate(seen, size=(48, 48), mode="bilinear", antialias=True)
    with torch.no_grad():
        assert torch.allclose(own.features(stream.normalise(x)), theirs(seen), rtol=1e-4, atol=1e-5)
    assert "trunk.conv1.0.weight" in own.state_dict() and not any(
        name.startswith("trunk.fc") for name in own.state_dict()
    )


def test_grey_pictures_are_the_same_on_three_channels(folders: DataFolders) -> None:
    x = torch.randint(0, 256, (2, 1, 32, 32), dtype=torch.uint8, generator=generator(3))
    grey, colour = stream_of((1, 32, 32), (0.3,), (0.2,)), stream_of((3, 32, 32), (0.1, 0.2, 0.3), (0.2, 0.3, 0.4))
    with torch.no_grad():
        single = loaded(PRETRAINED, grey, folders).features(grey.normalise(x))
        three = loaded(PRETRAINED, colour, folders).features(colour.normalise(x.repeat(1, 3, 1, 1)))
    assert torch.allclose(single, three, rtol=1e-4, atol=1e-5) and float(single.std()) > 0


def test_normalisation_constants_are_not_in_the_state_dict(folders: DataFolders) -> None:
    stream = stream_of((1, 32, 32), (0.3,), (0.2,))
    network = loaded(PRETRAINED, stream, folders)
    assert not {"scale", "shift"} & network.state_dict().keys()
    x = torch.randn(2, 1, 32, 32)
    assert torch.equal(logits(copy.deepcopy(network), x), logits(network, x))


def _torn(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {"conv1.0.weight": state["conv1.0.weight"][:3]} | {k: v for k, v in state.items() if k != "conv1.0.weight"}


FILES: list[tuple[str, Callable[[dict[str, torch.Tensor]], Any], tuple[str, ...]]] = [
    ("a.pth", lambda state: {k: v for k, v in state.items() if "bias" not in k}, ("missing: conv1.1.bias", "more")),
    ("a.pth", lambda state: state | {"extra.weight": torch.ones(1)}, ("unexpected: extra.weight",)),
    ("a.pth", _torn, ("of another shape: conv1.0.weight ([3, 3, 3, 3] instead of [24, 3, 3, 3])",)),
    ("a.pth", lambda state: [1, 2], ("holds no state_dict",)),
    ("a.pth", lambda state: nn.Linear(2, 2), ("is no file of weights",)),  # unpickling a whole module would run code
    ("a.pth", lambda state: None, ("is no file of weights",)),
    ("a.safetensors", lambda state: None, ("is no file of weights",)),
]


@pytest.mark.parametrize(("name", "change", "said"), FILES)
def test_wrong_weights_are_refused(
    name: str, change: Callable[..., Any], said: tuple[str, ...], folders: DataFolders
) -> None:
    assert folders.root is not None
    content = change(torch.load(folders.root / "weights" / "shufflenet.pth", weights_only=True))
    path = folders.root / name
    if content is None:
        path.write_bytes(b"no tensors here")
    else:
        torch.save(content, path)
    with pytest.raises(UserError) as caught:
        loaded({"pretrained": name}, stream_of(PICTURE, (0.5,) * 3, (0.5,) * 3), folders)
    assert all(part in str(caught.value) for part in (f"shufflenet_v2_x0_5.pretrained='{path}'", *said))


def test_weights_from_before_torch_0_4_1(folders: DataFolders) -> None:
    """They lack BatchNorm's later counters and the layers' versions."""
    assert folders.root is not None
    state = torch.load(folders.root / "weights" / "shufflenet.pth", weights_only=True)
    old = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    assert len(old) < len(state)
    torch.save(old, folders.root / "old.pth")
    stream, x = stream_of(PICTURE, (0.5,) * 3, (0.5,) * 3), torch.randn(2, *PICTURE)
    networks = [loaded({"pretrained": name}, stream, folders) for name in ("old.pth", "weights/shufflenet.pth")]
    old_features, new_features = (network.eval().features(x) for network in networks)
    assert torch.equal(old_features, new_features)


@pytest.mark.parametrize("kind", ["safetensors", "wrapped", "absolute", "home", "working folder"])
def test_where_and_how_weights_are_found(
    kind: str, folders: DataFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import save_file

    stream = stream_of(PICTURE, (0.5,) * 3, (0.5,) * 3)
    file = tmp_path / "weights" / "shufflenet.pth"
    state = torch.load(file, weights_only=True)
    if kind == "safetensors":
        save_file(state, tmp_path / "a.safetensors")
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "wrapped.pth")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path if kind == "working folder" else tmp_path / "weights")
    path = {"safetensors": "a.safetensors", "wrapped": "wrapped.pth", "absolute": str(file), "home": "~/wrapped.pth"}
    source = path.get(kind, "wrapped.pth")
    network = loaded({"pretrained": source}, stream, folders)
    assert all(torch.equal(state[name], value) for name, value in network.trunk.state_dict().items())
    config = library.Config(name="resnet18", pretrained=source)
    at_once = {"absolute": str(file), "home": str(tmp_path / "wrapped.pth"), "working folder": str(tmp_path / source)}
    assert config.pretrained == at_once.get(kind, source), "workers run in other folders"


def test_pretrained_pictures_have_one_or_three_channels(folders: DataFolders) -> None:
    with pytest.raises(UserError, match=r"1 or 3 channels.*\[5, 32, 32\]"):
        loaded(PRETRAINED, stream_of((5, 32, 32), (0.5,) * 5, (0.5,) * 5), folders)


def test_torchvisions_weights_without_internet_access(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from urllib.error import URLError

    def fail(*args: Any, **kwargs: Any) -> None:
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", fail)
    with pytest.raises(UserError, match=r"resnet18\.pretrained=true: .*download.*no network.*path"):
        library.build(library.Config(name="resnet18", pretrained=True), PICTURE, 2, generator(0))


def test_timms_weights_without_internet_access(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module, config = config_of("timm:resnet18", {"pretrained": True})
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"model\.timm:resnet18\.pretrained=True: its weights cannot be had"):
        module.build(config, PICTURE, 2, generator(0))


def test_timm_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("retain.platform.models.networks.timm")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r'model\.timm:resnet18: .*pip install "retain\[timm\]"'):
        module.build(module.Config(name="resnet18"), PICTURE, 2, generator(0))


def test_timms_weights_from_a_file(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("test_resnet", num_classes=7).eval()
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    module, config = config_of("timm:test_resnet", {"pretrained": str(tmp_path / "w.pth")})
    stream = stream_of(PICTURE, (0.5, 0.2, 0.1), (0.3, 0.2, 0.4))
    own = module.build_for(config, stream, DataFolders(None, tmp_path), 2, generator(0)).eval()
    x = torch.rand(2, *PICTURE)
    expected = [torch.tensor(theirs.pretrained_cfg[name]).view(3, 1, 1) for name in ("mean", "std")]
    with torch.no_grad():
        features = theirs.forward_head(theirs.forward_features((x - expected[0]) / expected[1]), pre_logits=True)
        assert torch.allclose(own.features(stream.normalise(x)), features, rtol=1e-4, atol=1e-5)


def test_a_known_picture_is_classified_correctly() -> None:
    """scikit-learn's china.jpg shows the tower of the Summer Palace; its other picture, a dahlia, is no class of ImageNet."""
    from sklearn.datasets import load_sample_images
    from torchvision.models import MobileNet_V2_Weights, mobilenet_v2

    file = weights_file()
    square = [torch.from_numpy(picture[:, 106:533].copy()).permute(2, 0, 1) for picture in load_sample_images().images]
    x = functional.interpolate(torch.stack(square).float(), size=(224, 224), mode="bilinear", antialias=True)
    x = x.round().to(torch.uint8)
    stream = stream_of((3, 224, 224), (0.2, 0.5, 0.7), (0.3, 0.2, 0.1))  # any values will do
    _, config = config_of("torchvision:mobilenet_v2", {"pretrained": str(file)})
    own: Any = library.build_for(config, stream, DataFolders(None, file.parent), 2, generator(0)).eval()
    state = torch.load(file, weights_only=True)
    own.head.grow(1000, generator(0))
    with torch.no_grad():
        own.head.weight.copy_(state["classifier.1.weight"])
        own.head.bias.copy_(state["classifier.1.bias"])
    out = logits(own, stream.normalise(x))
    names = MobileNet_V2_Weights.IMAGENET1K_V1.meta["categories"]
    assert names[int(out[0].argmax())] == "palace" and float(out[0].softmax(0).max()) > 0.5
    theirs = mobilenet_v2().eval()
    theirs.load_state_dict(state)
    assert torch.allclose(out, logits(theirs, imagenet(x / 255)), rtol=1e-3, atol=1e-3)


# Names of library networks in the YAML.


def experiment(model: Any, **more: Any) -> Experiment:
    return from_dict({"name": "t", "benchmark": {"split_digits": {"num_experiences": 2}}, "model": model} | more)


@pytest.mark.parametrize(
    "model", ["torchvision:resnet18", {"torchvision:resnet18": None}, {"torchvision:resnet18": {}}]
)
def test_a_colon_names_a_librarys_network(model: Any) -> None:
    config = resolve_experiment(experiment(model)).experiment
    defaults = {"torchvision:resnet18": {"pretrained": False, "norm": "keep", "resize": None}}
    assert config.model == defaults
    assert resolve_experiment(from_dict(to_dict(config))).experiment == config


def test_a_librarys_network_in_its_two_spellings() -> None:
    short, long = (
        experiment("torchvision:shufflenet_v2_x0_5"),
        experiment({"torchvision": {"name": "shufflenet_v2_x0_5"}}),
    )
    one, other = (build_trial(resolve_experiment(config), planning=True).network() for config in (short, long))
    published = 1_366_792
    assert count(one) == count(other) == published - (1000 - 5) * 1025 - 2 * 24 * 9  # 5 classes, grey
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_overrides_reach_a_librarys_network() -> None:
    config = load_config("quickstart", ["model=timm:resnet18.a1_in1k", "model.timm:resnet18.a1_in1k.resize=40"])
    assert config.model == {"timm:resnet18.a1_in1k": {"resize": 40}}


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("torchvison:resnet18", ("model.torchvison:resnet18", "'torchvision'?")),
        ("torchvision", ("model.torchvision.name", "missing")),
        ({"torchvision:resnet18": {"name": "a"}}, ("model.torchvision:resnet18.name", "after the colon")),
        ("mlp:resnet18", ("model.mlp:resnet18: 'mlp' takes no name after a colon",)),
    ],
)
def test_wrong_names_are_refused(model: Any, said: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught:
        resolve_experiment(experiment(model))
    assert all(part in str(caught.value) for part in said), caught.value


# Parameter groups.

GROUPS = {"head.*": {"lr": 10.0, "weight_decay": 0.0}, "*.bias": {"lr": 0.5}}


class Two(nn.Module):
    """Two parameters, one number each."""

    def __init__(self) -> None:
        super().__init__()
        self.slow, self.fast = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.tensor(3.0))


def test_a_step_with_two_parameter_groups_by_hand() -> None:
    config = Optimizer(lr=0.1, momentum=0.0, weight_decay=0.2, groups={"fast": {"lr": 5.0, "weight_decay": 0.5}})
    two = Two()
    optimizer = make_optimizer(config, two.named_parameters(), 0)
    (two.slow * 4 + two.fast * 4).backward()
    optimizer.step()
    assert two.slow.item() == pytest.approx(2 - 0.1 * (4 + 0.2 * 2))
    assert two.fast.item() == pytest.approx(3 - 0.5 * (4 + 0.1 * 3))
    set_lr(optimizer, 0.01)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.01])


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_without_groups_the_optimizer_is_torchs(name: Any) -> None:
    config = Optimizer(name=name, lr=(0.3, 0.1), weight_decay=0.2)
    network = make("mlp")
    own = make_optimizer(config, network.named_parameters(), 1)
    theirs: torch.optim.Optimizer = {
        "sgd": lambda: torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=0.2),
        "adam": lambda: torch.optim.Adam(network.parameters(), lr=0.1, weight_decay=0.2),
        "adamw": lambda: torch.optim.AdamW(network.parameters(), lr=0.1, weight_decay=0.2),
    }[name]()
    assert isinstance(own, type(theirs))
    assert own.state_dict() == theirs.state_dict()


def test_the_first_pattern_that_matches_applies() -> None:
    named = dict(make("mlp").named_parameters())
    groups = parameter_groups(Optimizer(groups=GROUPS), named.items())
    by_id = {id(parameter): name for name, parameter in named.items()}
    names = [[by_id[id(parameter)] for parameter in group["params"]] for group in groups]
    assert names == [["head.weight", "head.bias"], ["trunk.1.bias"], ["trunk.1.weight"]]
    assert [group.get("factors") for group in groups] == [GROUPS["head.*"], GROUPS["*.bias"], None]


@pytest.mark.parametrize("pattern", ["trunk.7.*", "conv*"])
def test_a_pattern_that_matches_nothing_is_refused(pattern: str) -> None:
    config = experiment({"mlp": {"hidden": [8]}}, training={"optimizer": {"groups": {pattern: {"lr": 0.1}}}})
    with pytest.raises(UserError, match=r"training\.optimizer\.groups\..*fits no parameter.*head, trunk\.1"):
        build_trial(resolve_experiment(config), planning=True)


@pytest.mark.parametrize(
    ("factors", "said"),
    [
        ({"lrr": 1}, ("groups.head.lrr", "lr, weight_decay")),
        ({"lr": -1}, ("groups.head.lr=-1", "at least 0")),
        ({"lr": math.inf}, ("groups.head.lr=inf", "finite")),
        ({"weight_decay": math.nan}, ("groups.head.weight_decay=nan", "at least 0")),
    ],
)
def test_factors_are_checked(factors: dict[str, float], said: tuple[str, ...]) -> None:
    with pytest.raises(ValueError) as caught:
        Optimizer(groups={"head": factors})
    assert all(part in str(caught.value) for part in said), caught.value


def learner_of(stream: Stream, optimizer: Optimizer, seen: list[Any] | None = None, **more: Any) -> Learner:
    """Return an MLP's learner on a tiny stream; after each iteration the optimizer's rates are appended to `seen`."""

    def look(learner: Learner) -> None:
        if seen is not None:
            seen.append([group["lr"] for group in learner.optimizer.param_groups])

    training = Training(epochs=2, batch_size=16, optimizer=optimizer, **more)
    network = mlp.build(mlp.Config(hidden=(12,)), stream.shape, 2, generator(5))
    return Learner(model=network, stream=stream, training=training, on_iteration=look)


def train(learner: Learner) -> dict[str, torch.Tensor]:
    """Train on all experiences; return the network's tensors at the end."""
    for number in range(len(learner.stream.experiences)):
        learner.train_experience(number)
    return {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}


@pytest.mark.parametrize("name", ["sgd", "adam"])
@pytest.mark.parametrize("reset", [True, False])
def test_a_factor_of_0_changes_no_bit(name: Any, reset: bool, tiny_stream: Build) -> None:
    optimizer = Optimizer(name=name, lr=0.01, weight_decay=0.1, reset=reset, groups={"trunk.*": {"lr": 0.0}})
    learner = learner_of(tiny_stream(), optimizer, schedule=Schedule(name="cosine", warmup=0.2))
    before = {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}
    after = train(learner)
    assert torch.equal(before["trunk.1.weight"], after["trunk.1.weight"])
    assert torch.equal(before["trunk.1.bias"], after["trunk.1.bias"])
    assert after["head.weight"].shape[0] == 6 and not torch.equal(before["head.weight"], after["head.weight"][:2])


@pytest.mark.parametrize("reset", [True, False])
def test_factors_hold_through_schedules_and_growing_heads(reset: bool, tiny_stream: Build) -> None:
    seen: list[list[float]] = []
    groups = {"head.*": {"lr": 10.0}}
    optimizer = Optimizer(lr=(0.01, 0.02, 0.03), reset=reset, groups=groups)
    learner = learner_of(tiny_stream(), optimizer, seen, schedule=Schedule(name="cosine", warmup=0.2))
    train(learner)
    head, rest = learner.optimizer.param_groups
    assert {id(parameter) for parameter in head["params"]} == {
        id(learner.model.head.weight),
        id(learner.model.head.bias),
    }
    assert len(rest["params"]) == 2
    assert len(seen) == 18 and all(fast == pytest.approx(10 * slow) for fast, slow in seen)
    assert max(slow for _, slow in seen) > 0.02


def test_factors_of_1_change_no_bit(tiny_stream: Build) -> None:
    plain = Optimizer(name="adam", lr=0.01, weight_decay=0.01, reset=False)
    ones = replace(plain, groups={"head.*": {"lr": 1.0, "weight_decay": 1.0}})
    without, with_it = train(learner_of(tiny_stream(), plain)), train(learner_of(tiny_stream(), ones))
    assert all(torch.equal(without[name], with_it[name]) for name in without)


def test_every_network_is_a_classifier() -> None:
    assert all(isinstance(make(case), Classifier) for case in ("mlp", "vit", "torchvision"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("alexnet", 64),
        ("convnext_tiny", 32),
        ("densenet121", 32),
        ("efficientnet_b0", 32),
        ("efficientnet_v2_s", 32),
        ("maxvit_t", 224),
        ("mnasnet1_0", 32),
        ("mobilenet_v2", 32),
        ("mobilenet_v3_large", 32),
        ("regnet_y_400mf", 32),
        ("resnext50_32x4d", 32),
        ("shufflenet_v2_x1_0", 32),
        ("swin_t", 32),
        ("swin_v2_t", 32),
        ("vgg11_bn", 32),
        ("vit_b_32", 224),
        ("wide_resnet50_2", 32),
    ],
)
def test_every_family_of_torchvision_gets_a_head_that_grows(name: str, size: int, tmp_path: Path) -> None:
    """With weights from a file, without their classifier."""
    from torchvision import models

    theirs = models.get_model(name, num_classes=7).eval()
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    _, config = config_of(f"torchvision:{name}", {"pretrained": str(tmp_path / "w.pth"), "resize": size})
    own: Any = library.build(config, (3, 20, 20), 7, generator(0)).eval()
    last = [module for module in theirs.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        own.head.weight.copy_(last.weight)
        own.head.bias.copy_(torch.zeros(7) if last.bias is None else last.bias)
    x = torch.randn(1, 3, 20, 20)
    seen = functional.interpolate(x, size=(size, size), mode="bilinear", antialias=True)
    assert torch.allclose(logits(own, x), logits(theirs, seen), rtol=1e-3, atol=1e-4)
