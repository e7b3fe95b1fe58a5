"""`retain list`: each strategy, benchmark, data set, model, probe and shipped config with a summary line and its settings."""

from dataclasses import MISSING, dataclass, fields
from typing import Any

from ..config import registry
from ..config.load import config_names, config_path
from ..config.yaml_overrides import read_yaml

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
    return Entry(name, line, tuple(_setting(field) for field in fields(config)))


def _augmentation() -> list[Entry]:
    """The presets, then the transformations."""
    from ..data.augmentation.presets import PRESETS, TRANSFORMATIONS

    presets = [
        Entry(name, "Preset: " + ", ".join(key for item in items for key in item) + ".", ())
        for name, items in PRESETS.items()
    ]
    return presets + [_entry(name, TRANSFORMATIONS[name]) for name in sorted(TRANSFORMATIONS)]


def _setting(field: Any) -> str:
    kind = field.type if isinstance(field.type, str) else getattr(field.type, "__name__", None)
    if not isinstance(field.type, type):
        kind = str(field.type).replace("typing.", "").replace("collections.abc.", "")
    default = field.default if field.default is not MISSING else "required"
    return f"{field.name}: {kind} = {default}"


def _config_line(name: str) -> str:
    """The comment in a config's first line, or else its benchmark."""
    first = config_path(name).read_text(encoding="utf-8").splitlines()[0]
    if first.startswith("#"):
        return first.lstrip("# ")
    return f"benchmark {read_yaml(config_path(name)).get('benchmark')}"
