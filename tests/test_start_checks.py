"""Checks before the start: mini-batches of one sample in what is trained on, settings that cannot act, stale features."""

import logging
import re
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from retain.platform.cli.app import app
from retain.platform.config import registry
from retain.platform.config.load import from_dict
from retain.platform.errors import UserError
from retain.platform.sweep.plan import check_trials, plan
from retain.platform.training.plugin import EndOrder, Plugin, overrides_hook
from retain.platform.trial.builder import TrialBuilder, build_trial
from retain.platform.trial.resolve import resolve_experiment
from retain.platform.trial.run import run

MLP = {"mlp": {"hidden": [8], "norm": "batch"}}
CNN = {"small_cnn": {"channels": [2, 2, 2], "hidden": 4, "norm": "batch"}}  # 8 x 8, halved three times: one position
VIT = {"vit": {"dim": 8, "depth": 1, "heads": 2, "patch": 4, "mlp_ratio": 1}}
SIZES = (262, 258, 263, 259, 257)  # of the five experiences with seed 0


def config(strategies: dict[str, Any], model: Any = None, **training: Any) -> dict[str, Any]:
    """Return a config of five experiences of digits on a network with BatchNorm."""
    return {
        "name": "start",
        "benchmark": {"split_digits": {"num_experiences": 5, "validation": 0.1}},
        "model": model or MLP,
        "strategies": strategies,
        "training": {"epochs": 1, "batch_size": 64} | training,
        "wandb": {"mode": "disabled"},
    }


def build(strategies: dict[str, Any], **rest: Any) -> TrialBuilder:
    return build_trial(resolve_experiment(from_dict(config(strategies, **rest))), planning=True)


def plugin_classes(module: Any) -> list[type[Plugin]]:
    """Return the plugins that a module defines."""
    classes = [each for each in vars(module).values() if isinstance(each, type) and issubclass(each, Plugin)]
    return [each for each in classes if each.__module__ == module.__name__]


def refused(message: str | None) -> AbstractContextManager[Any]:
    return nullcontext() if message is None else pytest.raises(UserError, match=message)


def test_the_sizes() -> None:
    assert tuple(len(each.train) for each in build({}, batch_size=50).stream.experiences) == SIZES


REPLAY = {"replay": {"memory": 40}}
LAST = r"^training\.batch_size={}: leaves one sample for the last mini-batch of .*\({} samples\)"
EACH = r"^training\.batch_size=1: leaves one sample for each mini-batch"
ALONE = r"^strategies\.{}: replays a single sample at a time"
BATCHES: list[tuple[dict[str, Any], dict[str, Any], str | None]] = [
    ({}, {"batch_size": 29}, LAST.format(29, 262)),
    ({}, {"batch_size": 1}, EACH),
    ({}, {"batch_size": [64, 64, 64, 64, 128]}, LAST.format(128, 257)),
    ({}, {"batch_size": [64, 64, 64, 64, 64]}, LAST.format(64, 257)),
    ({}, {"batch_size": 300}, None),
    ({}, {"batch_size": 29, "iterations": 9}, None),  # the last of ten mini-batches is not reached
    ({}, {"batch_size": 29, "iterations": 10}, LAST.format(29, 262)),
    ({}, {"batch_size": 1, "iterations": 1}, EACH),
    ({"cumulative": {}}, {"batch_size": 23}, LAST.format(23, 783)),
    ({"cumulative": {}}, {"batch_size": 37}, None),
    ({"joint": {}}, {"batch_size": 22}, LAST.format(22, 1299)),
    ({"joint": {}}, {"batch_size": 29}, None),
    ({"gdumb": {"memory": 101}}, {"batch_size": 50}, LAST.format(50, 101)),
    ({"gdumb": {"memory": 100}}, {"batch_size": 29}, None),
    ({"gdumb": {"memory": 0}}, {"batch_size": 29}, LAST.format(29, 262)),
    (REPLAY, {"batch_size": 257}, None),  # from the second experience on, the memory joins
    (REPLAY, {"batch_size": 29}, LAST.format(29, 262)),
    ({"replay": {"memory": 0}}, {"batch_size": 257}, LAST.format(257, 258)),
    ({"eeil": {"memory": 40}}, {"batch_size": 257}, None),
    ({"icarl": {"memory": 2, "per_class": True}}, {"batch_size": 257}, None),
    ({"der": {"batch_size": 1}}, {}, ALONE.format("der")),
    ({"der": {"memory": 0, "batch_size": 1}}, {"batch_size": 50}, None),
    ({"er_ace": {"memory": 1}}, {"batch_size": 50}, ALONE.format("er_ace")),
    ({"agem": {"sample_size": 1}}, {"batch_size": 50}, ALONE.format("agem")),
    ({"gem": {"memory": 1}}, {"batch_size": 50}, ALONE.format("gem")),
    ({"freezing": {}}, {"batch_size": 257}, None),  # frozen BatchNorm needs no second sample
    ({"freezing": {}}, {"batch_size": 29}, LAST.format(29, 262)),
    ({"freezing": {"from_experience": 0}}, {"batch_size": 29}, None),
    ({"freezing": {"norm": []}}, {"batch_size": 257}, LAST.format(257, 258)),
    ({"gradual_unfreezing": {}}, {"batch_size": 257, "epochs": 2}, LAST.format(257, 258)),
    ({"swap_norm": {}}, {"batch_size": 29}, None),
    (
        {"avalanche.training.plugins.ReplayPlugin": {"mem_size": 20}},
        {"batch_size": 29},
        None,
    ),  # chooses its data itself
]


@pytest.mark.parametrize(("strategies", "training", "message"), BATCHES, ids=str)
def test_mini_batches_of_one_are_found_in_what_is_trained_on(
    strategies: dict[str, Any], training: dict[str, Any], message: str | None
) -> None:
    with refused(message):
        build(strategies, model=CNN if "swap_norm" in strategies else MLP, **{"batch_size": 50} | training)


@pytest.mark.parametrize(
    ("strategies", "batch_size"),
    [({"joint": {}}, 29), (REPLAY, 257), ({"eeil": {"memory": 40, "epochs": 1}}, 257), ({"freezing": {}}, 257)],
    ids=str,
)
def test_what_is_no_longer_refused_is_trained(strategies: dict[str, Any], batch_size: int, tmp_path: Path) -> None:
    run(from_dict(config(strategies, batch_size=batch_size)), tmp_path / "run")


def test_the_number_of_samples_is_the_real_one() -> None:
    """Strategies that replace the training data say beforehand how many samples there will be, in every experience."""
    replacing = {"joint", "cumulative", "gdumb"}
    for name in registry.names("strategies"):
        module = registry.resolve("strategies", name)
        for cls in plugin_classes(module):
            declares = cls.num_training_samples is not Plugin.num_training_samples
            assert (
                overrides_hook(cls(module.Config()), "after_train_dataset_adaptation")
                == declares
                == (name in replacing)
            )
    for strategies in ({"cumulative": {}}, {"gdumb": {"memory": 37}}, {"gdumb": {"memory": 1000}}, {"joint": {}}):
        builder = build(strategies)
        labels = [each.train.y for each in builder.stream.experiences]
        (plugin,) = builder.plugins()
        seen: list[int] = []

        def on_epoch(learner: Any, seen: list[int] = seen) -> None:
            seen.append(len(learner.adapted_dataset))

        learner = builder.learner(on_epoch, lambda text: None)
        numbers = [number for number in range(5) if learner.should_train(number)]
        for number in numbers:
            learner.train_experience(number)
        assert seen == [plugin.num_training_samples(labels, number) for number in numbers]


class Shrinking(Plugin):
    """Trains on 33 samples and does not say so."""

    STATE = ()

    def after_train_dataset_adaptation(self, learner: Any, **kwargs: Any) -> None:
        learner.adapted_dataset = learner.adapted_dataset.subset(list(range(33)))


class Lonely(Plugin):
    """Passes one sample through the network separately."""

    STATE = ()

    def before_forward(self, learner: Any, **kwargs: Any) -> None:
        learner.model(learner.mb_x[:1])


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (Shrinking(), r"experience 1, iteration 2: 33 samples leave one for a mini-batch of training\.batch_size=32"),
        (Lonely(), r"experience 1, iteration 1: a strategy passes a single sample through the network"),
    ],
)
def test_what_only_training_shows_is_explained_then(plugin: Plugin, message: str) -> None:
    builder = build({}, batch_size=50)
    learner = builder.learner(lambda learner: None, lambda text: None)
    learner.plugins.insert(0, plugin)
    learner.training = from_dict(config({}, batch_size=32)).training
    with pytest.raises(UserError, match=message + r".*BatchNorm cannot normalise"):
        learner.train_experience(0)


# Settings that can never act.

ACTS: list[tuple[dict[str, Any], dict[str, Any], str | None]] = [
    (
        {"early_stopping": {"patience": 3}},
        {"epochs": 3},
        r"^strategies\.early_stopping\.patience=3: must be below 3, the epochs",
    ),
    ({"early_stopping": {"patience": 3}}, {"epochs": 4}, None),
    ({"early_stopping": {"patience": 3}}, {"epochs": [9, 9, 9, 9, 3]}, r"patience=3: must be below 3"),
    ({"early_stopping": {"patience": None}}, {"epochs": 1}, None),
    ({"early_stopping": {"patience": 2}}, {"iterations": 10, "batch_size": 64}, r"patience=2: must be below 2"),
    ({"early_stopping": {"patience": 2}}, {"iterations": 11, "batch_size": 64}, None),
    ({"early_stopping": {"patience": 2}, "joint": {}}, {"epochs": [1, 1, 1, 1, 3]}, None),
    ({"swa": {}}, {"epochs": 1}, r"^strategies\.swa\.start=0\.5: leaves one of the 1 epochs"),
    ({"swa": {}}, {"epochs": 2}, r"^strategies\.swa\.start=0\.5: leaves one of the 2 epochs"),
    ({"swa": {}}, {"epochs": 3}, None),
    ({"swa": {"start": 0.9}}, {"epochs": 10}, r"start=0\.9: leaves one of the 10 epochs"),
    ({"swa": {"start": None}}, {"epochs": 1}, None),
    (
        {"stop_at_budget": {}},
        {"epochs": 1},
        r"^strategies\.stop_at_budget\.accuracy=0\.98: is looked at after each epoch",
    ),
    (
        {"stop_at_budget": {"loss": 0.1}},
        {"epochs": 1},
        r"^strategies\.stop_at_budget\.accuracy=0\.98: .*\.\nstrategies\.stop_at_budget\.loss=0\.1: .*\.$",
    ),
    ({"stop_at_budget": {}}, {"epochs": [1, 2, 1, 1, 1]}, None),
    ({"stop_at_budget": {"accuracy": None, "seconds": 1.0}}, {"epochs": 1}, None),
    (
        {"gradual_unfreezing": {}},
        {"epochs": 1},
        r"^strategies\.gradual_unfreezing\.every=1: must be below 1, the epochs",
    ),
    ({"gradual_unfreezing": {}}, {"epochs": [1, 2, 2, 2, 2]}, None),  # the first experience is not frozen
    ({"gradual_unfreezing": {"per": "experience", "every": 4}}, {}, r"every=4: must be below 4, the experiences"),
    ({"gradual_unfreezing": {"per": "experience", "every": 3}}, {}, None),
]


@pytest.mark.parametrize(("strategies", "training", "message"), ACTS, ids=str)
def test_settings_that_can_never_act_are_refused(
    strategies: dict[str, Any], training: dict[str, Any], message: str | None
) -> None:
    with refused(message):
        build(strategies, model={"mlp": {"hidden": [8, 8]}}, **training)


# Features that go stale.

STORING = ("fecam", "ncm", "ranpac", "slda")
PLAIN = {"mlp": {"hidden": [8]}}
FROZEN: dict[str, Any] = {"freezing": {}}
STALE: list[tuple[dict[str, Any], dict[str, Any], bool]] = [
    ({"ncm": {}}, {}, True),
    ({"ncm": {}, "replay": {"memory": 40}}, {}, True),
    ({"ncm": {}, **FROZEN}, {}, False),
    ({"ncm": {}, "freezing": {"from_experience": 0}}, {}, False),
    ({"ncm": {}, "freezing": {"from_experience": 2}}, {}, True),
    ({"ncm": {}, "freezing": {"layers": ["head.*"]}}, {}, True),
    (
        {"ncm": {}, "freezing": {"norm": ["affine"]}},
        {"model": MLP, "batch_size": 50},
        True,
    ),  # BatchNorm's statistics move
    ({"ncm": {}, **FROZEN}, {"model": MLP, "batch_size": 50}, False),
    ({"ncm": {}, "bitfit": {}}, {}, True),
    ({"ncm": {}, "lora": {}}, {}, True),
    ({"ncm": {}, "gradual_unfreezing": {}}, {"epochs": 2}, True),
    ({"ncm": {}, "l2p": {}}, {"model": VIT}, True),
    ({"ncm": {}, "cumulative": {}}, {}, False),  # computed from all data, each time
    ({"ncm": {}, "joint": {}}, {}, False),
    ({"ncm": {}, "gdumb": {"memory": 40}}, {}, True),
    ({"ncm": {}}, {"optimizer": {"groups": {"trunk.*": {"lr": 0.0}}}}, False),
    ({"ncm": {}}, {"optimizer": {"groups": {"trunk.*": {"lr": 0.1}}}}, True),
    ({"icarl": {}}, {}, False),  # its means are computed afresh
    ({"replay": {"policy": "herding"}}, {}, False),
]


@pytest.mark.parametrize(("strategies", "rest", "warns"), STALE, ids=str)
def test_statistics_of_features_that_go_stale_are_warned_about(
    strategies: dict[str, Any], rest: dict[str, Any], warns: bool
) -> None:
    warnings = build(strategies, **{"model": PLAIN} | rest).warnings
    assert len(warnings) == warns
    assert all(
        re.match(r"strategies\.ncm: .*the trunk still learns.*trunk\..*freeze the trunk", each) for each in warnings
    )


def test_every_such_strategy_says_so_in_the_list() -> None:
    """Those that store features are the four classifiers; `retain list` and the warning name what they need."""
    listed = CliRunner().invoke(app, ["list", "strategies"]).output
    for name in registry.names("strategies"):
        module = registry.resolve("strategies", name)
        stores = any(cls.stores_features for cls in plugin_classes(module))
        assert stores == (name in STORING)
        (line,) = re.findall(rf"^  {name}  (.*)$", listed, re.MULTILINE)
        assert stores == ("needs a frozen trunk" in line)
        if stores:
            assert len(build({name: {}}, model=PLAIN).warnings) == 1


def test_trial_and_sweep_warn_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    experiment = config({"ncm": {}}, model=PLAIN, iterations=1)
    with caplog.at_level(logging.WARNING, logger="retain.platform"):
        run(from_dict(experiment), tmp_path / "run")
        assert [record.message.partition(":")[0] for record in caplog.records] == ["strategies.ncm"]
        caplog.clear()
        variants: dict[str, Any] = {
            "a": {},
            "b": {"training": {"batch_size": 32}},
            "c": {"strategies": {"freezing": {}}},
        }
        check_trials(plan(from_dict(experiment | {"sweep": {"seeds": [0, 1], "variants": variants}})))
        assert [record.message[-16:] for record in caplog.records] == ["(variants: a, b)"]


def test_the_steps_at_the_end_of_an_experience() -> None:
    """Which strategies change the network there, so that their order matters."""
    expected = {
        "early_stopping": EndOrder.REPLACE_WEIGHTS,
        "forgetting_stop": EndOrder.REPLACE_WEIGHTS,
        "swa": EndOrder.REPLACE_WEIGHTS,
        "wa": EndOrder.CHANGE_WEIGHTS,
        "eeil": EndOrder.CHANGE_WEIGHTS,
        "recompute_batchnorm": EndOrder.RECOMPUTE_STATISTICS,
    }
    for name in registry.names("strategies"):
        plugin: Any = resolve_experiment(from_dict(config({name: {}}))).strategies[0].build_strategy(0)
        assert plugin.end_order == expected.get(name, EndOrder.USE_WEIGHTS)
