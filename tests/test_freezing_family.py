"""Freezing and parameters added to frozen weights: five strategies, layer-wise rates, cached features of a frozen trunk."""

import copy
from typing import Any

import pytest
import torch
from avalanche.training.templates import SupervisedTemplate
from test_strategies_avalanche import Bits, Net, benchmark, moved
from torch import nn

from retain.platform.config.registry import is_neutral
from retain.platform.config.schema import Optimizer, Training
from retain.platform.data.streams import Stream
from retain.platform.errors import UserError
from retain.platform.models import blocks, low_rank
from retain.platform.models.heads import Classifier
from retain.platform.models.networks import mlp, small_cnn, vit
from retain.platform.training.avalanche_learner import AvalancheLearner as Learner
from retain.platform.training.frozen_feature_cache import FrozenFeatureCache, is_fixed
from retain.platform.training.optimization import base_lr, blocks_from_head, make_optimizer
from retain.platform.training.plugin import Plugin
from retain.platform.trial.checks import check_settings_fit
from retain.platform.trial.resolve import strategy_builder
from retain.strategies import adapters, bitfit, freezing, gradual_unfreezing, lora, lwf, replay

FAMILY: tuple[Any, ...] = (freezing, gradual_unfreezing, bitfit, lora, adapters)
NETWORKS: dict[str, Any] = {
    "mlp": (mlp, {"hidden": (12, 8), "norm": "batch"}),
    "cnn": (small_cnn, {"channels": (4, 8), "hidden": 8, "norm": "batch"}),
    "vit": (vit, {"patch": 2, "dim": 8, "depth": 2, "heads": 2}),
}


def network(kind: str = "mlp", num_classes: int = 2, seed: int = 0) -> Classifier:
    """Return a small network for the tiny stream's pictures (1, 4, 4)."""
    module, settings = NETWORKS[kind]
    built: Classifier = module.build(
        module.Config(**settings), (1, 4, 4), num_classes, torch.Generator().manual_seed(seed)
    )
    return built


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bits(model: nn.Module) -> Bits:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one: Bits, other: Bits) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def moved_tensors(before: Bits, after: Bits) -> set[str]:
    """Return the names of changed tensors; of a head that grew, only the old rows count."""
    return {
        name
        for name, old in before.items()
        if not torch.equal(old, after[name][: len(old)] if old.ndim else after[name])
    }


def learner(stream: Stream, plugins: list[Any], model: nn.Module | None = None, **training: Any) -> Learner:
    """Return a learner whose network was adapted by each of the plugins' modules."""
    settings = {"epochs": 3, "batch_size": 16, "optimizer": Optimizer(lr=0.05, clip=None)} | training
    return Learner(
        model=network() if model is None else model, stream=stream, training=Training(**settings), plugins=plugins
    )


def built(module: Any, **settings: Any) -> Any:
    return strategy_builder(module, "")(module.Config(**settings), 0)


class Look(Plugin):
    """Keep the network's bits, and which parameters are trainable, at the end of each epoch."""

    def __init__(self) -> None:
        self.bits: list[Bits] = []
        self.free: list[set[str]] = []

    def after_training_epoch(self, learner: Any, **kwargs: Any) -> None:
        self.bits.append(bits(learner.model))
        self.free.append({name for name, parameter in learner.model.named_parameters() if parameter.requires_grad})


# Blocks.


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("mlp", ["trunk.1", "trunk.4"]),
        ("cnn", ["trunk.0", "trunk.4", "trunk.9"]),
        ("vit", ["trunk.patches", "trunk.blocks.0", "trunk.blocks.1"]),
    ],
)
def test_blocks_of_the_trunk(kind: str, expected: list[str]) -> None:
    model = network(kind)
    assert blocks.blocks_of(model) == expected
    numbers = blocks.block_numbers(model)
    assert set(numbers) == {name for name in model.state_dict() if not name.startswith("head.")}
    assert list(numbers.values()) == sorted(numbers.values())
    for number, block in enumerate(expected):
        assert {numbers[name] for name in numbers if name.startswith(f"{block}.")} == {number}


def test_layers_between_blocks_belong_to_the_previous_block() -> None:
    numbers = blocks.block_numbers(network("cnn"))
    assert numbers["trunk.1.running_mean"] == numbers["trunk.1.weight"] == 0 and numbers["trunk.5.bias"] == 1
    numbers = blocks.block_numbers(network("vit"))
    assert numbers["trunk.token"] == numbers["trunk.positions"] == 0 and numbers["trunk.norm.weight"] == 2


def test_residual_blocks_are_blocks() -> None:
    from retain.platform.models.networks import resnet

    model = resnet.build(resnet.Config(depth=20), (1, 8, 8), 2, generator())
    names = blocks.blocks_of(model)
    assert names[:2] == ["trunk.stem", "trunk.stage1.0"] and len(names) == 10


# Freezing.


@pytest.mark.parametrize(
    ("kind", "settings", "parameters", "statistics"),
    [
        ("mlp", {"layers": 1}, {"trunk.1", "trunk.2"}, {"trunk.2"}),
        ("mlp", {"layers": 0}, set(), set()),
        ("mlp", {"layers": (), "norm": ("statistics",)}, set(), {"trunk.2", "trunk.5"}),  # FACIL's fix_bn
        ("mlp", {"layers": (), "norm": ("affine",)}, {"trunk.2", "trunk.5"}, set()),
        ("mlp", {"layers": "trunk", "norm": ()}, {"trunk.1", "trunk.4"}, set()),
        ("mlp", {"layers": 1, "norm": ("statistics",)}, {"trunk.1"}, {"trunk.2", "trunk.5"}),
        ("mlp", {}, {"trunk.1", "trunk.2", "trunk.4", "trunk.5"}, {"trunk.2", "trunk.5"}),
        ("cnn", {"layers": 2}, {"trunk.0", "trunk.1", "trunk.4", "trunk.5"}, {"trunk.1", "trunk.5"}),
        ("vit", {"layers": ("trunk.patches.*",), "norm": ("affine",)}, {"trunk.patches", "norm"}, set()),
    ],
)
def test_what_is_frozen(kind: str, settings: Any, parameters: set[str], statistics: set[str]) -> None:
    model = network(kind)
    frozen, norms = freezing.parts_to_freeze(freezing.Config(**settings), model)
    chosen = {id(parameter) for parameter in frozen}
    layers = {name.rpartition(".")[0] for name, parameter in model.named_parameters() if id(parameter) in chosen}
    if "norm" in parameters:  # all norms of the transformer
        parameters = parameters - {"norm"} | {n for n, m in model.named_modules() if isinstance(m, nn.LayerNorm)}
    assert layers == parameters
    assert {name for name, module in model.named_modules() if module in norms} == statistics


@pytest.mark.parametrize("reset", [True, False], ids=["new optimizer", "kept optimizer"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize(
    ("module", "settings", "learns"),
    [
        (freezing, {}, ("head.",)),
        (freezing, {"layers": 1}, ("head.", "trunk.4.", "trunk.5.")),
        (freezing, {"layers": (), "norm": ("statistics",)}, ("trunk.1.", "trunk.2.w", "trunk.2.b", "head.")),
        (freezing, {"norm": ()}, ("trunk.2.", "trunk.5.", "head.")),
        (bitfit, {}, ("trunk.1.bias", "trunk.2.bias", "trunk.4.bias", "trunk.5.bias", "head.")),
        (gradual_unfreezing, {"start": 1, "per": "experience"}, ("trunk.4.", "trunk.5.", "head.")),
    ],
)
def test_a_frozen_tensor_never_changes_by_a_bit(
    module: Any, settings: Any, learns: tuple[str, ...], optimizer: Any, reset: bool, tiny_stream: Any
) -> None:
    """With momentum, weight decay and optimizer state from the first experience; BatchNorm statistics included."""
    look, config = Look(), Optimizer(name=optimizer, lr=0.01, weight_decay=0.1, reset=reset)
    trained = learner(tiny_stream(num_experiences=2), [built(module, **settings), look], optimizer=config)
    trained.train_experience(0)
    before = bits(trained.model)
    assert not any(torch.equal(look.bits[0][name], before[name]) for name in before)  # all learned
    trained.train_experience(1)
    after = bits(trained.model)
    changed = moved_tensors(before, after)
    free = {name for name in before if name.startswith(learns)}
    if module is freezing and settings.get("norm") == ("statistics",):
        free |= {"trunk.4.weight", "trunk.4.bias", "trunk.5.weight", "trunk.5.bias"}
    assert changed == free
    assert all(parameter.requires_grad for parameter in trained.model.parameters())
    assert all(layer.training for layer in trained.model.modules())


def test_combined_strategies_freeze_the_union(tiny_stream: Any) -> None:
    """In any order; at the end everything is trainable."""
    results = []
    for order in (1, -1):
        look, both = Look(), [built(freezing, layers=1), built(bitfit), built(gradual_unfreezing)][::order]
        trained = learner(tiny_stream(num_experiences=2), [*both, look])
        trained.train_experience(0)
        trained.train_experience(1)
        assert all(parameter.requires_grad for parameter in trained.model.parameters())
        assert all(layer.training for layer in trained.model.modules())
        head = {"head.weight", "head.bias"}
        assert look.free[3:] == [head, *[head | {"trunk.4.bias", "trunk.5.bias"}] * 2]
        results.append(bits(trained.model))
    assert same(*results)


# Gradual unfreezing.


@pytest.mark.parametrize(
    ("start", "every", "expected"), [(0, 1, [3, 2, 1, 0, 0]), (1, 2, [2, 2, 1, 1, 0]), (2, 1, [1, 0, 0, 0, 0])]
)
def test_blocks_are_unfrozen_from_the_head_down(start: int, every: int, expected: list[int]) -> None:
    assert [gradual_unfreezing.num_frozen(3, start, passed, every) for passed in range(5)] == expected


@pytest.mark.parametrize(
    ("per", "expected"), [("epoch", [0, 0, 0, 2, 1, 0, 2, 1, 0]), ("experience", [0, 0, 0, 2, 2, 2, 1, 1, 1])]
)
def test_one_more_block_is_unfrozen_each_epoch_or_experience(per: Any, expected: list[int], tiny_stream: Any) -> None:
    look = Look()
    trained = learner(tiny_stream(), [built(gradual_unfreezing, per=per), look])
    for number in range(3):
        trained.train_experience(number)
    numbers = blocks.block_numbers(trained.model)
    parameters = {name for name, _ in trained.model.named_parameters()}
    for free, frozen in zip(look.free, expected, strict=True):
        assert free == {name for name in parameters if numbers.get(name, 9) >= frozen}


# LoRA.


@pytest.mark.parametrize("kind", list(NETWORKS))
def test_lora_is_the_network_with_merged_weights(kind: str) -> None:
    model, plain = network(kind).eval(), network(kind).eval()
    config = lora.Config(rank=3, alpha=6.0)
    lora.adapt(config, model, generator(1))
    lora.check_model(config, model)
    x = torch.randn(5, 1, 4, 4, generator=generator(2))
    torch.testing.assert_close(model(x), plain(x))  # B = 0
    adapted = [(name, layer) for name, layer in model.named_modules() if hasattr(layer, "lora_a")]
    assert len(adapted) == {"mlp": 2, "cnn": 3, "vit": 9}[kind]
    with torch.no_grad():
        for name, layer in adapted:
            layer.lora_b.normal_(generator=generator(3))
            weight = plain.get_parameter(f"{name}.weight")
            product = layer.lora_b.double() @ layer.lora_a.double()
            weight += (product * 6.0 / 3).view_as(weight).float()
    torch.testing.assert_close(model(x), plain(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=4),
        nn.Conv2d(4, 6, 3, padding="same", dilation=2, bias=False, padding_mode="circular"),
        nn.Linear(5, 7, bias=False),
    ],
    ids=["grouped", "circular", "no bias"],
)
def test_lora_keeps_a_layers_settings(layer: Any) -> None:
    model = nn.Sequential(copy.deepcopy(layer), nn.Flatten())
    lora.adapt(lora.Config(rank=2), model, generator())
    x = torch.randn(2, *((5,) if isinstance(layer, nn.Linear) else (4, 6, 6)))
    torch.testing.assert_close(model(x), layer(x).flatten(1))
    assert type(model[0]) in (lora.LoRALinear, lora.LoRAConv2d) and (model[0].bias is None) == (layer.bias is None)


@pytest.mark.parametrize("kind", list(NETWORKS))
def test_lora_is_pefts(kind: str) -> None:
    """With PEFT's matrices copied into ours, logits and gradients are equal."""
    peft = pytest.importorskip("peft")
    ours = lora.adapt(lora.Config(rank=3, alpha=6.0), network(kind), generator(1)).eval()
    names = [name for name, layer in ours.named_modules() if hasattr(layer, "lora_a")]
    settings = peft.LoraConfig(r=3, lora_alpha=6, target_modules=names, init_lora_weights=False)
    theirs = peft.get_peft_model(network(kind), settings).eval()
    matrices = {"lora_a": "lora_A", "lora_b": "lora_B"}
    pairs = [
        (ours.get_submodule(name).get_parameter(own), theirs.base_model.model.get_submodule(name).get_submodule(their))
        for name in names
        for own, their in matrices.items()
    ]
    with torch.no_grad():
        for own, their in pairs:
            own.copy_(their["default"].weight.flatten(1))
    x, y = torch.randn(5, 1, 4, 4, generator=generator(2)), torch.tensor([0, 1, 1, 0, 1])
    logits = [model(x) for model in (ours, theirs)]
    torch.testing.assert_close(*logits, atol=1e-5, rtol=1e-4)
    for each in logits:
        nn.functional.cross_entropy(each, y).backward()
    for own, their in pairs:
        gradient = their["default"].weight.grad
        assert gradient.abs().max() > 0
        torch.testing.assert_close(own.grad, gradient.flatten(1), atol=1e-5, rtol=1e-3)


def test_merged_lora_weights_by_hand() -> None:
    weight, a, b = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[2.0, 3.0]]), torch.tensor([[1.0], [-1.0]])
    assert low_rank.merged_weight(weight, a, b, 0.5).tolist() == [[2.0, 1.5], [-1.0, -0.5]]


def test_lora_layers_by_pattern() -> None:
    model = lora.adapt(lora.Config(rank=2, layers=("*.qkv",)), network("vit"), generator())
    adapted = {name for name, layer in model.named_modules() if hasattr(layer, "lora_a")}
    assert adapted == {"trunk.blocks.0.attention.qkv", "trunk.blocks.1.attention.qkv"}


# Adapters.


@pytest.mark.parametrize("width", [3, None])
@pytest.mark.parametrize("kind", list(NETWORKS))
def test_adapters_change_nothing_at_first(kind: str, width: int | None) -> None:
    model, plain = network(kind).eval(), network(kind).eval()
    config = adapters.Config(width=width)
    adapters.adapt(config, model, generator(1))
    adapters.check_model(config, model)
    x = torch.randn(5, 1, 4, 4, generator=generator(2))
    assert torch.equal(model(x), plain(x))
    assert [n for n, m in model.named_modules() if isinstance(m, adapters.Adapted)] == blocks.blocks_of(plain)


@pytest.mark.parametrize("shape", [(2, 6), (2, 5, 6), (2, 6, 3, 4)], ids=["features", "tokens", "maps"])
@pytest.mark.parametrize("width", [4, None])
def test_an_adapter_computed_position_by_position(shape: tuple[int, ...], width: int | None) -> None:
    adapter = adapters.Adapter(6, width, generator())
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_(generator=generator(1))
    y = torch.randn(shape, generator=generator(2))
    rows = y.permute(0, 2, 3, 1).reshape(-1, 6) if y.ndim == 4 else y.reshape(-1, 6)
    expected = []
    for row in rows:
        if width is None:
            expected.append(row + adapter.up @ row)
        else:
            hidden = (adapter.down @ row + adapter.down_bias).clamp(min=0)
            expected.append(row + adapter.up @ hidden + adapter.up_bias)
    adapted = adapter(y)
    assert adapted.shape == y.shape
    adapted = adapted.permute(0, 2, 3, 1) if y.ndim == 4 else adapted
    torch.testing.assert_close(adapted.reshape(-1, 6), torch.stack(expected))


def test_a_linear_adapter_on_maps_is_a_1x1_convolution() -> None:
    """Rebuffi's form: x + alpha * x."""
    adapter, alpha = adapters.Adapter(4, None, generator()), nn.Conv2d(4, 4, 1, bias=False)
    with torch.no_grad():
        adapter.up.copy_(alpha.weight[:, :, 0, 0])
    x = torch.randn(2, 4, 5, 3)
    torch.testing.assert_close(adapter(x), x + alpha(x))


def test_adapters_follow_the_outermost_modules_that_fit() -> None:
    plain = network("vit")
    assert adapters.adapter_layers(("trunk.blocks.*",), plain) == ["trunk.blocks.0", "trunk.blocks.1"]
    houlsby = adapters.adapter_layers(("*.attention", "*.mlp"), plain)
    assert houlsby == [f"trunk.blocks.{block}.{part}" for block in (0, 1) for part in ("attention", "mlp")]


@pytest.mark.parametrize(("kind", "optimizer"), [("mlp", "sgd"), ("cnn", "adamw"), ("vit", "sgd")])
@pytest.mark.parametrize("module", [lora, adapters], ids=["lora", "adapters"])
def test_added_parameters_are_trained_instead_of_existing_ones(
    module: Any, kind: str, optimizer: Any, tiny_stream: Any
) -> None:
    """The first experience has the bits of plain finetuning; afterwards the existing parameters keep theirs."""
    stream, config = tiny_stream(num_experiences=2), Optimizer(name=optimizer, lr=0.01, weight_decay=0.1, reset=False)
    model = module.adapt(module.Config(), network(kind), generator())
    trained = learner(stream, [built(module)], model, optimizer=config)
    plain = learner(stream, [], network(kind), optimizer=config)
    start = bits(trained.model)
    trained.train_experience(0)
    plain.train_experience(0)
    first = bits(trained.model)
    added = {name for name, _ in trained.model.named_parameters() if blocks.is_added(name)}
    assert added and all(torch.equal(start[name], first[name]) for name in added)
    assert same({n.replace(".layer", ""): t for n, t in first.items() if n not in added}, bits(plain.model))
    trained.train_experience(1)
    second = bits(trained.model)
    assert {name for name in moved_tensors(first, second) if not name.startswith("head.")} == added


# What is refused.


@pytest.mark.parametrize(
    ("module", "settings", "message"),
    [
        (freezing, {"layers": -1}, "layers=-1: must be 'trunk' or an integer of at least 0"),
        (freezing, {"norm": ("gamma",)}, "norm=['gamma']: must be a list, each item 'statistics' or 'affine'"),
        (bitfit, {"from_experience": -1}, "from_experience=-1: must be an integer of at least 0"),
        (gradual_unfreezing, {"start": -1}, "start=-1: must be an integer of at least 0"),
        (gradual_unfreezing, {"per": "batch"}, "per='batch': must be 'epoch' or 'experience'"),
        (gradual_unfreezing, {"every": 0}, "every=0: must be an integer above 0"),
        (gradual_unfreezing, {"from_experience": -1}, "from_experience=-1: must be an integer of at least 0"),
        (lora, {"rank": -1}, "rank=-1: must be an integer of at least 0"),
        (lora, {"alpha": 0.0}, "alpha=0.0: must be a finite number above 0"),
        (lora, {"layers": ()}, "layers=[]: must be a list of at least one item"),
        (lora, {"from_experience": -1}, "from_experience=-1: must be an integer of at least 0"),
        (adapters, {"width": -1}, "width=-1: must be an integer of at least 0"),
        (
            adapters,
            {"layers": ("",)},
            "layers=['']: must be a list of at least one item, each item a string that is not empty",
        ),
        (adapters, {"from_experience": -1}, "from_experience=-1: must be an integer of at least 0"),
    ],
)
def test_bad_values_are_named(module: Any, settings: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        module.Config(**settings)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("module", "settings", "message"),
    [
        (freezing, {"layers": 3}, "layers=3: the trunk of this network has 2 blocks: trunk.1, trunk.3"),
        (freezing, {"norm": ("statistics",)}, "norm=['statistics']: the network has no such"),
        (gradual_unfreezing, {"start": 2}, "start=2: must be below 2"),
        (lora, {"layers": ("trunk.1", "head")}, "layers=['trunk.1', 'head']: 'head' fits no linear"),
        (adapters, {"layers": ("trunk.2",)}, "layers=['trunk.2']: 'trunk.2' fits no layer of the trunk. Known: trunk"),
    ],
)
def test_what_does_not_fit_the_network_is_refused(module: Any, settings: Any, message: str) -> None:
    model: nn.Module = mlp.build(mlp.Config(hidden=(8, 8)), (1, 4, 4), 2, generator())
    config = module.Config(**settings)
    model = module.adapt(config, model, generator()) if hasattr(module, "adapt") else model
    with pytest.raises(UserError) as caught:
        module.check_model(config, model)
    name = module.__name__.rpartition(".")[2]
    assert str(caught.value).startswith(f"strategies.{name}.{message}")


def test_bitfit_needs_biases() -> None:
    model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(16, 4, bias=False)), 4, 2, generator())
    with pytest.raises(UserError, match="strategies.bitfit: the trunk of this network has no parameter called bias"):
        bitfit.check_model(bitfit.Config(), model)
    bitfit.check_model(bitfit.Config(from_experience=None), model)
    bitfit.check_model(bitfit.Config(), network())


@pytest.mark.parametrize("module", FAMILY, ids=lambda m: m.__name__.rpartition(".")[2])
def test_starting_after_the_last_experience_is_refused(module: Any) -> None:
    name = module.__name__.rpartition(".")[2]
    with pytest.raises(UserError, match=f"strategies.{name}.from_experience=3: must be below 3"):
        check_settings_fit(module, module.Config(from_experience=3), f"strategies.{name}", 6, 3)
    check_settings_fit(module, module.Config(), "", 6, 3)
    neutral = module.Config(**module.NEUTRAL)
    check_settings_fit(module, neutral, "", 6, 1)
    assert is_neutral(module, neutral)  # so neither this nor the network is checked


# Layer-wise learning rates.


@pytest.mark.parametrize("kind", list(NETWORKS))
def test_learning_rates_decrease_from_the_head_down(kind: str) -> None:
    model, groups = network(kind), {"*.bias": {"weight_decay": 0.0, "lr": 2.0}}
    config = Optimizer(lr=0.1, weight_decay=0.3, layer_decay=0.5, groups=groups)
    optimizer = make_optimizer(config, model.named_parameters(), 0, blocks_from_head(model))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {names[id(parameter)]: group for group in optimizer.param_groups for parameter in group["params"]}
    assert rates.keys() == set(names.values())
    numbers, num_blocks = blocks.block_numbers(model), len(blocks.blocks_of(model))
    for name, group in rates.items():
        own = 2.0 if name.endswith(".bias") else 1.0
        assert group["lr"] == pytest.approx(0.1 * own * 0.5 ** (num_blocks - numbers.get(name, num_blocks)))
        assert group["weight_decay"] == (0.0 if name.endswith(".bias") else 0.3)
    assert base_lr(optimizer) == pytest.approx(0.1)


def test_a_step_with_layer_decay_is_a_step_scaled_by_block(tiny_stream: Any) -> None:
    """SGD without momentum: each tensor's step is its factor times the step without layer decay."""
    steps = []
    for decay in (1.0, 0.5):
        optimizer = Optimizer(lr=0.1, momentum=0.0, layer_decay=decay)
        trained = learner(tiny_stream(), [], iterations=1, optimizer=optimizer)
        start = bits(trained.model)
        trained.train_experience(0)
        steps.append({name: tensor - start[name] for name, tensor in bits(trained.model).items()})
    for name, factor in (
        ("head.weight", 1.0),
        ("trunk.4.weight", 0.5),
        ("trunk.2.weight", 0.25),
        ("trunk.1.weight", 0.25),
    ):
        torch.testing.assert_close(steps[1][name], factor * steps[0][name])


@pytest.mark.parametrize("reset", [True, False])
def test_layer_decay_holds_for_a_head_that_grew(reset: bool, tiny_stream: Any) -> None:
    optimizer = Optimizer(name="adamw", lr=0.01, weight_decay=0.1, layer_decay=0.5, reset=reset)
    trained = learner(tiny_stream(), [], optimizer=optimizer)
    for number in range(3):
        trained.train_experience(number)
    held = {id(parameter) for group in trained.optimizer.param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in trained.model.parameters()}
    assert sorted(group["lr"] for group in trained.optimizer.param_groups) == pytest.approx([0.0025, 0.005, 0.01])
    assert len(trained.model.head.weight) == 6


@pytest.mark.parametrize("value", [0.0, -1.0, 1.5])
def test_an_invalid_layer_decay_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=f"layer_decay={value}: must be"):
        Optimizer(layer_decay=value)


def test_layer_decay_without_blocks_is_refused() -> None:
    model = nn.Linear(3, 2)
    with pytest.raises(UserError, match="training.optimizer.layer_decay=0.5: the network has no trunk"):
        make_optimizer(Optimizer(layer_decay=0.5), model.named_parameters(), 0, blocks_from_head(model))


# Cached features.


class Passes(Plugin):
    """Count the rows that pass through the trunk in training, without a hook: a hook would prevent caching."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.experiences: list[int] = []

    def before_training_exp(self, learner: Any, **kwargs: Any) -> None:
        self.rows.append(0)
        trunk = learner.model.trunk

        def counted(x: torch.Tensor) -> torch.Tensor:
            self.rows[-1] += len(x)
            return type(trunk).forward(trunk, x)

        trunk.forward = counted

    def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
        del learner.model.trunk.forward


@pytest.mark.parametrize(
    ("kind", "precision"), [("mlp", "float32"), ("mlp", "bfloat16"), ("cnn", "float32"), ("vit", "float32")]
)
def test_cached_features_give_the_bits_of_recomputed_ones(
    kind: str, precision: Any, tiny_stream: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*more: Any) -> Bits:
        plugins = [built(freezing), *more]
        trained = learner(tiny_stream(), plugins, network(kind), epochs=4, precision=precision)
        for number in range(3):
            trained.train_experience(number)
        return bits(trained.model)

    passes = Passes()
    cached, counted = run(), run(passes)
    monkeypatch.setattr(FrozenFeatureCache, "lookup", lambda self, learner: None)
    recomputed, all_passes = run(), Passes()
    run(all_passes)
    assert same(cached, recomputed) and same(counted, recomputed)
    assert all_passes.rows == [160] * 3 and passes.rows[0] == 160
    # each sample once, the last mini-batches of 8 in each epoch, the first mini-batch again, and the check that caching is valid
    assert all(40 + 4 * 8 <= rows <= 40 + 4 * 8 + 8 + 32 for rows in passes.rows[1:])


@pytest.mark.parametrize(
    ("plugins", "settings"),
    [
        ([], {}),
        ([built(freezing, layers=1, from_experience=0)], {}),
        ([built(freezing, norm=("affine",), from_experience=0)], {}),
        ([built(bitfit, from_experience=0)], {}),
        ([built(freezing, from_experience=0)], {"epochs": 1}),  # caching would save nothing
    ],
    ids=["nothing frozen", "a block", "statistics", "bitfit", "one epoch"],
)
def test_features_are_not_cached_unless_the_trunk_is_frozen(
    plugins: list[Any], settings: Any, tiny_stream: Any
) -> None:
    passes = Passes()
    trained = learner(tiny_stream(), [*plugins, passes], **settings)
    trained.train_experience(0)
    assert passes.rows == [40 * trained.training.epochs]


class Mix(Plugin):
    """Change the samples of each mini-batch."""

    def __init__(self, in_place: bool) -> None:
        self.in_place = in_place

    def before_forward(self, learner: Any, **kwargs: Any) -> None:
        if self.in_place:
            learner.mb_x.mul_(0.5)
        else:
            learner.mbatch[0] = learner.mb_x * 0.5


class Watch(Plugin):
    """Register a hook on the trunk."""

    def before_training_exp(self, learner: Any, **kwargs: Any) -> None:
        self.outputs = 0
        self.handle = learner.model.trunk[1].register_forward_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.outputs += 1

    def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
        self.handle.remove()


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("remembers", [True, False])
def test_cached_features_are_not_used_for_mixed_samples(
    in_place: bool, remembers: bool, tiny_stream: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> Bits:
        memory = [built(replay, memory=12, batch_size=4)] if remembers else []
        order = [Mix(in_place), *memory] if remembers and in_place else [*memory, Mix(in_place)]
        trained = learner(tiny_stream(), [built(freezing, from_experience=0), *order])
        trained.train_experience(0)
        trained.train_experience(1)
        return bits(trained.model)

    cached = run()
    monkeypatch.setattr(FrozenFeatureCache, "lookup", lambda self, learner: None)
    assert same(cached, run())


def test_a_trunk_with_hooks_is_not_cached(tiny_stream: Any) -> None:
    watch = Watch(None)
    learner(tiny_stream(), [built(freezing, from_experience=0), watch]).train_experience(0)
    assert watch.outputs == 9  # three mini-batches in each of three epochs


def test_features_of_replayed_samples_are_cached_when_first_used(tiny_stream: Any) -> None:
    passes = Passes()
    trained = learner(tiny_stream(), [built(freezing), built(replay, memory=12, batch_size=4), passes], epochs=4)
    trained.train_experience(0)
    trained.train_experience(1)
    assert 40 + 12 * 4 + 8 * 4 <= passes.rows[1] <= 40 + 12 * 4 + 8 * 4 + 8 + 40  # of 160 + 48


def test_augmented_samples_are_not_cached(tiny_stream: Any) -> None:
    passes, stream = Passes(), tiny_stream()
    trained = Learner(
        model=network(),
        stream=stream,
        training=Training(epochs=3, batch_size=16),
        plugins=[built(freezing, from_experience=0), passes],
        augment=lambda x, where: x.flip(3),
    )
    trained.train_experience(0)
    assert passes.rows == [120]


@pytest.mark.parametrize(("dropout", "expected"), [(0.5, False), (0.0, True)])
def test_features_behind_active_dropout_are_not_cached(dropout: float, expected: bool) -> None:
    model = mlp.build(mlp.Config(hidden=(8,), dropout=dropout), (1, 4, 4), 2, generator()).train()
    model.get_submodule("trunk").requires_grad_(False)
    assert is_fixed(model) == expected
    assert not is_fixed(nn.Linear(2, 2).requires_grad_(False))


def test_changed_frozen_weights_are_detected_in_the_next_epoch(
    tiny_stream: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Shrink(Plugin):
        """Change frozen weights between two epochs without any notice."""

        def after_training_epoch(self, learner: Any, **kwargs: Any) -> None:
            with torch.no_grad():
                learner.model.trunk[1].weight.mul_(0.9)

    def run() -> Bits:
        trained = learner(tiny_stream(), [built(freezing, from_experience=0), Shrink(None)])
        trained.train_experience(0)
        return bits(trained.model)

    cached = run()
    monkeypatch.setattr(FrozenFeatureCache, "lookup", lambda self, learner: None)
    assert same(cached, run())


# In a plain Avalanche script.

PLAIN = [
    (freezing, {"layers": 1}, {"classifier"}),
    (freezing, {"layers": (), "norm": ("statistics",)}, {"trunk", "classifier"}),
    (gradual_unfreezing, {}, {"trunk", "classifier"}),
    (bitfit, {}, {"trunk", "classifier"}),
    (lora, {"rank": 2}, {"trunk", "classifier"}),
    (adapters, {"width": 2}, {"trunk", "classifier"}),
]


@pytest.mark.parametrize(("module", "settings", "learned"), PLAIN)
def test_in_a_plain_avalanche_script(module: Any, settings: Any, learned: set[str]) -> None:
    torch.manual_seed(0)
    model, data, config = Net(), benchmark(), module.Config(**settings)
    if hasattr(module, "adapt"):
        model = module.adapt(config, model, generator())
    module.check_model(config, model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    learner = SupervisedTemplate(
        model=model,
        optimizer=optimizer,
        train_mb_size=16,
        train_epochs=2,
        plugins=[strategy_builder(module, "")(config, 0), built(lwf)],
        evaluator=None,
    )
    learner.train(data.train_stream[0], eval_streams=[])
    first = bits(model)
    learner.train(data.train_stream[1], eval_streams=[])
    second = {name: tensor[: len(first[name])] if tensor.ndim else tensor for name, tensor in bits(model).items()}
    assert moved(first, second) == learned
    assert all(parameter.requires_grad for parameter in model.parameters())
    if module in (lora, adapters):
        assert {n for n in moved_tensors(first, second) if n.startswith("trunk")} == {
            n for n in first if blocks.is_added(n)
        }
