"""Frequent mistakes in a config: each message says what to write instead."""

import os
from pathlib import Path
from typing import Any

import pytest

from retain.platform.config.load import load_config
from retain.platform.errors import UserError
from retain.platform.ledger.writer import TrialLedger
from retain.platform.sweep.plan import plan
from retain.platform.trial.run import identity_of

BASE = "name: t\nwandb: {mode: disabled}\n"
PARTS = BASE + "benchmark: split_digits\nmodel: mlp\n"
LR = "training.optimizer.lr"
BENCHMARK = BASE + "benchmark:\nsplit_digits:\n  num_experiences: 5\nmodel: mlp\n"

FILES: dict[str, tuple[str, str]] = {
    # an unindented block
    "unindented strategy": (PARTS + "strategies:\nlwf:\n  weight: 1\n", "strategies: is empty, and 'lwf' .*{lwf: {weight: 1}}}"),
    "unindented benchmark": (BENCHMARK, "benchmark: is empty, and 'split_digits'"),
    "unindented section": (PARTS + "training:\nepochs: 3\n", "training: is empty, and 'epochs' .*{training: {epochs: 3}}"),
    "unindented key": (PARTS + "training:\n  optimizer:\n  lr: 0.1\n", "training.optimizer: is empty, and 'lr' "),
    "unindented setting": (PARTS + "strategies:\n  lwf:\n  weight: 1\n", "strategies.weight=1: is not indented under 'lwf'"),
    "unindented variants": (PARTS + "sweep:\n  variants:\n  naive: {}\n", "sweep.variants: is empty, and 'naive' "),
    "unindented own strategy": (PARTS + "strategies:\nmy.strategy: {}\n", "strategies: is empty, and 'my.strategy' "),
    "empty section": (PARTS + "training:\n", "training=None: must be a mapping: leave it out, or indent its content"),
    # a list where a mapping belongs
    "list of strategies": (PARTS + "strategies: [lwf, ewc]\n", "without dashes and brackets: {lwf: {}, ewc: {}}"),
    "dashes": (PARTS + "strategies:\n- lwf\n- ewc: {weight: 2}\n", "{lwf: {}, ewc: {weight: 2}}"),
    "list of probes": (PARTS + "probes: [curves]\n", "{curves: {}}"),
    "list of one benchmark": (BASE + "benchmark: [split_digits]\nmodel: mlp\n", "{split_digits: {}}"),
    "section with dashes": (PARTS + "training:\n- epochs: 3\n- batch_size: 4\n", "{epochs: 3, batch_size: 4}"),
    "list of variants": (PARTS + "sweep: {variants: [a, b]}\n", "{a: {}, b: {}}"),
    # quotes, brackets, words
    "number in quotes": (PARTS + "training: {optimizer: {lr: '1e-3'}}\n", "lr='1e-3': must be .*: remove the quotes"),
    "numbers in quotes": (PARTS + "training: {optimizer: {lr: ['1e-3', '0.1']}}\n", "remove the quotes"),
    "setting in quotes": (PARTS + "strategies: {lwf: {weight: '2'}}\n", "strategies.lwf.weight='2': .*: remove the quotes"),
    "boolean in quotes": (PARTS + "tensorboard: 'true'\n", "remove the quotes"),
    "a word for a boolean": (PARTS + "tensorboard: 'yes'\n", "write true"),
    "a number as name": (PARTS.replace("name: t", "name: 3"), "name=3: must be a string: put it in quotes"),
    "numbers as tags": (PARTS.replace("disabled", "disabled, tags: [1, a]"), r"put each in quotes, \['1', a\]"),
    "a float for an integer": (PARTS + "training: {epochs: 1e1}\n", "write 10"),
    "a single value for a list": (PARTS + "training: {schedule: {steps: 0.5}}\n", r"write a list, \[0.5\]"),
    "a list for a single value": (PARTS + "seed: [3]\n", "write 3"),
    "commas without brackets": (PARTS + "sweep: {seeds: '0, 1'}\n", r"write a list, \[0, 1\]"),
    "a name for a section": (PARTS + "training: {optimizer: adam}\n", "write {name: adam}"),
    "one of several names for a section": (PARTS.replace("{mode: disabled}", "disabled"), "write {mode: disabled}"),
    # a search space
    "values without a kind": (PARTS + f"sweep: {{space: {{{LR}: [1, 2]}}}}\n", r"\[1, 2\]: must be .* Write {grid: \[1, 2\]}"),
    "a value without a kind": (PARTS + f"sweep: {{space: {{{LR}: 1}}}}\n", r"=1: must be .* Write {grid: \[1\]}"),
    "a variant's values": (PARTS + f"sweep: {{variants: {{a: {{space: {{{LR}: [1]}}}}}}}}\n", r"Write {grid: \[1\]}"),
    "a nested space": (PARTS + "sweep: {space: {training: {epochs: {grid: [1]}}}}\n", "has dots: training.epochs"),
    # keys with dots, nothing after the colon
    "a dotted key": (PARTS + "strategies.lwf.weight: 2\n", r"write {strategies: {lwf: {weight: VALUE}}}"),
    "a dotted key in a section": (PARTS + "training: {optimizer.lr: 2}\n", "write {optimizer: {lr: VALUE}}"),
    "a variant without settings": (PARTS + "sweep:\n  variants:\n    naive:\n", "naive=None: .*write {} if it has no content"),
    "no strategies": (PARTS + "sweep: {variants: {a: {strategies: null}}}\n", "{strategies: {NAME: null}} removes one"),
    # an interpolation
    "a misspelt key": (PARTS + "seed: ${training.epoch}\n", "'training.epoch' not found. Did you mean 'training.epochs'"),
    "a missing brace": (PARTS + "seed: ${training.epochs\n", r"seed: is no valid interpolation: write \${key}"),
    "a mark without quotes": (PARTS + "training: {epochs: ???}\n", "put a text that begins with . in quotes"),
    "a benchmark to be set": (BASE + "benchmark: ???\nmodel: mlp\n", r"benchmark=\?\?\?: has no value yet; set it"),
    # no space after the colon
    "section without space": (PARTS + "training:\n  epochs:1\n", "training='epochs:1': .*put a space after each colon"),
    "flow without space": (PARTS + "training: {epochs:1}\n", "Put a space after the colon of 'epochs:'"),
    "strategies without space": (PARTS + "strategies:\n  lwf:1\n", "put a space after each colon"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_mistake_in_a_file(name: str, tmp_path: Path) -> None:
    text, message = FILES[name]
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        plan(load_config(tmp_path / "config.yaml"))


LWF = {"strategies": {"lwf": {}}}
OVERRIDES: list[tuple[str, str, dict[str, Any]]] = [
    ("seeds=3", r"seeds=3: must be a mapping .*sweep: {seeds: \[0, 1, 2\]}", {}),
    ("seeds=[0,1]", r"sweep.seeds=\[0,1,2\]", {}),
    ("sweep.seeds=3", r"must be a list of seeds: write \[0, 1, 2\] for 3 seeds, \[3\] for one", {}),
    ("sweep.seeds=1", r"write \[0, 1, 2\] for 3 seeds, \[1\] for one", {}),
    ("epochs=5", "epochs: unknown key. Did you mean 'training.epochs'", {}),
    ("lr=.1", "'training.optimizer.lr'", {}),
    ("training.lr=.1", "'training.optimizer.lr'", {}),
    ("optimizer.lr=.1", "'training.optimizer'", {}),
    ("batchsize=5", "'training.batch_size'", {}),
    ("mode=offline", "'model' or 'wandb.mode'", {}),
    ("trainng.epochs=5", "'training'", {}),
    ("weight=1", "'strategies.lwf.weight'", LWF),
    ("weight=1", "'strategies.ewc.weight' or 'strategies.lwf.weight'", {"strategies": {"ewc": {}, "lwf": {}}}),
    ("hidden=[8]", "'model.mlp.hidden'", {}),
    ("num_experiences=5", "'benchmark.split_digits.num_experiences'", {}),
    ("lwf.weight=5", "'strategies.lwf'", {}),
    ("strategies.lwf=2", "must be a mapping of settings: weight, .*e.g. strategies.lwf.weight=VALUE", {}),
    ("model.hidden=[8]", "model.hidden=.*its key is model.NAME.hidden", {}),
    ("benchmark.num_experiences=5", "its key is benchmark.NAME.num_experiences", {}),
    (f"{'a.' * 50}b=1", "has 51 parts", {}),
    ("nothing_like_it=1", "unknown key. Known here: ", {}),
]


@pytest.mark.parametrize(("override", "message", "more"), OVERRIDES, ids=[each[0][:30] for each in OVERRIDES])
def test_a_mistake_in_an_override(override: str, message: str, more: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=message):
        load_config({"name": "t", "benchmark": "split_digits", "model": "mlp", **more}, [override])


SELF: dict[str, Any] = {}
SELF["a"] = SELF


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"sweep": {"variants": {1: {}}}}, "sweep.variants.1: the key 1 is no text"),
        ({"sweep": {"variants": {True: {}}}}, "the key True is no text"),
        ({"seed": 10**5000}, "seed: is too large"),
        ({"name": "caf\udce9"}, "name='caf.udce9': is not valid text"),
        ({"name": " "}, "name=' ': must not be blank"),
        ({"sweep": {"variants": {"": {}}}}, "variants='': a name must not be blank"),
        ({"sweep": {"variants": {"a": {}, "a ": {}}}}, "sweep.variants: 'a' and 'a ' look the same"),
        ({"sweep": {"streams": {"a\u0308": {}, "\u00e4": {}}}}, "sweep.streams: .* look the same: rename one"),
        ({"strategies": SELF}, "nested too deeply"),
    ],
)
def test_a_mistake_in_a_dict(more: dict[Any, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config({"name": "t", "benchmark": "split_digits", "model": "mlp"} | more)


def test_what_is_no_config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config({"name": "t", "benchmark": "split_digits", "model": "mlp"})
    TrialLedger.create(tmp_path / "trial", PARTS, identity_of(config)).close()
    (tmp_path / "empty").mkdir()
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mine.yaml").write_text(PARTS)
    (tmp_path / "link").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo")
    for name, message in {
        "trial": "`retain resume trial` continues it, `retain show trial` prints its config, and trial/config.yaml",
        "empty": "config 'empty': is a folder: give the path of a YAML file",
        "configs": "It has mine.yaml",
        "link": "is a link to nowhere",
        "fifo": "is no regular file",
        "quickstrat": "Did you mean 'quickstart'",
        "configs/mine.yml": "Did you mean 'configs/mine.yaml'",
        "configs/mine": "Did you mean 'configs/mine.yaml'",
        "~nobody-at-all/x.yaml": "neither a shipped name nor a file",
        "x" * 300: "neither a shipped name nor a file",
    }.items():
        with pytest.raises(UserError, match=message):
            load_config(name)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("l2sp", "For your file l2sp.py, put it into a folder, such as mine, and write mine.l2sp"),
        ("./l2sp.py", "For your file l2sp.py, put it into a folder"),
        ("mine/far.py", "For your file mine/far.py write mine.far. Known"),
        ("mine/near.py", "Known"),
        ("lwff.py", "Did you mean 'lwf'"),
    ],
)
def test_the_file_of_an_own_strategy_instead_of_its_dotted_path(
    name: str, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    for file in ("l2sp.py", "mine/far.py"):
        (tmp_path / file).touch()
    with pytest.raises(UserError, match=f"there is no such name. {advice}"):
        load_config({"name": "t", "benchmark": "split_digits", "model": "mlp", "strategies": name})
