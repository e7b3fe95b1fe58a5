"""What is refused before anything starts, and with which message; merging, overrides, defaults, search points."""

import math
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from retain import run, sweep
from retain.platform.config.load import config_names, from_dict, load_config, to_dict
from retain.platform.config.schema import Experiment, Sweep
from retain.platform.config.yaml_files import parse_yaml
from retain.platform.config.yaml_overrides import merge
from retain.platform.errors import UserError
from retain.platform.sweep.plan import PlannedTrial, check_trials, plan, search_points
from retain.platform.trial.resolve import resolve_experiment

BASE = "name: t\nbenchmark: split_digits\nmodel: mlp\noutput: out\nwandb: {mode: disabled}\n"
EWC = "avalanche.training.plugins.EWCPlugin"
LAUGHS = "a: &a [x, x]\n" + "".join(f"{c}: &{c} [{', '.join([f'*{chr(ord(c) - 1)}'] * 10)}]\n" for c in "bcdefghij")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache of prepared data for this file's tests, outside the folders that must stay unchanged."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def here(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to an empty working directory, without access to data sets elsewhere or to the internet."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("RETAIN_DATA", raising=False)
    monkeypatch.setenv("RETAIN_CACHE", str(cache))
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    return folder


def planned(text: str, overrides: Sequence[str], folder: Path) -> list[PlannedTrial]:
    """Load, plan and check a config as the command line does; the file is next to `folder`."""
    file = folder.parent / "config.yaml"
    file.write_text(text)
    trials = plan(load_config(file, overrides))
    check_trials(trials)
    return trials


def refused(text: str, overrides: Sequence[str], folder: Path) -> str:
    """Return the message of a refusal that wrote nothing and started nothing."""
    with pytest.raises(UserError) as error:
        planned(text, overrides, folder)
    assert list(folder.iterdir()) == []
    ray = sys.modules.get("ray")
    assert ray is None or not ray.is_initialized()
    return str(error.value)


def says(*parts: str) -> Any:
    """Return a parametrised case with the texts that its message must contain."""
    return parts


# (override, texts in the message): first the full key path and the value, then what is allowed or the nearest name
OVERRIDES = [
    # unknown keys, at each depth
    ("trainng.epochs=1", says("trainng: unknown key", "'training'")),
    ("foo=1", says("foo: unknown key", "Known here: benchmark, checkpoint")),
    ("training.epoch=1", says("training.epoch: unknown key", "'epochs'")),
    ("training.optimizer.lrr=1", says("training.optimizer.lrr: unknown key", "'lr'")),
    ("training.schedule.warm=0.1", says("training.schedule.warm: unknown key", "'warmup'")),
    ("resources.cpu=1", says("resources.cpu: unknown key", "'cpus'")),
    ("seeds.dat=1", says("seeds.dat: unknown key", "'data'")),
    ("checkpoint.keeps=1", says("checkpoint.keeps: unknown key", "'keep'")),
    ("wandb.mod=offline", says("wandb.mod: unknown key", "'mode'")),
    ("ray.adress=x", says("ray.adress: unknown key", "'address'")),
    ("sweep.seed=[1]", says("sweep.seed: unknown key", "'seeds'")),
    ("strategies.lwf.temprature=2", says("strategies.lwf.temprature: unknown key", "'temperature'")),
    ("benchmark.split_digits.num_experience=5", says("benchmark.split_digits.num_experience:", "'num_experiences'")),
    ("benchmark.split_digits.NUM_CLASSES=5", says("benchmark.split_digits.NUM_CLASSES: unknown key")),
    ("model.mlp.hiden=[3]", says("model.mlp.hiden: unknown key", "'hidden'")),
    ("training..epochs=1", says("training.: unknown key")),
    # wrong types
    ("training.epochs='3'", says("training.epochs='3'", "integer")),
    ("training.epochs=true", says("training.epochs=True", "integer")),
    ("training.epochs=1.5", says("training.epochs=1.5", "integer")),
    ("training.epochs=", says("training.epochs=None", "integer")),
    ("training.epochs==1", says("training.epochs='=1'", "integer")),
    ("training.epochs=[1, '2', 3, 4, 5]", says("training.epochs=[1, '2', 3, 4, 5]", "integer")),
    ("training.batch_size=null", says("training.batch_size=None", "integer")),
    ("training.optimizer.lr='0.1'", says("training.optimizer.lr='0.1'", "number")),
    ("training.optimizer.lr=true", says("training.optimizer.lr=True", "number")),
    ("training.optimizer=adam", says("training.optimizer='adam'", "mapping")),
    ("training=5", says("training=5", "mapping")),
    ("tensorboard=1", says("tensorboard=1", "true or false")),
    ("seed=1.0", says("seed=1.0", "integer")),
    ("name=3", says("name=3", "string")),
    ("data.root=2020-01-01", says("data.root", "date")),
    ("resources.cpus=true", says("resources.cpus=True", "number")),
    ("model.mlp.hidden=3", says("model.mlp.hidden=3", "list")),
    ("strategies=[lwf]", says("strategies=['lwf']", "mapping")),
    ("strategies.lwf=3", says("strategies.lwf=3", "mapping")),
    ("benchmark=5", says("benchmark=5", "name")),
    ("sweep.seeds=3", says("sweep.seeds=3", "list")),
    ("sweep.seeds=[a]", says("sweep.seeds=['a']", "integer")),
    ("sweep.variants=[a]", says("sweep.variants=['a']", "mapping")),
    ("sweep.variants={a: 3}", says("sweep.variants.a=3", "mapping")),
    ("sweep.streams={a: null}", says("sweep.streams.a=None", "mapping")),
    # one of a few allowed words
    ("training.optimizer.name=adamm", says("training.optimizer.name='adamm'", "'adam'?", "'sgd'")),
    ("training.schedule.name=cosin", says("training.schedule.name='cosin'", "'cosine'?")),
    ("wandb.mode=ofline", says("wandb.mode='ofline'", "'offline'?")),
    ("model.mlp.activation=rellu", says("model.mlp.activation='rellu'", "'relu'?")),
    ("strategies.lwf.loss=klm", says("strategies.lwf.loss='klm'", "'kl'?")),
    ("strategies.replay.policy=reservor", says("strategies.replay.policy='reservor'", "'reservoir'?")),
    ("strategies.freezing.layers=all", says("strategies.freezing.layers='all'", "'trunk'", "list")),
    # names
    ("strategies.lwff.weight=1", says("strategies.lwff", "'lwf'?")),
    ("benchmark=split_digit", says("benchmark.split_digit", "'split_digits'?")),
    ("model=mlpp", says("model.mlpp", "'mlp'?")),
    ("benchmark={split_digits: {}, rotated_digits: {}}", says("benchmark=['split_digits', 'rotated_digits']", "one")),
    ("model={}", says("model=[]", "exactly one", "small_cnn")),
    ("strategies={nothing.here: {}}", says("strategies.nothing.here", "No module named 'nothing'")),
    ("benchmark={nothing.here: {}}", says("benchmark.nothing.here", "No module named 'nothing'")),
    ("model={numpy.random: {}}", says("model.numpy.random", "`Config`", "`build`")),
    ("model={os.path: {}}", says("model.os.path", "standard library")),
    # numbers out of range
    ("seed=-1", says("seed=-1", "at least 0")),
    ("seeds.data=-1", says("seeds.data=-1", "at least 0")),
    ("sweep.seeds=[0, -1]", says("sweep.seeds=[0, -1]", "at least 0")),
    ("sweep.seeds=[]", says("sweep.seeds=[]", "at least one")),
    ("sweep.seeds=[1, 1]", says("sweep.seeds=[1, 1]", "once")),
    ("sweep.samples=0", says("sweep.samples=0", "above 0")),
    ("sweep.space_seed=-1", says("sweep.space_seed=-1", "at least 0")),
    ("sweep.samples=4", says("sweep.samples=4", "not used")),
    ("training.epochs=0", says("training.epochs=0", "above 0")),
    ("training.epochs=[]", says("training.epochs=[]")),
    ("training.iterations=-3", says("training.iterations=-3", "above 0")),
    ("training.batch_size=0", says("training.batch_size=0", "above 0")),
    ("training.evaluation_batch_size=0", says("training.evaluation_batch_size=0", "above 0")),
    ("training.optimizer.lr=-1", says("training.optimizer.lr=-1", "above 0")),
    ("training.optimizer.lr=.inf", says("training.optimizer.lr=inf", "finite")),
    (
        "training.optimizer.lr=[.1, .nan, .1, .1, .1]",
        says("training.optimizer.lr=[0.1, nan, 0.1, 0.1, 0.1]", "above 0"),
    ),
    ("training.optimizer.momentum=1", says("training.optimizer.momentum=1", "[0, 1)")),
    ("training.optimizer.weight_decay=-0.1", says("training.optimizer.weight_decay=-0.1", "at least 0")),
    ("training.optimizer.clip=0", says("training.optimizer.clip=0", "above 0")),
    ("training.schedule.warmup=.nan", says("training.schedule.warmup=nan", "[0, 1)")),
    ("training.schedule.steps=[0.7, 0.5]", says("training.schedule.steps=[0.7, 0.5]", "rising")),
    ("training.schedule.gamma=0", says("training.schedule.gamma=0", "above 0")),
    ("resources.cpus=.inf", says("resources.cpus=inf", "finite")),
    ("resources.gpus=-1", says("resources.gpus=-1", "at least 0")),
    ("resources.threads=0", says("resources.threads=0", "above 0")),
    ("checkpoint.keep=0", says("checkpoint.keep=0", "above 0")),
    ("ray.max_failures=-1", says("ray.max_failures=-1", "at least 0")),
    ("ray.max_concurrent=0", says("ray.max_concurrent=0", "above 0")),
    ("benchmark.split_digits.validation=1", says("benchmark.split_digits.validation=1", "[0, 1)")),
    ("benchmark.split_digits.validation=.nan", says("benchmark.split_digits.validation=nan")),
    ("model.mlp.dropout=1", says("model.mlp.dropout=1", "[0, 1)")),
    ("model.mlp.hidden=[0]", says("model.mlp.hidden=[0]", "above 0")),
    ("strategies.lwf.weight=.inf", says("strategies.lwf.weight=inf", "finite")),
    ("strategies.replay.memory=-1", says("strategies.replay.memory=-1", "at least 0")),
    ("strategies.early_stopping.patience=0", says("strategies.early_stopping.patience=0", "above 0")),
    # values that do not fit the stream, the network or the machine
    ("benchmark.split_digits.num_experiences=11", says("benchmark.split_digits.num_experiences=11", "10")),
    ("benchmark.split_digits.num_experiences=3", says("benchmark.split_digits.num_experiences=3", "1, 2, 5, 10")),
    ("benchmark.split_digits.class_order=[0, 1]", says("benchmark.split_digits.class_order", "0 to 9")),
    ("training.epochs=[1, 2]", says("training.epochs=[1, 2]", "number 5")),
    ("training.optimizer.lr=[1, 1, 1, 1, 1, 1]", says("training.optimizer.lr=[1.0,", "6 values for 5")),
    ("training.optimizer.clip=[1]", says("training.optimizer.clip=[1.0]", "number 5")),
    ("strategies.lwf.weight=[1, 2]", says("strategies.lwf.weight=[1.0, 2.0]", "5 numbers")),
    ("strategies.replay.memory=3", says("strategies.replay.memory=3", "at least 10")),
    ("strategies.freezing.from_experience=7", says("strategies.freezing.from_experience=7", "below 5")),
    ("strategies.freezing.layers=[x.*]", says("strategies.freezing.layers=['x.*']", "trunk.1")),
    ("model={small_cnn: {channels: [4, 4, 4, 4]}}", says("model.small_cnn.channels=[4, 4, 4, 4]", "16 pixels")),
    ("strategies={joint: {}, replay: {}}", says("strategies: joint and replay cannot run together")),
    ("data.root=not-there", says("data.root=not-there", "no such folder")),
    (f"strategies={{{EWC}: {{ewc_lamda: 1}}}}", says("EWCPlugin.ewc_lamda", "'ewc_lambda'?")),
    (f"strategies.{EWC}.mode=online", says("EWCPlugin", "'ewc_lambda'")),
    (
        "strategies={avalanche.training.plugins.EWC: {}}",
        says("strategies.avalanche.training.plugins.EWC:", "attribute"),
    ),
    (
        "strategies={avalanche.training.plugins.EarlyStoppingPlugin: {patience: 1}}",
        says("EarlyStoppingPlugin", "strategies.early_stopping"),
    ),
    # malformed overrides
    ("epochs", says("override 'epochs'", "key=value")),
    ("=3", says("override '=3'", "key=value")),
    ("training.epochs=[", says("override 'training.epochs=['", "YAML")),
    ("training.epochs=!!python/name:os.system", says("training.epochs=", "python/name:os.system")),
    ("name=${oc.env:HOME}", says("name='${oc.env:HOME}'", "no resolvers")),
    ("name=${nowhere}", says("name", "'nowhere' not found")),
]


@pytest.mark.parametrize(("override", "parts"), OVERRIDES, ids=[override for override, _ in OVERRIDES])
def test_bad_override(override: str, parts: tuple[str, ...], here: Path) -> None:
    message = refused(BASE, [override], here)
    for part in parts:
        assert part in message
    assert message.count("\n") == 0 or "[1, '2'" in override or "YAML" in message


LR = "training.optimizer.lr"
FILES = [
    ("", says("config.yaml", "mapping", "empty file")),
    ("[1, 2]", says("config.yaml", "mapping", "list")),
    ("name: [", says("config.yaml", "not valid YAML", "line 1")),
    (BASE + "seed: !!python/object:os.system 1\n", says("config.yaml", "python/object:os.system", "line 6")),
    (BASE + "seed: !!python/object/apply:os.mkdir [out]\n", says("config.yaml", "python/object/apply:os.mkdir")),
    (BASE + "seed: !other 1\n", says("config.yaml", "'!other'")),
    (LAUGHS, says("config.yaml", "20000 values", "aliases")),
    (BASE + "seeds: &me\n  data: *me\n", says("config.yaml", "alias")),
    ("a: " + "[" * 5000 + "]" * 5000, says("config.yaml", "nested too deeply")),
    ("a: " + "x" * 1_000_001, says("config.yaml", "1000000 characters")),
    (BASE + "seed: 1\nseed: 2\n", says("config.yaml", "'seed' stands twice")),
    (BASE + "training: {epochs: 1, epochs: 2}\n", says("config.yaml", "'epochs' stands twice")),
    (BASE + "sweep: {variants: {a: {name: '${oc.env:HOME}'}}}\n", says("sweep.variants.a.name=", "no resolvers")),
    (BASE + "data: {root: 'x ${oc.env:HOME}'}\n", says("data.root='x ${oc.env:HOME}'", "no resolvers")),
    (BASE + "data: {root: '${seed} ${oc.env:HOME}'}\n", says("data.root='${seed} ${oc.env:HOME}'", "no resolvers")),
    (
        BASE + "data: {root: '${name}: ${x.${oc.env:HOME}}'}\n",
        says("data.root='${name}: ${x.${oc.env:HOME}}'", "no resol"),
    ),
    (BASE + "data: {root: '${${name}.env:HOME}'}\n", says("data.root='${${name}.env:HOME}'", "no resolvers")),
    (BASE + "data: {root: '${data.root}'}\n", says("data.root", "Recursive")),
    ("schema: 2\n" + BASE, says("schema=2", "schema 1")),
    ("benchmark: split_digits\nmodel: mlp\n", says("name: is missing")),
    ("name: t\nmodel: mlp\n", says("benchmark: is missing")),
    (BASE + "strategies: null\n", says("strategies=None")),
    (BASE + f"sweep: {{space: {{{LR}: {{logunifrm: [1, 2]}}}}}}\n", says(f"sweep.space.{LR}=", "'loguniform'?")),
    (BASE + f"sweep: {{space: {{{LR}: [1, 2]}}}}\n", says(f"sweep.space.{LR}=[1, 2]", "mapping")),
    (BASE + f"sweep: {{space: {{{LR}: {{uniform: [1, 0]}}}}}}\n", says(f"sweep.space.{LR}.uniform=[1, 0]", "smaller")),
    (BASE + f"sweep: {{space: {{{LR}: {{uniform: [0, .inf]}}}}}}\n", says(f"sweep.space.{LR}.uniform=[0, inf]")),
    (BASE + f"sweep: {{space: {{{LR}: {{uniform: ['0', 1]}}}}}}\n", says(f"sweep.space.{LR}.uniform=['0', 1]")),
    (BASE + f"sweep: {{space: {{{LR}: {{loguniform: [0, 1]}}}}}}\n", says(f"sweep.space.{LR}.loguniform=[0, 1]")),
    (BASE + f"sweep: {{space: {{{LR}: {{choice: []}}}}}}\n", says(f"sweep.space.{LR}.choice=[]", "list")),
    (BASE + f"sweep: {{space: {{{LR}: {{choice: [a]}}}}}}\n", says(f"{LR}='a'", "sweep (split_digits, t lr=a)")),
    (BASE + f"sweep: {{space: {{{LR}: {{choice: [1], grid: [2]}}}}}}\n", says(f"sweep.space.{LR}=", "one of")),
    (BASE + "sweep: {space: {training.epochs: {randint: [1.5, 3.5]}}}\n", says("randint=[1.5, 3.5]", "integers")),
    (BASE + "sweep: {space: {training.optmizer.lr: {grid: [1]}}}\n", says("training.optmizer", "'optimizer'?")),
    (BASE + "sweep: {space: {seed: {grid: [1, 2]}}}\n", says("sweep.space.seed", "sweep.seeds")),
    (BASE + "sweep: {variants: {a: {output: x}}}\n", says("sweep.variants.a.output", "whole sweep")),
    (BASE + "sweep: {variants: {a: {sweep: {seeds: [1]}}}}\n", says("sweep.variants.a.sweep", "whole sweep")),
    (BASE + "sweep: {variants: {a: {resources: {gpus: 1}}}}\n", says("sweep.variants.a.resources", "whole sweep")),
    (BASE + "sweep: {streams: {a: {seed: 3}}}\n", says("sweep.streams.a.seed", "whole sweep")),
    (BASE + "sweep: {variants: {a: {strategys: {}}}}\n", says("(split_digits, a)", "strategys", "'strategies'?")),
    (BASE + "sweep: {variants: {a: {}, b: {training: {epochs: [1]}}}}\n", says("(split_digits, b)", "epochs=[1]")),
    (BASE + "sweep: {streams: {s: {benchmark: {split_digits: {num_experiences: 4}}}}}\n", says("(s, t)", "=4")),
]


@pytest.mark.parametrize(("text", "parts"), FILES, ids=range(len(FILES)))
def test_bad_file(text: str, parts: tuple[str, ...], here: Path) -> None:
    message = refused(text, [], here)
    for part in parts:
        assert part in message


def test_there_are_enough_bad_configs() -> None:
    assert len(OVERRIDES) + len(FILES) >= 45


def test_a_requested_gpu_that_is_missing_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    (here / "mine.yaml").write_text(BASE)
    config = load_config(here / "mine.yaml", ["resources.gpus=0.5"])
    for start in (run, sweep):
        with pytest.raises(UserError) as error:
            start(config, here / "out")
        assert "resources.gpus=0.5" in str(error.value) and "no GPU" in str(error.value)
    assert not (here / "out").exists()


@pytest.mark.parametrize("validation", ["0", "0.0001"])
def test_early_stopping_without_validation(validation: str, here: Path) -> None:
    message = refused(
        BASE + "strategies: {early_stopping: {}}\n", [f"benchmark.split_digits.validation={validation}"], here
    )
    assert "benchmark.split_digits.validation" in message and "strategies.early_stopping" in message


def test_missing_data_set(here: Path) -> None:
    empty = here.parent / "data"
    empty.mkdir()
    message = refused(
        BASE, ["benchmark=split_mnist", f"data.root={empty}", f"data.cache={here.parent / 'cache'}"], here
    )
    assert str(empty) in message and "train-images-idx3-ubyte.gz" in message and "data.root" in message


def test_a_cache_that_cannot_be_written(here: Path) -> None:
    file = here.parent / "file"
    file.touch()
    assert f"data.cache={file}" in refused(BASE, [f"data.cache={file}"], here)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("quickstrat", says("config 'quickstrat'", "'quickstart'?")),
        ("nowhere.yaml", says("config 'nowhere.yaml'", "Shipped: ")),
        (".", says("config '.'")),
        ("", says("config ''")),
    ],
)
def test_unknown_config(name: str, parts: tuple[str, ...], here: Path) -> None:
    with pytest.raises(UserError) as error:
        load_config(name)
    assert all(part in str(error.value) for part in parts)


def test_a_file_that_is_not_text(here: Path) -> None:
    (here / "x.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="x.yaml: cannot be read"):
        load_config("x.yaml")


# --- merging, overrides and defaults ---


def loaded(*overrides: str, text: str = BASE) -> Experiment:
    """Return an experiment from plain data, without a file."""
    from retain.platform.config.yaml_overrides import apply_overrides

    return from_dict(apply_overrides(parse_yaml(text, "text"), overrides))


@pytest.mark.parametrize("name", config_names())
def test_shipped_config_loads_plans_and_survives_a_round_trip(name: str) -> None:
    experiment = load_config(name)
    assert from_dict(to_dict(experiment)) == experiment
    trials = plan(experiment)
    sweep = experiment.sweep
    num_points = len(search_points(sweep))
    assert len(trials) == max(1, len(sweep.streams)) * max(1, len(sweep.variants)) * num_points * len(sweep.seeds)
    assert len({trial.identity["id"] for trial in trials}) == len(trials)
    for trial in trials:
        assert from_dict(yaml.safe_load(yaml.safe_dump(to_dict(trial.config)))) == trial.config


def test_quickstart_is_accepted_by_every_check(here: Path) -> None:
    check_trials(plan(load_config("quickstart")))


def test_to_dict_gives_plain_data_with_the_schema_first() -> None:
    plain = to_dict(loaded("training.epochs=[1, 2, 3, 4, 5]", "strategies={lwf: {weight: 2.0}}"))
    assert next(iter(plain.items())) == ("schema", 1)
    assert plain["training"]["epochs"] == [1, 2, 3, 4, 5]
    assert from_dict(plain).training.epochs == (1, 2, 3, 4, 5)


@pytest.mark.parametrize(
    ("overrides", "key", "value"),
    [
        (["training.epochs=3"], "training.epochs", 3),
        (["training.epochs=3", "training.epochs=4"], "training.epochs", 4),
        (["training.optimizer.lr=1e-3"], "training.optimizer.lr", 1e-3),
        (["training.optimizer.lr=5E+1"], "training.optimizer.lr", 50.0),
        (["training.optimizer.lr=.5"], "training.optimizer.lr", 0.5),
        (["training.optimizer.lr=1"], "training.optimizer.lr", 1.0),
        (["training.optimizer={name: adam, lr: 0.1}"], "training.optimizer.lr", 0.1),
        (["training.optimizer.lr=0.3", "training.optimizer={name: adam}"], "training.optimizer.lr", 0.05),
        (["training.optimizer={name: adam}", "training.optimizer.lr=0.3"], "training.optimizer.name", "adam"),
        (["name=a=b"], "name", "a=b"),
        (["name='3'"], "name", "3"),
        (["wandb.project='${name}: it'"], "wandb.project", "t: it"),
        (["seed=7", "seeds.data=${seed}"], "seeds.data", 7),
        (["wandb.tags=[a, '${name}']"], "wandb.tags", ["a", "t"]),
        (["wandb.project=x-${name}-${seed}", "seed=2"], "wandb.project", "x-t-2"),
        (["strategies={lwf: {weight: 1.0}, replay: {}}"], "strategies", {"lwf": {"weight": 1.0}, "replay": {}}),
        (["strategies={lwf: {}}", "strategies.lwf.weight=2.0"], "strategies", {"lwf": {"weight": 2.0}}),
        (["strategies={lwf: {}}", "strategies={replay: {}}"], "strategies", {"replay": {}}),
        (["strategies=lwf"], "strategies", {"lwf": {}}),
        (["strategies={lwf: null}"], "strategies", {"lwf": {}}),
        ([f"strategies.{EWC}.ewc_lambda=1"], "strategies", {EWC: {"ewc_lambda": 1}}),
        (["benchmark=rotated_digits"], "benchmark", {"rotated_digits": {}}),
        (["benchmark.rotated_digits.validation=0.2"], "benchmark", {"rotated_digits": {"validation": 0.2}}),
        (["benchmark.split_digits.validation=0.2"], "benchmark", {"split_digits": {"validation": 0.2}}),
    ],
)
def test_override(overrides: list[str], key: str, value: Any) -> None:
    setting: Any = to_dict(loaded(*overrides))
    for part in key.split("."):
        setting = setting[part]
    assert setting == value


def test_overrides_take_precedence_over_the_file_and_the_file_over_defaults() -> None:
    text = BASE + "training: {epochs: 3, batch_size: 16}\n"
    training = loaded("training.epochs=4", text=text).training
    assert (training.epochs, training.batch_size, training.evaluation_batch_size) == (4, 16, 512)


def test_a_variant_overrides_its_stream_and_a_point_overrides_both() -> None:
    experiment = loaded(
        "sweep.streams={s: {training: {epochs: 2, batch_size: 8, iterations: 5}}}",
        "sweep.variants={v: {training: {epochs: 3, batch_size: 9}}}",
        "sweep.space={training.epochs: {grid: [4]}}",
    )
    (trial,) = plan(experiment)
    training = trial.config.training
    assert (training.epochs, training.batch_size, training.iterations) == (4, 9, 5)
    assert trial.identity["overrides"] == {"training": {"epochs": 4, "batch_size": 9, "iterations": 5}}
    assert (trial.identity["stream"], trial.identity["variant"]) == ("s", "v epochs=4")


@pytest.mark.parametrize(
    ("base", "over", "merged"),
    [
        ({"a": {"x": 1, "y": 2}}, {"a": {"y": 3}}, {"a": {"x": 1, "y": 3}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": 1}, {"a": {"x": 1}}, {"a": {"x": 1}}),
        ({"strategies": {"a": {}}}, {"strategies": {"b": {}}}, {"strategies": {"a": {}, "b": {}}}),
        ({"model": {"a": {"x": 1}}}, {"model": {"b": {}}}, {"model": {"b": {}}}),
        ({"model": {"a": {"x": 1}}}, {"model": {"a": {"y": 2}}}, {"model": {"a": {"x": 1, "y": 2}}}),
        ({"model": "a"}, {"model": {"a": {"y": 2}}}, {"model": {"a": {"y": 2}}}),
        ({"benchmark": {"a": {"x": 1}}}, {"benchmark": "b"}, {"benchmark": {"b": {}}}),
    ],
)
def test_merge(base: dict[str, Any], over: dict[str, Any], merged: dict[str, Any]) -> None:
    before = repr((base, over))
    assert merge(base, over) == merged
    assert repr((base, over)) == before


def test_resolving_fills_in_the_defaults() -> None:
    experiment = resolve_experiment(loaded("strategies={lwf: {weight: 2}, replay: {}}")).experiment
    assert experiment.benchmark["split_digits"].items() >= {"num_experiences": 5, "class_order": None}.items()
    assert experiment.benchmark["split_digits"].items() >= {"validation": 0.1, "imbalance": None}.items()
    assert experiment.strategies["lwf"] == {"weight": 2.0, "temperature": 2.0, "loss": "kl"}
    assert list(experiment.strategies) == ["lwf", "replay"]
    assert experiment.model["mlp"]["hidden"] == [256, 256]
    assert resolve_experiment(experiment).experiment == experiment
    assert from_dict(to_dict(experiment)) == experiment


def test_each_seed_is_a_trial_with_otherwise_shared_settings() -> None:
    trials = plan(loaded("sweep.seeds=[3, 5]", "sweep.variants={a: {}, b: {strategies: {lwf: {}}}}"))
    assert [(t.identity["variant"], t.config.seed, t.identity["seed"]) for t in trials] == [
        ("a", 3, 3),
        ("a", 5, 5),
        ("b", 3, 3),
        ("b", 5, 5),
    ]
    assert all(trial.config.sweep == Sweep() for trial in trials)


# --- the search space ---

SPACE: dict[str, Any] = {
    "training.optimizer.lr": {"loguniform": [1e-4, 1e-1]},
    "training.optimizer.momentum": {"uniform": [0.5, 0.9]},
    "training.epochs": {"randint": [1, 4]},
    "training.optimizer.name": {"choice": ["sgd", "adam"]},
    "training.batch_size": {"grid": [16, 32]},
    "model.mlp.hidden": {"grid": [[8], [16, 16], [32]]},
}


def test_search_points_are_the_grid_times_the_samples() -> None:
    points = search_points(Sweep(space=SPACE, samples=50))
    assert len(points) == 2 * 3 * 50
    cells = [(point["training.batch_size"], tuple(point["model.mlp.hidden"])) for point in points]
    assert {cells.count(cell) for cell in cells} == {50} and len(set(cells)) == 6
    rates = [point["training.optimizer.lr"] for point in points]
    assert all(1e-4 <= rate < 1e-1 for rate in rates) and len(set(rates)) == len(rates)
    below = sum(rate < math.sqrt(1e-4 * 1e-1) for rate in rates)  # half of a log-uniform draw
    assert 110 < below < 190
    assert all(0.5 <= point["training.optimizer.momentum"] < 0.9 for point in points)
    assert {point["training.epochs"] for point in points} == {1, 2, 3}  # the upper bound is left out
    assert {point["training.optimizer.name"] for point in points} == {"sgd", "adam"}
    assert all(type(value) in (int, float, str, list) for point in points for value in point.values())


def test_search_points_depend_on_the_space_seed_only() -> None:
    assert search_points(Sweep(space=SPACE, samples=3)) == search_points(Sweep(space=SPACE, samples=3, seeds=(7, 8)))
    assert search_points(Sweep(space=SPACE, samples=3)) != search_points(Sweep(space=SPACE, samples=3, space_seed=1))


def test_an_empty_search_space_is_one_point() -> None:
    assert search_points(Sweep()) == [{}]
    assert len(search_points(Sweep(space={"training.epochs": {"grid": [1, 2]}}))) == 2


def test_every_variant_gets_the_same_points() -> None:
    space = "sweep.space={training.optimizer.lr: {loguniform: [1e-3, 1e-1]}, training.epochs: {grid: [1, 2]}}"
    trials = plan(loaded(space, "sweep.samples=3", "sweep.variants={a: {}, b: {strategies: {lwf: {}}}}"))
    assert len(trials) == 12
    rates = {v: [t.config.training.optimizer.lr for t in trials if t.identity["variant"].startswith(v)] for v in "ab"}
    assert rates["a"] == rates["b"] and len(set(rates["a"])) == 6
    assert trials[0].identity["variant"].startswith("a epochs=1 lr=0.0")


def test_trial_ids_are_legal_names_and_sort_in_order() -> None:
    trials = plan(loaded("sweep.variants={'a/b: ü*?': {}, c: {}}", "sweep.seeds=[0, 1]", "sweep.streams={'../s': {}}"))
    ids = [trial.identity["id"] for trial in trials]
    assert ids == sorted(ids) and len(set(ids)) == 4
    assert all(os.path.basename(name) == name and name.isascii() and len(name) < 130 for name in ids)


# A config from Python: a dict, or a DictConfig as Hydra passes it.

PLAIN = {
    "name": "plain",
    "seed": 3,
    "benchmark": "split_digits",
    "model": {"mlp": {"hidden": [8]}},
    "training": {"epochs": 1, "optimizer": {"lr": 0.02}},
    "strategies": {"replay": {"memory": 20}},
}


def test_a_dict_and_a_dictconfig_are_what_the_file_is(tmp_path: Path) -> None:
    (tmp_path / "plain.yaml").write_text(yaml.safe_dump(PLAIN, sort_keys=False))
    expected = load_config(tmp_path / "plain.yaml", ["training.epochs=2"])
    assert load_config(PLAIN, ["training.epochs=2"]) == expected
    assert load_config(OmegaConf.create(PLAIN), ["training.epochs=2"]) == expected
    assert PLAIN["training"] == {"epochs": 1, "optimizer": {"lr": 0.02}}


def test_a_dictconfig_is_resolved_by_its_own_program() -> None:
    config = OmegaConf.create({**PLAIN, "training": {"epochs": "${seed}", "batch_size": "${twice:8}"}})
    OmegaConf.register_resolver("twice", lambda value: 2 * value, replace=True)
    assert load_config(config).training.epochs == 3
    assert load_config(config).training.batch_size == 16


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**PLAIN, "training": {"epochs": "???"}}, "training.epochs=???: has no value yet"),
        (OmegaConf.create({**PLAIN, "seed": "???"}), "seed=???: has no value yet"),
        (OmegaConf.create({**PLAIN, "seed": "${sed}"}), "seed: Interpolation key 'sed' not found"),
        ({**PLAIN, "trainig": {}}, "trainig: unknown key. Did you mean 'training'?"),
        ({**PLAIN, "output": Path("runs")}, "output=PosixPath('runs'): is a PosixPath, no plain YAML value"),
        ({**PLAIN, "seed": "${oc.env:HOME}"}, "only ${key} interpolations are allowed"),
    ],
)
def test_a_wrong_config_from_python_is_refused(config: Any, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        load_config(config)


HYDRA = """
import sys
import hydra
from omegaconf import DictConfig
from retain import run

@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(config: DictConfig) -> None:
    result = run(config, config.output)
    print("ACC", result.summary["task_agnostic"]["average_accuracy"])

main()
"""


def test_a_program_of_hydra_s_runs_a_trial(tmp_path: Path) -> None:
    """A @hydra.main function with config groups and overrides passes its config on as it is."""
    (tmp_path / "conf/model").mkdir(parents=True)
    rest = {key: value for key, value in PLAIN.items() if key != "model"}
    defaults = {"defaults": ["_self_", {"model": "small"}], "output": "out", "wandb": {"mode": "disabled"}}
    (tmp_path / "conf/config.yaml").write_text(yaml.safe_dump({**defaults, **rest}, sort_keys=False))
    (tmp_path / "conf/model/small.yaml").write_text("mlp: {hidden: [8]}\n")
    (tmp_path / "main.py").write_text(HYDRA)
    command = [sys.executable, "main.py", "training.epochs=2", "hydra.run.dir=.", "hydra.output_subdir=null"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0 and "ACC 0." in ended.stdout, ended.stderr
    written = yaml.safe_load((tmp_path / "out/config.yaml").read_text())
    assert written["training"]["epochs"] == 2 and written["strategies"]["replay"]["memory"] == 20
