"""Load a checked `Experiment` from YAML and ``key=value`` overrides, and convert it back to plain data.

Names and the platform's keys are checked here, without torch. `trial.resolve.resolve_experiment` checks plugins' settings, which
needs their modules.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass, replace
from keyword import iskeyword
from pathlib import Path
from typing import Any, TypeVar

from ..errors import UserError, comma_separated, nearest
from ..visible_text import shortened
from . import registry
from .interpolations import has_interpolation, interpolations_of, plain_mapping, resolve_interpolations
from .mistakes import (
    named_settings,
    not_a_config,
    refuse_number_of_seeds,
    refuse_unindented,
    suggestion,
)
from .plain_dataclass import build_plain, section_of, type_hints
from .schema import Experiment, Origin, Settings
from .settings import checked_values, is_settings
from .yaml_files import MAX_DEPTH, MAX_INTEGER, read_yaml
from .yaml_overrides import KINDS, combine, merge_overrides

CONFIG_SCHEMA = 1
_CONFIGS = Path(__file__).resolve().parents[2] / "configs"
T = TypeVar("T")


def build_config(cls: type[T], data: Mapping[str, Any], path: str = "") -> T:
    """Build the dataclass `cls` from a mapping; types are strict (no ``"1"`` for 1), lists become tuples.

    Args:
        cls: the dataclass.
        data: its values, nested as in the YAML.
        path: the dotted key of `data` in the config, for error messages.

    Raises:
        UserError: an unknown key (with the nearest known one), a wrong type or a refused value, each with its full path.
    """
    _check_keys(cls, data, path, {} if path else data)
    data = {field_name(key): value for key, value in data.items()}
    if not is_settings(cls):
        plain: T = build_plain(cls, data, path)
        return plain
    values: dict[str, Any] = {}
    kind: Any = cls
    required = [each.name for each in fields(kind) if each.default is MISSING and each.default_factory is MISSING]
    problems = [f"{_joined(path, key_name(name))}: is missing." for name in required if name not in data]
    for name, value in data.items():
        section = section_of(type_hints(cls)[name])
        try:
            nested = is_dataclass(section) and isinstance(value, Mapping)
            values[name] = build_config(section, value, _joined(path, name)) if nested else value
        except UserError as error:
            problems.append(str(error))
    try:
        values = checked_values(cls, values)
        if not problems:
            return cls(**values)
    except ValueError as error:
        problems.extend(_sentence(_joined(path, _with_key(line))) for line in str(error).splitlines())
    raise UserError("\n".join(problems))


def _check_keys(cls: Any, data: Any, path: str, root: Mapping[str, Any]) -> None:
    """Refuse unknown keys, at any depth. `root`: the whole config, for suggestions."""
    if not is_dataclass(cls) or not isinstance(data, Mapping):
        return
    hints = type_hints(cls)
    known = [key_name(field.name) for field in fields(cls) if field.repr]
    for key, value in data.items():
        where = _joined(path, key)
        if key not in known:
            meant = suggestion(where, str(key), known, root)
            raise UserError(
                f"{shortened(where, 80)}: unknown key.{meant} Known here: {comma_separated(known) or 'none'}."
            )
        _check_keys(section_of(hints[field_name(key)]), value, where, root)


def field_name(key: str) -> str:
    """Return the name of a key's field: a keyword of Python, such as ``from``, has an underscore after it."""
    return f"{key}_" if iskeyword(key) else key


def key_name(field: str) -> str:
    """Return the key of a field; the inverse of `field_name`."""
    return field[:-1] if field.endswith("_") and iskeyword(field[:-1]) else field


def _with_key(line: str) -> str:
    """Return a problem that begins with a field's name, with the name of its key."""
    field = re.match(r"\w*", line)[0]  # type: ignore[index]  # it matches any text
    return key_name(field) + line[len(field) :]


def _joined(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _sentence(line: str) -> str:
    return line if line.endswith(("?", ".")) else f"{line}."


def config_names() -> list[str]:
    """Return the names of the shipped experiment files, sorted."""
    return sorted(path.relative_to(_CONFIGS).with_suffix("").as_posix() for path in _CONFIGS.rglob("*.yaml"))


def config_path(name: str) -> Path:
    """Return the path of a shipped config's file, or `name` as a path; UserError if neither exists."""
    shipped = _CONFIGS / f"{name}.yaml"
    if os.path.isfile(shipped):  # False for a name that no file can have
        return shipped
    path = Path(os.path.expanduser(name))
    if os.path.isfile(path):
        return path
    if problem := not_a_config(name, path):
        raise UserError(problem)
    known = config_names()
    folder = os.path.dirname(name)
    files = sorted(path.parent.glob("*.y*ml")) if os.path.isdir(path.parent) else []
    near = nearest(name, [*known, *(os.path.join(folder, file.name) for file in files)])
    raise UserError(
        f"config '{shortened(name, 80)}': neither a shipped name nor a file.{near} Shipped: {comma_separated(known)}."
    )


def load_config(config: str | Path | Mapping[Any, Any], overrides: Sequence[str] = ()) -> Experiment:
    """Read a config, apply overrides, resolve interpolations, and check names and the platform's keys.

    A sweep resolves the interpolations again for each of its trials.

    Args:
        config: a shipped config's name, the path of a YAML file, or the config itself: a dict, or OmegaConf's DictConfig as Hydra
            passes it.
        overrides: ``key=value`` with dotted keys and YAML values, e.g. ``training.epochs=5``.

    Raises:
        UserError: with the key's full path, the value, and what is allowed.
    """
    data = plain_mapping(config) if isinstance(config, Mapping) else read_yaml(config_path(str(config)))
    _check_plain(data, "")
    merged, applied = merge_overrides(data, overrides)
    resolved = resolve_interpolations(combine(_defaults(), merged)) if has_interpolation(merged) else merged
    experiment = from_dict({key: resolved[key] for key in merged})
    written = interpolations_of({key: value for key, value in merged.items() if key not in ("schema", "sweep")})
    values = plain_data(experiment)
    interpolations = tuple((keys, value, value_of(values, keys)) for keys, value in written)
    return replace(experiment, origin=Origin(interpolations, applied))


def _defaults() -> dict[str, Any]:
    """Return the schema's defaults, which an interpolation may name; plugins' settings have theirs in modules."""
    plain = plain_data(Experiment(name="defaults", benchmark={}, model={}))
    left_out = ("name", "benchmark", "model", "strategies", "probes", "origin")
    return {key: value for key, value in plain.items() if key not in left_out}


def as_experiment(config: Experiment | Mapping[Any, Any]) -> Experiment:
    """Return a loaded experiment as it is; load a dict or DictConfig."""
    return config if isinstance(config, Experiment) else load_config(config)


def from_dict(data: Mapping[str, Any]) -> Experiment:
    """Build and check an experiment from plain data, as `to_dict` returns it, without importing a plugin's module."""
    _check_plain(data, "")
    plain = dict(data)
    schema = plain.pop("schema", CONFIG_SCHEMA)
    if schema != CONFIG_SCHEMA:
        raise UserError(f"schema={schema!r}: this version of retain reads schema {CONFIG_SCHEMA}.")
    refuse_unindented(plain)
    refuse_number_of_seeds(plain)
    for key in KINDS:
        if key in plain:
            plain[key] = named_settings(key, plain[key])
    experiment = build_config(Experiment, plain)
    _check_one_name("benchmark", experiment.benchmark, "benchmarks")
    _check_one_name("model", experiment.model, "networks")
    for strategy in experiment.strategies:
        registry.check_name("strategies", strategy)
    for probe in experiment.probes:
        registry.check_name("probes", probe)
    return experiment


def _check_plain(value: Any, path: str, depth: int = MAX_DEPTH) -> None:
    """Refuse what YAML and JSON cannot hold, such as a Path, a NumPy number or a key that is no text in a dict from Python."""
    if depth == 0:
        raise UserError(f"{shortened(path, 80)}: is nested too deeply, or contains itself.")
    if isinstance(value, Mapping):
        for key, item in value.items():
            if type(key) is not str:
                raise UserError(f"{_joined(path, key)}: the key {key!r} is no text: put it in quotes.")
            _check_text(key, _joined(path, key))
            _check_plain(item, _joined(path, key), depth - 1)
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            _check_plain(item, f"{path}[{number}]", depth - 1)
    elif type(value) is str:
        _check_text(value, path)
    elif type(value) is int and abs(value) >= MAX_INTEGER:
        raise UserError(f"{path}: is too large: an integer has at most 64 bits.")
    elif value is not None and type(value) not in (str, int, float, bool):
        raise UserError(
            f"{path}={value!r}: is a {type(value).__name__}, no plain YAML value (text, number, list, mapping)."
        )


def _check_text(text: str, path: str) -> None:
    """Refuse text that no file in UTF-8 can hold, such as the name of a file in another encoding."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{ascii(path)[1:-1]}={text!r:.200}: is not valid text (UTF-8); rename it.") from None


def _check_one_name(key: str, value: Settings, kind: registry.Kind) -> None:
    """Refuse more or fewer than one benchmark or model, and an unknown name."""
    if len(value) != 1:
        raise UserError(f"{key}={list(value)}: must hold exactly one name, of {comma_separated(registry.names(kind))}.")
    registry.check_name(kind, next(iter(value)))


def to_dict(experiment: Experiment) -> dict[str, Any]:
    """Return the experiment as plain data for YAML and JSON, with the schema version first.

    `from_dict` reads that of a single trial (see `without_interpolations`); `load_config` reads any, with its ``${...}``.
    """
    plain = plain_data(experiment)
    del plain["origin"]
    for keys, written, value in experiment.origin.interpolations:
        if value_of(plain, keys) == value:  # otherwise it was replaced in Python
            value_of(plain, keys[:-1])[keys[-1]] = written
    return {"schema": CONFIG_SCHEMA, **plain}


def without_interpolations(experiment: Experiment) -> Experiment:
    """Return the experiment with its interpolations resolved from its present values, such as its `seed`."""
    if not experiment.origin.interpolations:
        return replace(experiment, origin=Origin())
    return from_dict(resolve_interpolations(to_dict(experiment)))


def value_of(data: Any, keys: Sequence[str]) -> Any:
    """Return the value at the end of `keys` in nested mappings; None if there is none."""
    for key in keys:
        data = data.get(key) if isinstance(data, Mapping) else None
    return data


def plain_data(instance: Any) -> dict[str, Any]:
    """Return a dataclass as plain data, with lists instead of tuples, as in YAML and JSON."""
    plain: dict[str, Any] = _plain(asdict(instance))
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key_name(str(key)): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
