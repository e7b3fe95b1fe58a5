"""Which trials a sweep plans: overrides that a variant cannot take, interpolations, null, repeated points, names."""

import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from retain import load_config
from retain.platform.config.load import to_dict
from retain.platform.config.schema import Experiment, Seeds, Sweep
from retain.platform.config.yaml_files import dump_yaml
from retain.platform.errors import UserError
from retain.platform.ledger.reader import run_config
from retain.platform.ledger.writer import SweepLedger
from retain.platform.sweep import run as sweep_run
from retain.platform.sweep.plan import PlannedTrial, check_trials, plan, search_points
from retain.platform.trial.resolve import resolve_experiment

LR, WEIGHT = "training.optimizer.lr", "strategies.lwf.weight"
VARIANTS = {"naive": {}, "lwf": {"strategies": {"lwf": {}}}}
STREAMS = {"classes": {"benchmark": "split_digits"}, "domains": {"benchmark": "rotated_digits"}}
LWF_EWC = {"strategies": {"lwf": {"weight": 5.0}, "ewc": {"weight": 1.0}}}
EWC = {"strategies": {"ewc": {"weight": 4}}}
RATE = "${training.optimizer.lr}"


def config(**sections: Any) -> dict[str, Any]:
    """Return a config from Python: the digits, a small network, and more sections."""
    return {"name": "t", "benchmark": "split_digits", "model": {"mlp": {"hidden": [8]}}, **sections}


def planned(overrides: Sequence[str] = (), **sections: Any) -> list[PlannedTrial]:
    """Return the trials of a config with overrides."""
    return plan(load_config(config(**sections), overrides))


def weights(trials: Sequence[PlannedTrial]) -> dict[str, dict[str, Any]]:
    """Return variant -> strategy -> weight (the last seed's)."""
    return {
        trial.identity["variant"]: {name: each.get("weight") for name, each in trial.config.strategies.items()}
        for trial in trials
    }


# --- overrides and search spaces that name what a variant does not have ---

LACKING: dict[str, tuple[dict[str, Any], list[str], list[str]]] = {
    "space, strategy": (
        {"sweep": {"variants": VARIANTS, "space": {WEIGHT: {"grid": [1, 2]}}}},
        [],
        ["(split_digits, naive weight=1)", f"sweep.space.{WEIGHT}", "no 'lwf'", "sweep.variants.NAME.space"],
    ),
    "space, all strategies": (
        {"sweep": {"variants": VARIANTS, "space": {"strategies": {"grid": [{"ewc": {}}, {}]}}}},
        [],
        ["(split_digits, naive strategies=", "sweep.space.strategies:", "sweep.variants"],
    ),
    "space, one of two streams": (
        {
            "sweep": {
                "streams": {"a": {}, "b": {"model": "small_cnn"}},
                "space": {"model.mlp.hidden": {"grid": [[8], [9]]}},
            }
        },
        [],
        ["(b, t hidden=[8])", "no 'mlp'", "small_cnn"],
    ),
    "space, another benchmark's setting": (
        {"sweep": {"space": {"benchmark.rotated_digits.validation": {"grid": [0.1, 0.2]}}}},
        [],
        ["no 'rotated_digits'", "split_digits"],
    ),
    "space, benchmark": (
        {"sweep": {"space": {"benchmark": {"grid": ["split_digits", "rotated_digits"]}}}},
        [],
        ["sweep.space.benchmark='rotated_digits'", "sweep.streams"],
    ),
    "space, probe": (
        {"sweep": {"space": {"probes.cka.samples": {"grid": [10, 20]}}}},
        [],
        ["sweep.space.probes.cka.samples", "no 'cka'"],
    ),
    "space, removed strategy": (
        {**LWF_EWC, "sweep": {"variants": {"a": {"strategies": {"lwf": None}}}, "space": {WEIGHT: {"grid": [1, 2]}}}},
        [],
        ["(split_digits, a weight=1)", "no 'lwf'", "ewc"],
    ),
    "a variant's space": (
        {"sweep": {"variants": {"a": {"space": {WEIGHT: {"grid": [1, 2]}}}}}},
        [],
        ["(split_digits, a weight=1)", "no 'lwf'"],
    ),
    "override, setting": (
        {"sweep": {"variants": VARIANTS}},
        [f"{WEIGHT}=2"],
        ["naive", f"'{WEIGHT}=2'", "would add lwf"],
    ),
    "override, strategy": (
        {"sweep": {"variants": VARIANTS}},
        ["strategies.lwf={weight: 2}"],
        ["(split_digits, naive)", "would add lwf", "strategies={lwf: {...}}"],
    ),
    "override, benchmark of no stream": (
        {"sweep": {"streams": STREAMS}},
        ["benchmark.permuted_digits.validation=0.2"],
        ["changes no trial", "sweep.streams.NAME.benchmark.permuted_digits.validation"],
    ),
    "override, set by every variant": (
        {"sweep": {"variants": {"a": {"training": {"epochs": 2}}, "b": {"training": {"epochs": 3}}}}},
        ["training.epochs=4"],
        ["'training.epochs=4'", "changes no trial"],
    ),
    "override, seed": ({"sweep": {"seeds": [0, 1]}}, ["seed=5"], ["'seed=5'", "sweep.seeds"]),
    "override, unknown variant": (
        {"sweep": {"variants": VARIANTS}},
        ["sweep.variants.nave.training.epochs=2"],
        ["no variant 'nave'", "'naive'?"],
    ),
    "override, variant without the strategy": (
        {"sweep": {"variants": VARIANTS}},
        [f"sweep.variants.naive.{WEIGHT}=2"],
        ["'naive'", "no 'lwf'", "sweep.variants.naive.strategies.lwf={...} adds it"],
    ),
    "override, stream with another benchmark": (
        {"sweep": {"streams": STREAMS}},
        ["sweep.streams.domains.benchmark.split_digits.validation=0.2"],
        ["no 'split_digits'", "rotated_digits"],
    ),
    "stream adds a strategy": (
        {"sweep": {"streams": {"s": {"strategies": {"lwf": {"weight": 2}}}}, "variants": VARIANTS}},
        [],
        ["(s, naive)", "strategies.lwf", "would add it"],
    ),
    "variant replaces the stream's benchmark": (
        {"sweep": {"streams": STREAMS, "variants": {"a": {"benchmark": {"split_digits": {"num_experiences": 2}}}}}},
        [],
        ["(domains, a)", "benchmark.split_digits", "rotated_digits"],
    ),
    "variant changes the benchmark": (
        {"sweep": {"variants": {"a": {}, "b": {"benchmark": "rotated_digits"}}}},
        [],
        ["(split_digits, b)", "benchmark.rotated_digits", "sweep.streams"],
    ),
    "variant replaces the stream's model": (
        {"sweep": {"streams": {"s": {"model": "small_cnn"}}, "variants": {"a": {"model": {"mlp": {"dropout": 0.1}}}}}},
        [],
        ["(s, a)", "model.mlp", "small_cnn"],
    ),
}


@pytest.mark.parametrize("case", LACKING)
def test_an_override_of_what_a_variant_lacks_is_refused(case: str) -> None:
    sections, overrides, parts = LACKING[case]
    with pytest.raises(UserError) as error:
        planned(overrides, **sections)
    assert all(part in str(error.value) for part in parts), str(error.value)


@pytest.mark.parametrize(
    ("sections", "overrides", "expected"),
    [
        (
            {"sweep": {"variants": VARIANTS}},
            ["strategies={lwf: {weight: 2}}"],
            {"naive": {"lwf": 2}, "lwf": {"lwf": 2}},
        ),
        ({"sweep": {"variants": {"a": VARIANTS["lwf"]}}}, [f"{WEIGHT}=2"], {"a": {"lwf": 2}}),
        ({}, [f"{WEIGHT}=2"], {"t": {"lwf": 2}}),
        ({"sweep": {"variants": VARIANTS}}, [f"sweep.variants.lwf.{WEIGHT}=2"], {"naive": {}, "lwf": {"lwf": 2}}),
        (
            {"sweep": {"variants": VARIANTS}},
            ["sweep.variants.naive.strategies.ewc={weight: 3}"],
            {"naive": {"ewc": 3}, "lwf": {"lwf": 1}},
        ),
        ({"sweep": {"variants": VARIANTS}}, ["sweep.variants.more={strategies: {ewc: {weight: 3}}}"], None),
        ({"sweep": {"variants": VARIANTS}}, ["sweep.variants.lwf=null"], {"naive": {}}),
        (
            {"sweep": {"streams": {"s": {"strategies": {"lwf": {"weight": 3}}}}, "variants": {"a": VARIANTS["lwf"]}}},
            [],
            {"a": {"lwf": 3}},
        ),
        ({"sweep": {"variants": VARIANTS}}, ["probes.cka.samples=10"], {"naive": {}, "lwf": {"lwf": 1}}),
    ],
)
def test_an_override_that_a_variant_can_take(
    sections: dict[str, Any], overrides: list[str], expected: dict[str, Any] | None
) -> None:
    trials = planned(overrides, **sections)
    assert weights(trials) == (expected or {"naive": {}, "lwf": {"lwf": 1}, "more": {"ewc": 3}})


def test_keys_of_the_space_with_one_last_part_are_told_apart_in_names() -> None:
    space = {WEIGHT: {"grid": [1]}, "strategies.ewc.weight": {"grid": [1, 2]}, LR: {"grid": [0.1]}}
    names = [trial.identity["variant"] for trial in planned(**LWF_EWC, sweep={"space": space})]
    assert names == ["t lwf.weight=1 ewc.weight=1 lr=0.1", "t lwf.weight=1 ewc.weight=2 lr=0.1"]


@pytest.mark.parametrize("keys", [("training.optimizer", LR), (LR, "training.optimizer")])
def test_two_keys_of_the_space_that_set_one_value_are_refused(keys: tuple[str, str]) -> None:
    """The trial's name would state the value of both."""
    values = {"training.optimizer": {"grid": [{"name": "adam", "lr": 0.1}]}, LR: {"grid": [0.2]}}
    with pytest.raises(UserError, match=rf"sweep\.space\.{re.escape(keys[0])}=.*another key of the space replaces it"):
        planned(sweep={"space": {key: values[key] for key in keys}})
    values["training.optimizer"] = {"grid": [{"name": "adam"}, {"name": "sgd"}]}
    trials = planned(sweep={"space": {key: values[key] for key in keys}})
    assert [(t.config.training.optimizer.name, t.config.training.optimizer.lr) for t in trials] == [
        ("adam", 0.2),
        ("sgd", 0.2),
    ]


@pytest.mark.parametrize(
    ("part", "is_replaced"),
    [
        ({"training": {"optimizer": {"lr": 0.2}}}, True),
        ({"training": {"optimizer": {"momentum": 0.2}}}, False),
        ({"training": {"optimizer": {"lr": 0.2}}, "space": {LR: None}}, False),
    ],
)
@pytest.mark.parametrize("section", ["variants", "streams"])
def test_a_value_that_the_space_replaces_is_reported(
    section: str, part: dict[str, Any], is_replaced: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        planned(sweep={section: {"a": part, "b": {}}, "space": {LR: {"grid": [0.3, 0.4]}}})
    message = f"sweep.{section}.a: the search space replaces {LR}=0.2"
    assert sum(message in record.getMessage() for record in caplog.records) == is_replaced


# --- a space of a variant or stream ---


def test_a_variants_space_is_added_to_the_sweeps() -> None:
    """The draws of the sweep's own domains stay the same for every variant."""
    variants = {"naive": {}, "lwf": {**VARIANTS["lwf"], "space": {WEIGHT: {"loguniform": [0.01, 100]}}}}
    trials = planned(sweep={"variants": variants, "space": {LR: {"loguniform": [0.01, 0.1]}}, "samples": 3})
    rates = {
        v: [t.config.training.optimizer.lr for t in trials if t.identity["variant"].startswith(v)] for v in variants
    }
    assert rates["naive"] == rates["lwf"] and len(set(rates["lwf"])) == 3
    drawn = [trial.config.strategies["lwf"]["weight"] for trial in trials[3:]]
    assert len(set(drawn)) == 3 and all(0.01 <= weight <= 100 for weight in drawn)
    assert all("space" not in trial.identity["overrides"] for trial in trials)


@pytest.mark.parametrize(
    ("part", "overrides", "names"),
    [
        ({"space": {LR: {"grid": [0.3]}}}, [], ["a lr=0.3", "b lr=0.1", "b lr=0.2"]),
        ({"space": {LR: None}}, [], ["a", "b lr=0.1", "b lr=0.2"]),
        ({}, [f"sweep.variants.a.space.{LR}={{grid: [0.3]}}"], ["a lr=0.3", "b lr=0.1", "b lr=0.2"]),
        ({}, [f"sweep.space.{LR}=null"], ["a", "b"]),
        (
            {"space": {"training.epochs": {"grid": [1, 2]}}},
            [],
            [
                "a lr=0.1 epochs=1",
                "a lr=0.2 epochs=1",
                "a lr=0.1 epochs=2",
                "a lr=0.2 epochs=2",
                "b lr=0.1",
                "b lr=0.2",
            ],
        ),
    ],
)
def test_a_variants_space_replaces_and_removes_domains(
    part: dict[str, Any], overrides: list[str], names: list[str]
) -> None:
    b = {"training": {"batch_size": 8}}
    trials = planned(overrides, sweep={"variants": {"a": part, "b": b}, "space": {LR: {"grid": [0.1, 0.2]}}})
    assert [trial.identity["variant"] for trial in trials] == names


def test_a_streams_space() -> None:
    streams = {**STREAMS, "domains": {**STREAMS["domains"], "space": {LR: {"grid": [0.1, 0.2]}}}}
    trials = planned(sweep={"streams": streams})
    assert [(t.identity["stream"], t.config.training.optimizer.lr) for t in trials] == [
        ("classes", 0.05),
        ("domains", 0.1),
        ("domains", 0.2),
    ]


# --- interpolations ---

ONE_SEED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "space": (
        {"strategies": {"lwf": {"weight": RATE}}, "sweep": {"space": {LR: {"grid": [0.1, 0.01]}}}},
        {"t lr=0.1": {"lwf": 0.1}, "t lr=0.01": {"lwf": 0.01}},
    ),
    "variants": (
        {
            "strategies": {"lwf": {"weight": RATE}},
            "sweep": {
                "variants": {
                    "a": {"training": {"optimizer": {"lr": 0.2}}},
                    "b": {"strategies": {"ewc": {"weight": RATE}}},
                }
            },
        },
        {"a": {"lwf": 0.2}, "b": {"lwf": 0.05, "ewc": 0.05}},
    ),
    "variant names the space's key": (
        {"sweep": {"variants": {"a": {"strategies": {"lwf": {"weight": RATE}}}}, "space": {LR: {"grid": [0.1, 0.01]}}}},
        {"a lr=0.1": {"lwf": 0.1}, "a lr=0.01": {"lwf": 0.01}},
    ),
    "values of the space": (
        {**LWF_EWC, "sweep": {"space": {LR: {"grid": [0.1]}, WEIGHT: {"grid": [RATE, 7]}}}},
        {f"t lr=0.1 weight={RATE}": {"lwf": 0.1, "ewc": 1.0}, "t lr=0.1 weight=7": {"lwf": 7.0, "ewc": 1.0}},
    ),
    "bounds of the space": (
        {
            **LWF_EWC,
            "sweep": {"space": {WEIGHT: {"choice": "${training.epochs}"}}},
            "training": {"epochs": [4, 4, 4, 4, 4]},
        },
        {"t weight=4": {"lwf": 4.0, "ewc": 1.0}},
    ),
    "a chain": (
        {
            "strategies": {"lwf": {"weight": "${strategies.ewc.weight}"}, "ewc": {"weight": RATE}},
            "sweep": {"space": {LR: {"grid": [0.3]}}},
        },
        {"t lr=0.3": {"lwf": 0.3, "ewc": 0.3}},
    ),
    "a section": (
        {
            "strategies": {"lwf": {}},
            "sweep": {"variants": {"a": EWC, "b": {"strategies": "${sweep.variants.a.strategies}"}, "c": {}}},
        },
        {"a": {"lwf": 1.0, "ewc": 4.0}, "b": {"lwf": 1.0, "ewc": 4.0}, "c": {"lwf": 1.0}},
    ),
    "a section that a variant overrides": (
        {"strategies": {"lwf": {"weight": 2}, "ewc": "${strategies.lwf}"}, "sweep": {"variants": {"a": EWC, "b": {}}}},
        {"a": {"lwf": 2.0, "ewc": 4.0}, "b": {"lwf": 2.0, "ewc": 2.0}},
    ),
}


@pytest.mark.parametrize("case", ONE_SEED)
def test_interpolations_are_resolved_in_each_trial(case: str) -> None:
    sections, expected = ONE_SEED[case]
    trials = planned(**sections)
    assert weights(trials) == expected
    assert "${" not in repr([(to_dict(trial.config), trial.identity["overrides"]) for trial in trials])


def test_an_interpolation_may_name_the_seed_and_stand_in_a_list_or_a_text() -> None:
    trials = planned(
        seed=5,  # of a single trial
        seeds={"class_order": "${seed}"},
        training={"epochs": ["${seed}", 1, 1, 1, 1]},
        sweep={"seeds": [1, 2], "variants": {"a": {}, "b": {"seeds": {"data": "${seeds.class_order}"}}}},
        data={"cache": "cache-${seed}"},
    )
    assert [trial.config.seeds.class_order for trial in trials] == [1, 2, 1, 2]
    assert [trial.config.seeds.data for trial in trials] == [None, None, 1, 2]
    assert [trial.config.training.epochs[0] for trial in trials] == [1, 2, 1, 2]
    assert [trial.config.data.cache for trial in trials] == ["cache-1", "cache-2", "cache-1", "cache-2"]
    assert [trial.config.seed for trial in trials] == [1, 2, 1, 2]


@pytest.mark.parametrize("epochs", ["${sweep.samples}", "${ sweep.${name} }", "${..sweep.samples}"])
def test_an_interpolation_may_name_keys_of_the_sweep_and_stand_in_published(epochs: str) -> None:
    sections = {"name": "samples", "training": {"epochs": epochs}, "published": {"source": "${name}", "figures": {}}}
    assert [trial.config.training.epochs for trial in planned(**sections, sweep={"seeds": [1, 2]})] == [1, 1]


def test_an_interpolation_on_the_command_line() -> None:
    trials = planned(
        [f"{WEIGHT}={RATE}"], sweep={"variants": {"a": VARIANTS["lwf"]}, "space": {LR: {"grid": [0.1, 0.2]}}}
    )
    assert weights(trials) == {"a lr=0.1": {"lwf": 0.1}, "a lr=0.2": {"lwf": 0.2}}


@pytest.mark.parametrize(
    ("domain", "message"),
    [
        ({"uniform": ["${seed}", 5]}, "seed has no value yet, or one that differs"),
        ({"uniform": ["${strategies.ewc.weight}", 5]}, "strategies.ewc.weight has no value yet, or one that differs"),
        ({"grid": ["${nowhere}"]}, "'nowhere' not found"),
        ({"grid": ["${oc.env:HOME}"]}, "no resolvers"),
        ({"grid": ["???"]}, "has no value yet"),
    ],
)
def test_an_interpolation_that_cannot_be_resolved_is_refused(domain: dict[str, Any], message: str) -> None:
    space = {"strategies.ewc.weight": {"grid": [1, 2]}, WEIGHT: domain}
    with pytest.raises(UserError, match=message):
        planned(**LWF_EWC, sweep={"samples": 2, "space": space} if "uniform" in domain else {"space": space})


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"name": "t-${seed}"}, "name=t-${seed}: would differ between trials"),
        ({"wandb": {"tags": ["lr ${training.optimizer.lr}"]}}, "wandb.tags=.*: would differ between trials"),
        ({"resources": {"threads": "${training.batch_size}"}}, None),
    ],
)
def test_an_interpolation_of_the_whole_sweep_may_not_differ_between_trials(
    sections: dict[str, Any], message: str | None
) -> None:
    sweep = {"seeds": [0, 1], "space": {LR: {"grid": [0.1, 0.2]}}}
    if message is None:
        assert {trial.config.resources.threads for trial in planned(**sections, sweep=sweep)} == {64}
        return
    with pytest.raises(UserError, match=message.replace("$", r"\$")):
        planned(**sections, sweep=sweep)


def test_types_are_checked_after_interpolation() -> None:
    with pytest.raises(UserError, match=r"\(split_digits, a\): training.epochs=0.05: must be an integer"):
        planned(sweep={"variants": {"a": {"training": {"epochs": RATE}}}})


def test_a_single_trial_resolves_interpolations_with_its_seed() -> None:
    experiment = load_config(config(seeds={"class_order": "${seed}"}), ["seed=4"])
    assert resolve_experiment(experiment).experiment.seeds.class_order == 4
    assert resolve_experiment(replace(experiment, seed=9)).experiment.seeds.class_order == 9
    kept = resolve_experiment(replace(experiment, seed=9, seeds=Seeds(class_order=2))).experiment
    assert (kept.seed, kept.seeds.class_order) == (9, 2)
    assert to_dict(experiment)["seeds"]["class_order"] == "${seed}"
    assert to_dict(resolve_experiment(experiment).experiment)["seeds"]["class_order"] == 4


def test_a_dictconfig_has_no_interpolations_left() -> None:
    made = OmegaConf.create(config(seed=3, seeds={"class_order": "${seed}"}, sweep={"seeds": [0, 1]}))
    assert [trial.config.seeds.class_order for trial in plan(load_config(made))] == [3, 3]


def test_a_sweeps_folder_plans_the_same_trials_again(tmp_path: Path) -> None:
    sections = {"strategies": {"lwf": {"weight": RATE}}, "seeds": {"class_order": "${seed}"}}
    variants = {"a": {}, "b": {"strategies": {"lwf": None, "ewc": {"weight": RATE}}}}
    space = {LR: {"choice": [0.1, 0.2, 0.3]}}
    experiment = load_config(
        config(**sections, sweep={"seeds": [3, 4], "variants": variants, "space": space, "samples": 2})
    )
    trials = plan(experiment)
    with SweepLedger.create(tmp_path / "s", dump_yaml(to_dict(experiment)), "t", [each.identity for each in trials]):
        again = plan(load_config(run_config(tmp_path / "s")))
    assert [(to_dict(each.config), each.identity) for each in again] == [
        (to_dict(each.config), each.identity) for each in trials
    ]


def test_missing_trials_of_another_versions_plan_are_refused(tmp_path: Path) -> None:
    """Older versions ran a point that was drawn twice twice: their plan has other numbers."""
    experiment = load_config(config(sweep={"seeds": [0, 1]}))
    identities = [trial.identity for trial in plan(load_config(config(sweep={"seeds": [0, 1, 2]})))]
    with SweepLedger.create(tmp_path / "s", dump_yaml(to_dict(experiment)), "t", identities):
        with pytest.raises(UserError, match="planned 3 trials, this one 2"):
            sweep_run.write_missing_trials(experiment, tmp_path / "s")


# --- null ---


@pytest.mark.parametrize(
    ("variant", "overrides", "expected"),
    [
        ({"strategies": {"lwf": None}}, [], {"ewc": 1.0}),
        ({"strategies": {"lwf": None, "ewc": None}}, [], {}),
        ({"strategies": {"lwf": None, "si": {"weight": 3}}}, [], {"ewc": 1.0, "si": 3.0}),
        ({"strategies": {}}, [], {"lwf": 5.0, "ewc": 1.0}),
        ({"strategies": {"lwf": {}}}, [], {"lwf": 5.0, "ewc": 1.0}),
        ({"strategies": "si"}, [], {"lwf": 5.0, "ewc": 1.0, "si": 1.0}),
        ({}, ["strategies.lwf=null"], {"ewc": 1.0}),
        ({}, ["strategies.lwf="], {"ewc": 1.0}),
        ({}, ["strategies={lwf: null}"], {"lwf": 1.0}),
        ({}, ["sweep.variants.v.strategies.lwf=null"], {"ewc": 1.0}),
        ({}, ["sweep.space.strategies.lwf={grid: [null]}"], {"ewc": 1.0}),
    ],
)
def test_null_removes_a_strategy(variant: dict[str, Any], overrides: list[str], expected: dict[str, Any]) -> None:
    (trial,) = planned(overrides, **LWF_EWC, sweep={"variants": {"v": variant}})
    assert {name: settings["weight"] for name, settings in trial.config.strategies.items()} == expected


def test_a_variant_may_add_what_its_stream_removes() -> None:
    sweep = {
        "streams": {"s": {"strategies": {"lwf": None}}},
        "variants": {"a": {"strategies": {"lwf": {"weight": 2}}}, "b": {}},
    }
    trials = planned(**LWF_EWC, sweep=sweep)
    assert weights(trials) == {"a": {"ewc": 1.0, "lwf": 2.0}, "b": {"ewc": 1.0}}
    assert [trial.identity["overrides"] for trial in trials] == [
        {"strategies": {"lwf": {"weight": 2}}},
        {"strategies": {"lwf": None}},
    ]


def test_null_removes_a_probe() -> None:
    trials = planned(probes={"cka": {}}, sweep={"variants": {"a": {}, "b": {"probes": {"cka": None}}}})
    assert [list(trial.config.probes) for trial in trials] == [["curves", "cka"], ["curves"]]


def test_null_of_a_setting_is_its_value() -> None:
    (trial,) = planned(
        training={"optimizer": {"clip": 1.0}}, sweep={"variants": {"a": {"training": {"optimizer": {"clip": None}}}}}
    )
    assert trial.config.training.optimizer.clip is None


@pytest.mark.parametrize(
    ("variant", "overrides", "parts"),
    [
        ({"strategies": {"lvf": None}}, [], ["(split_digits, v)", "strategies.lvf=null", "'lwf'?", "Here: ewc, lwf"]),
        ({"strategies": {"replay": None}}, [], ["strategies.replay=null", "replay: {}"]),
        ({}, ["strategies.lvf=null"], ["strategies.lvf=null", "'lwf'?"]),
        ({}, ["sweep.variants.w=null"], ["sweep.variants.w=null", "Here: v"]),
        ({}, [f"sweep.space.{LR}=null"], [f"sweep.space.{LR}=null", "Here: none"]),
        ({"space": {LR: None}}, [], ["(split_digits, v)", f"space.{LR}=null", "Here: none"]),
        ({"probes": {"curves": None}}, [], ["probes.curves=null", "probes.curves.every=null"]),
        ({"model": {"mlp": None}}, [], ["model.mlp=null", "model.mlp={}"]),
        ({}, ["benchmark.split_digits=null"], ["benchmark.split_digits=null"]),
        ({"model": None}, [], ["model=None", "must be a name"]),
        ({"strategies": None}, [], ["strategies=None"]),
    ],
)  # fmt: skip
def test_null_that_removes_nothing_is_refused(variant: dict[str, Any], overrides: list[str], parts: list[str]) -> None:
    with pytest.raises(UserError) as error:
        planned(overrides, **LWF_EWC, sweep={"variants": {"v": variant}})
    assert all(part in str(error.value) for part in parts), str(error.value)


# --- repeated points, samples and names ---


@pytest.mark.parametrize(
    ("space", "samples", "number"),
    [
        ({LR: {"choice": [0.5, 2.0]}}, 4, 2),
        ({LR: {"choice": [1, 1.0, 2]}}, 4, 2),
        ({"training.epochs": {"randint": [1, 4]}}, 9, 3),
        ({"training.epochs": {"randint": [1, 4]}, "training.batch_size": {"choice": [8, 16]}}, 6, 6),
        ({"training.epochs": {"randint": [1, 4]}, LR: {"grid": [0.1, 0.2]}}, 9, 6),
        ({"training.epochs": {"randint": [1, 10**9]}}, 20, 20),
        ({"training.epochs": {"randint": [1, 3]}, LR: {"uniform": [0.1, 0.2]}}, 8, 8),
        ({LR: {"uniform": [1.0, 1.0000000000000002]}}, 3, 2),
        ({"model.mlp.hidden": {"choice": [[8], [8, 8], [8]]}}, 5, 2),
    ],
)
def test_no_point_is_run_twice(
    space: dict[str, Any], samples: int, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    """If there are fewer different points than `samples`, that is said once, whatever the number of variants."""
    variants = {"a": {}, "b": {"training": {"evaluation_batch_size": 64}}}
    with caplog.at_level(logging.WARNING):
        trials = planned(sweep={"variants": variants, "space": space, "samples": samples})
    assert len(trials) == 2 * number == len({repr(trial.config) for trial in trials})
    cells = len(space.get(LR, {}).get("grid", [0]))
    said = [record.message for record in caplog.records if "each runs once" in record.message]
    assert len(said) == (number < samples * cells) and all(f"only {number // cells} different" in text for text in said)


GOLDEN_POINTS = [  # as version 629c42f drew them
    (16, 0.008144886973076106, 2),
    (16, 0.0001327151712530881, 1),
    (32, 0.00011209413928285802, 1),
    (32, 0.054735202837886444, 3),
]


def test_points_without_repeats_are_those_of_earlier_versions() -> None:
    space = {
        LR: {"loguniform": [1e-4, 1e-1]},
        "training.epochs": {"randint": [1, 4]},
        "training.batch_size": {"grid": [16, 32]},
    }
    points = search_points(Sweep(space=space, samples=2))
    assert [(point["training.batch_size"], point[LR], point["training.epochs"]) for point in points] == GOLDEN_POINTS


@pytest.mark.parametrize(
    "domain", [{"choice": [1, 2]}, {"uniform": [1, 2]}, {"loguniform": [1, 2]}, {"randint": [1, 3]}]
)
@pytest.mark.parametrize("samples", [{}, {"samples": 1}])
@pytest.mark.parametrize("where", ["sweep", "variant"])
def test_a_single_random_draw_is_refused(domain: dict[str, Any], samples: dict[str, int], where: str) -> None:
    space = {"training.epochs": domain}
    part = {"space": space} if where == "sweep" else {"variants": {"a": {"space": space}}}
    with pytest.raises(UserError, match=r"sweep.samples=1: is a single random draw of training.epochs"):
        planned(sweep={**part, **samples})


def test_a_choice_of_one_value_needs_no_samples() -> None:
    assert [t.config.training.epochs for t in planned(sweep={"space": {"training.epochs": {"choice": [3]}}})] == [3]


@pytest.mark.parametrize("values", [[1, 1.0], [0.1, 0.2, 0.1]])
def test_a_grid_that_repeats_a_value_is_refused(values: list[Any]) -> None:
    with pytest.raises(UserError, match=r"sweep.space.training.optimizer.lr.grid=.*each value once"):
        planned(sweep={"space": {LR: {"grid": values}}})


@pytest.mark.parametrize(
    ("key", "values", "names"),
    [
        (LR, [0.12345, 0.12349], ["t lr=0.12345", "t lr=0.12349"]),
        (LR, [0.1, 0.1 + 1e-16, 0.5], ["t lr=0.10000000000000001", "t lr=0.1000000000000001", "t lr=0.5"]),
        (LR, [0.12345, 0.5], ["t lr=0.123", "t lr=0.5"]),
        ("training.epochs", [1000, 1001], ["t epochs=1000", "t epochs=1001"]),
    ],
)
def test_different_points_have_different_names(key: str, values: list[float], names: list[str]) -> None:
    trials = planned(sweep={"space": {key: {"grid": values}}})
    assert [trial.identity["variant"] for trial in trials] == names


def test_variants_of_one_name_are_refused() -> None:
    variants = {"a": {"space": {LR: {"grid": [0.1]}}}, "a lr=0.1": {"training": {"epochs": 2}}}
    with pytest.raises(UserError, match="two variants have the name 'a lr=0.1'"):
        planned(sweep={"variants": variants})


def test_equal_trials_under_two_names_are_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        planned(
            sweep={
                "seeds": [0, 1],
                "variants": {"a": {}, "b": {"training": {"epochs": 10}}, "c": {"training": {"epochs": 2}}},
            }
        )
    (record,) = [record for record in caplog.records if "under two names" in record.message]
    assert record.message.endswith("(split_digits, a) and (split_digits, b)")


def test_many_trials_are_planned_and_checked_once_each() -> None:
    """Trials of one stream and variant are checked for one seed."""
    experiment: Experiment = load_config(config(sweep={"seeds": list(range(60))}))
    trials = plan(experiment)
    check_trials(trials)
    assert [trial.config.seed for trial in trials] == list(range(60))
