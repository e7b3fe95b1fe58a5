"""YAML of plain values: what is read, what is refused because versions of YAML differ, and that what is written is read back."""

import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from retain.platform.config.load import load_config, to_dict
from retain.platform.config.yaml_files import MAX_DEPTH, dump_yaml, parse_value, parse_yaml, read_yaml
from retain.platform.errors import UserError
from retain.platform.sweep.plan import plan

BASE = "name: t\nbenchmark: split_digits\nmodel: mlp\nwandb: {mode: disabled}\n"
DIGITS = "9" * 5000

READ: list[tuple[str, Any]] = [
    ("12", 12),
    ("-3", -3),
    ("+3", 3),
    ("0", 0),
    ("1_000_000", 1_000_000),
    ("18446744073709551615", 2**64 - 1),
    ("1.5", 1.5),
    ("1.", 1.0),
    (".5", 0.5),
    ("1e-3", 0.001),
    ("1E5", 100_000.0),
    ("1_000.5", 1000.5),
    (".inf", float("inf")),
    ("-.INF", float("-inf")),
    ("true", True),
    ("False", False),
    ("~", None),
    ("null", None),
    ("", None),
    ("=", "="),
    ("<<", "<<"),
    ("08", "08"),
    ("0o10", "0o10"),
    ("1:70", "1:70"),
    ("60s", "60s"),
    ("1.2.3", "1.2.3"),
    ("y", "y"),
    ("'on'", "on"),
    ('"010"', "010"),
    ("'2026-01-01'", "2026-01-01"),
    ("!!str 5", "5"),
    ("{'on': {'1': a}}", {"on": {"1": "a"}}),
    ("[[1, a], {b: null}]", [[1, "a"], {"b": None}]),
]


@pytest.mark.parametrize(("text", "value"), READ, ids=[text for text, _ in READ])
def test_plain_values(text: str, value: Any) -> None:
    read = parse_value(text, "text")
    assert (read, type(read)) == (value, type(value))


# YAML 1.1 reads these as something else than they look like, and 1.2 does not
AMBIGUOUS = [
    *("on", "Off", "YES", "no", "010", "00", "0x10", "0b1", "-017", "1:30", "190:20:30", "1:30.5", "1_0", "1_0.5"),
    *("2026-01-01", "2026-13-45", "2026-01-01 12:00:00", "2001-12-14t21:59:43.10-05:00"),
]


@pytest.mark.parametrize("text", AMBIGUOUS)
@pytest.mark.parametrize("form", ["{}", "a: {}", "[1, {}]", "a: {{b: {}}}", "{}: 1", "a: {{{}: 1}}"])
def test_values_and_keys_that_versions_of_yaml_read_differently_are_refused(text: str, form: str) -> None:
    with pytest.raises(UserError, match=r"^config.yaml, line 1, column \d+: ") as error:
        parse_value(form.format(text), "config.yaml")
    assert text in str(error.value) and "put it in quotes" in str(error.value)
    quoted = parse_value(form.format(f"'{text}'"), "config.yaml")
    assert text in str(quoted)


@pytest.mark.parametrize("key", ["1", "1.5", "true", "null", "~", "1e3", ".inf", "2026", "", "[a]", "{a: b}"])
@pytest.mark.parametrize("form", ["? {}\n: 1\n", "sweep:\n  variants:\n    ? {}\n    : a\n", "- ? {}\n  : 1\n"])
def test_keys_that_are_no_text_are_refused(key: str, form: str) -> None:
    with pytest.raises(UserError, match=r"config.yaml, line \d, column \d+: .*key.*text.*in quotes"):
        parse_value(form.format(key), "config.yaml")


@pytest.mark.parametrize(
    "override",
    [
        *("seed=010", "name=on", "sweep.variants={1: {}}", "training.epochs=1:30", f"seed={DIGITS}"),
        *("name={split}/{class}/*", "name=**/{class}/*"),  # as patterns of image folders are written
    ],
)
def test_overrides_follow_the_same_rules(override: str) -> None:
    with pytest.raises(UserError, match=r"^override '") as error:
        load_config({"name": "t", "benchmark": "split_digits", "model": "mlp"}, [override])
    assert len(str(error.value)) < 600
    assert DIGITS in override or "In a shell, quote the quotes" in str(error.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f"a: {DIGITS}", "line 1, column 4: 99999.*too large: an integer has at most 64 bits"),
        (f"a: -{2**64}", "too large"),
        ("a: 1e999", "1e999 is too large"),
        ("a: !!int abc", "abc is read"),
        ("a: !!float x", "x is read"),
        ("a: !!bool x", "x is read"),
        ("a: !!timestamp x", "x is read as a date"),
        ("a: !!null x", "the tag '!!null' is not allowed"),
        ("a: !!binary '%%'", "the tag '!!binary' is not allowed"),
        ("a: !!map [a]", "the tag '!!map' is not allowed"),
        ("a: !!seq {a: b}", "the tag '!!seq' is not allowed"),
        ("a: !!map x", "the tag '!!map' is not allowed"),
        ("a: !!set {a}", "the tag '!!set' is not allowed"),
        ("a: !!omap [x]", "the tag '!!omap' is not allowed"),
        ("a: !x y", "the tag '!x' is not allowed"),
        ("a:\n\tb: 1", "line 2, column 1: is not valid YAML: .*indent with spaces, not with tabs"),
        ("a: [1\nb: 2", "is not valid YAML: .*begins in line 1"),
        ("a: b: c", "line 1, column 5: is not valid YAML: .*check the indentation"),
        ("a:b\nc: 1", "line 2, column 2: is not valid YAML: .*space"),
        ("a: {class}/*.png", "is not valid YAML: .*put a text that begins with {"),
        ("a: @x", "line 1, column 4: is not valid YAML: .*quotes"),
        ("a: *x", "line 1, column 4: is not valid YAML: .*quotes"),
        ("a: 1\n---\nb: 2", "line 2, column 1: is not valid YAML: .*remove the line ---"),
        ("a: \0", r"line 1, column 4: is not valid YAML: .*#x0000.*UTF-8"),
        ("a: \udcff", "not valid text"),
        ("a: " + "[" * 20_000, "nested too deeply"),
        ("a: " + "{a: " * MAX_DEPTH + "1" + "}" * MAX_DEPTH, "nested too deeply"),
    ],
)
def test_errors_name_the_source_and_the_place_in_one_sentence(text: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem) as error:
        parse_value(text, "config.yaml")
    assert str(error.value).startswith("config.yaml") and "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("text", "problem"),
    [("", "an empty file"), ("a:1\nb:2", "put a space after each colon"), ("- a", "not list"), ("5", "not int")],
)
def test_a_file_must_be_a_mapping(text: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        parse_yaml(text, "config.yaml")


@pytest.mark.parametrize("data", [b"\xff\xfen\0a\0", b"name: \xe9", b"x" * 5_000_000])
def test_files_that_are_not_utf_8_or_too_large(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(data)
    with pytest.raises(UserError, match=r"x.yaml: (cannot be read: save it as UTF-8|has more than)"):
        read_yaml(tmp_path / "x.yaml")


MERGE = """
weak: &weak {strategies: {lwf: {weight: 0.1}}, training: {label_smoothing: 0.1}}
other: &other {training: {epochs: 9}, seed: 3}
"""


@pytest.mark.parametrize(
    ("text", "merged"),
    [
        ("<<: *weak", {"strategies": {"lwf": {"weight": 0.1}}, "training": {"label_smoothing": 0.1}}),
        ("training: {epochs: 2}\n  <<: *weak", {"strategies": {"lwf": {"weight": 0.1}}, "training": {"epochs": 2}}),
        ("<<: [*other, *weak]", {"strategies": {"lwf": {"weight": 0.1}}, "training": {"epochs": 9}, "seed": 3}),
        ("<<: [*weak, *other]\n  strategies: 4", {"strategies": 4, "training": {"label_smoothing": 0.1}, "seed": 3}),
        ("<<: {<<: *other, seed: 5}", {"training": {"epochs": 9}, "seed": 5}),
        ("'<<': 1", {"<<": 1}),
    ],
)  # fmt: skip
def test_merge_keys(text: str, merged: dict[str, Any]) -> None:
    read = parse_yaml(f"{MERGE}longer:\n  {text}\n", "config.yaml")
    assert read["longer"] == merged
    assert read["weak"]["training"] == {"label_smoothing": 0.1}
    if (
        "[" not in text and "'" not in text
    ):  # in lists PyYAML 6.0.4 lets later mappings win; the specification says the earlier
        assert yaml.safe_load(f"{MERGE}longer:\n  {text}\n") == read


@pytest.mark.parametrize("text", ["<<: 1", "<<: [1]", "<<: *weak\n  <<: *other", "<<: [[*weak]]"])
def test_wrong_merge_keys(text: str) -> None:
    with pytest.raises(UserError, match=r"config.yaml, line \d, column \d+: .*<<"):
        parse_yaml(f"{MERGE}longer:\n  {text}\n", "config.yaml")


def test_a_sweep_with_merge_keys(tmp_path: Path) -> None:
    (tmp_path / "merge.yaml").write_text(
        BASE + "sweep:\n  variants:\n    weak: &weak\n      strategies: {lwf: {weight: 0.1}}\n"
        "    longer:\n      <<: *weak\n      training: {epochs: 2}\n"
    )
    weak, longer = (trial.config for trial in plan(load_config(tmp_path / "merge.yaml")))
    assert weak.strategies == longer.strategies and weak.strategies["lwf"]["weight"] == 0.1
    assert (weak.training.epochs, longer.training.epochs) == (10, 2)


AWKWARD = [
    *AMBIGUOUS,
    *(text for text, _ in READ),
    *("a: b", "- a", "{a}", "[", "*a", "&a", "!a", "%a", "@a", "`a", "a #b", "#", "'", '"', "\\", "|", ">", "?", "---"),
    *("...", " a ", "a\nb", "\t", "\x00\x1b[31m\x7f\x85", "\u2028\u202e\ufeff", "größe 实验 😀", "1e400", DIGITS),
]


def test_what_is_written_is_read_back() -> None:
    keys = {text: {"nested": [text]} for text in AWKWARD}
    data = {"values": AWKWARD, "keys": keys, "others": [0, -1, 1e-3, 1e22, 2**63, True, None, [], {}]}
    text = dump_yaml(data)
    assert parse_yaml(text, "text") == data
    assert yaml.safe_load(text) == data  # also by any reader of YAML 1.1


@pytest.mark.parametrize("name", [text for text in AWKWARD if text.strip()])
def test_awkward_names_survive_config_yaml(name: str) -> None:
    config = load_config({"name": name, "benchmark": "split_digits", "model": "mlp", "sweep": {"variants": {name: {}}}})
    assert load_config(parse_yaml(dump_yaml(to_dict(config)), "config.yaml")) == config


PIECES = (
    *("on", "~", "<<: *a", "&a ", "*a", "!!int ", "!", "%", "@", "{", "}", "[", "]", ": ", "- ", "\t", "\n", "\n  ", "'", '"'),
    *("???", "${a}", "${", "${seed}", "${x:y}", "\\", "0x10", "9" * 30, "1e999", ".nan", "null", "2026-13-45", "=", "| ", "? "),
    *("---", "#", "\0", "\x1b", "\ufeff", "a.b", "..", "null: 1", "strategies", "lwf", "sweep", "space", "variants", '"\\ud800"'),
)  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_mutated_configs_are_loaded_or_refused(seed: int, tmp_path: Path) -> None:
    rng, config = random.Random(seed), tmp_path / "config.yaml"
    original = BASE + (
        "strategies:\n  lwf: &a {weight: 0.1}\ntraining:\n  epochs: 2\n  optimizer: {lr: [1e-3]}\nseeds: {data: 1}\n"
        "sweep:\n  seeds: [0, 1]\n  variants:\n    naive: {}\n    more: {strategies: {lwf: *a}}\n"
    )
    for _ in range(60):
        text = original
        for _ in range(rng.randint(1, 3)):
            at, until = sorted((rng.randrange(len(text) + 1), rng.randrange(len(text) + 1)))
            piece = rng.choice((*PIECES, *PIECES, "", text[at:until]))
            text = text[:at] + piece + text[rng.choice((at, min(until, at + 9))) :]
        config.write_text(text)
        try:
            load_config(config)
        except UserError as error:
            assert str(error)
