"""Load a checked `Experiment` from YAML and ``key=value`` overrides, and convert it back to plain data.

Names and the platform's keys are checked here, without torch. `trial.resolve.check_plugins` checks a plugin's settings, which
needs its module.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from ..errors import UserError, comma_separated, nearest
from . import registry
from .renamed import hint
from .schema import Experiment, Settings
from .yaml_overrides import apply_overrides, plain_mapping, read_yaml

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
    _check_keys(cls, data, path)
    kind: Any = cls
    try:
        built: T = _adapter(kind).validate_json(json.dumps(data), strict=True)
        return built
    except ValidationError as error:
        raise UserError("\n".join(_messages(cls, error, path))) from None
    except TypeError as error:
        raise UserError(f"{path or 'config'}: holds something that is no plain YAML value: {error}.") from None


@cache  # building an adapter takes milliseconds, and each trial needs a dozen
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _check_keys(cls: Any, data: Any, path: str) -> None:
    """Refuse unknown keys, at any depth."""
    if not is_dataclass(cls) or not isinstance(data, Mapping):
        return
    hints = get_type_hints(cls)
    known = [field.name for field in fields(cls)]
    for key, value in data.items():
        where = f"{path}.{key}" if path else str(key)
        if key not in known:
            suggestion = hint(where) or nearest(str(key), known)
            raise UserError(f"{where}: unknown key.{suggestion} Known here: {comma_separated(known) or 'none'}.")
        _check_keys(_section(hints[key]), value, where)


def _section(hint: Any) -> Any:
    """Return the dataclass of a section that may be null."""
    return next((member for member in get_args(hint) if is_dataclass(member)), hint)


def _messages(cls: Any, error: ValidationError, path: str) -> list[str]:
    """Return pydantic's errors as sentences, one per key: a value that fits none of several types has several errors."""
    problems_of_key: dict[str, list[str]] = {}
    for item in error.errors():
        where, problem = _explain(cls, item, path)
        problems_of_key.setdefault(where, []).append(problem)
    lines = []
    for where, problems in problems_of_key.items():
        text = " or ".join([problems[0], *(problem.removeprefix(": must be ") for problem in problems[1:])])
        line = where + text
        lines.append(line if line.endswith(("?", ".")) else f"{line}.")
    return lines


def _explain(cls: Any, item: Any, path: str) -> tuple[str, str]:
    """Return the full path of a pydantic error's key, with its value, and the problem."""
    where = ".".join(([path] if path else []) + _keys(cls, item["loc"]))
    if item["type"] == "value_error":
        return (f"{where}." if where else "") + str(item["ctx"]["error"]), ""
    if item["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return where, ": is missing"
    value = item["input"]
    suggestion = nearest(str(value), item["ctx"]["expected"].split("'")) if item["type"] == "literal_error" else ""
    message = item["msg"].replace("Input should be", "must be")
    message = message.replace("an object", "a mapping").replace("array", "list")
    return f"{where}={value!r}", f": {message}{'.' if suggestion else ''}{suggestion}"


def _keys(cls: Any, location: Sequence[str | int]) -> list[str]:
    """Return the keys in the location of a pydantic error, without pydantic's names for a union's members."""
    keys: list[str] = []
    hint: Any = cls
    for part in location:
        if is_dataclass(hint) and part in get_type_hints(hint):
            hint = _section(get_type_hints(hint)[part])
        elif get_origin(hint) is Mapping:
            hint = get_args(hint)[1]
        elif not isinstance(part, int):
            continue
        keys.append(str(part))
    return keys


def config_names() -> list[str]:
    """Return the names of the shipped experiment files, sorted."""
    return sorted(path.relative_to(_CONFIGS).with_suffix("").as_posix() for path in _CONFIGS.rglob("*.yaml"))


def config_path(name: str) -> Path:
    """Return the path of a shipped config's file, or `name` as a path; UserError if neither exists."""
    shipped = _CONFIGS / f"{name}.yaml"
    if shipped.is_file():
        return shipped
    path = Path(name).expanduser()
    if path.is_file():
        return path
    known = config_names()
    raise UserError(
        f"config '{name}': neither a shipped name nor a file.{nearest(name, known)} Shipped: {comma_separated(known)}."
    )


def load_config(config: str | Path | Mapping[Any, Any], overrides: Sequence[str] = ()) -> Experiment:
    """Read a config, apply overrides, and check names and the platform's keys.

    Args:
        config: a shipped config's name, the path of a YAML file, or the config itself: a dict, or OmegaConf's DictConfig as Hydra
            passes it.
        overrides: ``key=value`` with dotted keys and YAML values, e.g. ``training.epochs=5``.

    Raises:
        UserError: with the key's full path, the value, and what is allowed.
    """
    data = plain_mapping(config) if isinstance(config, Mapping) else read_yaml(config_path(str(config)))
    return from_dict(apply_overrides(data, overrides))


def as_experiment(config: Experiment | Mapping[Any, Any]) -> Experiment:
    """Return a loaded experiment as it is; load a dict or DictConfig."""
    return config if isinstance(config, Experiment) else load_config(config)


def from_dict(data: Mapping[str, Any]) -> Experiment:
    """Build and check an experiment from plain data, as `to_dict` returns it, without importing a plugin's module."""
    plain = dict(data)
    schema = plain.pop("schema", CONFIG_SCHEMA)
    if schema != CONFIG_SCHEMA:
        raise UserError(f"schema={schema!r}: this version of retain reads schema {CONFIG_SCHEMA}.")
    for key in ("benchmark", "model", "strategies", "probes"):
        if key in plain:
            plain[key] = _settings_by_name(key, plain[key])
    experiment = build_config(Experiment, plain)
    _check_one_name("benchmark", experiment.benchmark, "benchmarks")
    _check_one_name("model", experiment.model, "networks")
    for strategy in experiment.strategies:
        registry.check_name("strategies", strategy)
    for probe in experiment.probes:
        registry.check_name("probes", probe)
    return experiment


def _settings_by_name(key: str, value: Any) -> Any:
    """Return a mapping of names to settings: ``benchmark: split_digits`` means ``benchmark: {split_digits: {}}``."""
    if isinstance(value, str):
        return {value: {}}
    if not isinstance(value, Mapping):
        raise UserError(f"{key}={value!r}: must be a name, or a mapping of a name to its settings.")
    for name, settings in value.items():
        if settings is not None and not isinstance(settings, Mapping):
            raise UserError(f"{key}.{name}={settings!r}: must be a mapping of settings.")
    return {str(name): dict(settings or {}) for name, settings in value.items()}


def _check_one_name(key: str, value: Settings, kind: registry.Kind) -> None:
    """Refuse more or fewer than one benchmark or model, and an unknown name."""
    if len(value) != 1:
        raise UserError(f"{key}={list(value)}: must hold exactly one name, of {comma_separated(registry.names(kind))}.")
    registry.check_name(kind, next(iter(value)))


def to_dict(experiment: Experiment) -> dict[str, Any]:
    """Return the experiment as plain data for YAML and JSON, with the schema version first; `from_dict` reads it."""
    return {"schema": CONFIG_SCHEMA, **plain_data(experiment)}


def plain_data(instance: Any) -> dict[str, Any]:
    """Return a dataclass as plain data, with lists instead of tuples, as in YAML and JSON."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(instance)))
    return plain
