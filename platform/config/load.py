"""Load a checked `Experiment` from YAML and ``key=value`` overrides, and convert it back to plain data.

Names and the platform's keys are checked here, without torch. `trial.resolve.resolve_experiment` checks plugins' settings, which
needs their modules.
"""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from ..errors import UserError, comma_separated, nearest
from . import registry
from .plain_dataclass import build_plain, section_of
from .renamed import hint
from .schema import Experiment, Settings
from .settings import checked_values, is_settings
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
    if not is_settings(cls):
        plain: T = build_plain(cls, data, path)
        return plain
    values: dict[str, Any] = {}
    kind: Any = cls
    required = [each.name for each in fields(kind) if each.default is MISSING and each.default_factory is MISSING]
    problems = [f"{_joined(path, name)}: is missing." for name in required if name not in data]
    for name, value in data.items():
        section = section_of(get_type_hints(cls)[name])
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
        problems.extend(_sentence(_joined(path, line)) for line in str(error).splitlines())
    raise UserError("\n".join(problems))


def _check_keys(cls: Any, data: Any, path: str) -> None:
    """Refuse unknown keys, at any depth."""
    if not is_dataclass(cls) or not isinstance(data, Mapping):
        return
    hints = get_type_hints(cls)
    known = [field.name for field in fields(cls)]
    for key, value in data.items():
        where = _joined(path, key)
        if key not in known:
            suggestion = hint(where) or nearest(str(key), known)
            raise UserError(f"{where}: unknown key.{suggestion} Known here: {comma_separated(known) or 'none'}.")
        _check_keys(section_of(hints[key]), value, where)


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
    _check_plain(data, "")
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


def _check_plain(value: Any, path: str) -> None:
    """Refuse what YAML and JSON cannot hold, such as a Path or a NumPy number in a dict from Python."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_plain(item, _joined(path, key))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            _check_plain(item, f"{path}[{number}]")
    elif value is not None and type(value) not in (str, int, float, bool):
        raise UserError(
            f"{path}={value!r}: is a {type(value).__name__}, no plain YAML value (text, number, list, mapping)."
        )


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
    plain: dict[str, Any] = _plain(asdict(instance))
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
