"""`retain list`: each strategy, benchmark, data set, model, probe and shipped config with a summary line and its settings."""

import types
from dataclasses import MISSING, dataclass, fields
from typing import Any, Union, get_args, get_origin, get_type_hints

from ..config import registry
from ..config.load import config_names, config_path
from ..config.yaml_files import read_yaml

KINDS = ("strategies", "benchmarks", "datasets", "models", "probes", "augmentation", "configs")


@dataclass(frozen=True, slots=True)
class Entry:
    """A name with a summary line and its settings as ``name: type = default``."""

    name: str
    line: str
    settings: tuple[str, ...]


def list_entries(kind: str) -> list[Entry]:
    """Return the entries of a kind in KINDS, sorted by name."""
    if kind == "configs":
        return [Entry(name, _config_line(name), ()) for name in config_names()]
    if kind == "augmentation":
        return _augmentation()
    kind = "networks" if kind == "models" else kind  # the YAML's key is `model`; the registry's word is networks
    names = registry.names(kind)  # type: ignore[arg-type]
    return [_entry(name, registry.resolve(kind, name).Config) for name in names]  # type: ignore[arg-type]


def _entry(name: str, config: Any) -> Entry:
    """The entry of a name: the first docstring line and the fields of its settings' dataclass."""
    line = (config.__doc__ or "").strip().splitlines()[0]
    hints = get_type_hints(config)  # without the constraints
    return Entry(name, line, tuple(_setting(field, hints[field.name]) for field in fields(config)))


def _augmentation() -> list[Entry]:
    """The presets, then the transformations."""
    from ..data.augmentation.presets import PRESETS, TRANSFORMATIONS

    presets = [
        Entry(name, "Preset: " + ", ".join(key for item in items for key in item) + ".", ())
        for name, items in PRESETS.items()
    ]
    return presets + [_entry(name, TRANSFORMATIONS[name]) for name in sorted(TRANSFORMATIONS)]


def _setting(field: Any, hint: Any) -> str:
    default = field.default if field.default is not MISSING else "required"
    return f"{field.name}: {_type_name(hint)} = {default}"


def _type_name(hint: Any) -> str:
    """Return a type as in the source: ``int | None``, ``tuple[float, ...]``."""
    if get_origin(hint) in (Union, types.UnionType):
        return " | ".join(_type_name(member) for member in get_args(hint))
    if hint is type(None):
        return "None"
    plain = isinstance(hint, type) and not get_args(hint)
    return hint.__name__ if plain else str(hint).replace("typing.", "").replace("collections.abc.", "")


def _config_line(name: str) -> str:
    """The comment in a config's first line, or else its benchmark."""
    first = config_path(name).read_text(encoding="utf-8").splitlines()[0]
    if first.startswith("#"):
        return first.lstrip("# ")
    return f"benchmark {read_yaml(config_path(name)).get('benchmark')}"
