"""Renamed config keys: a user's file with an old key is refused with the new name; an older run's config is translated.

A key is a dotted path from the top of a config, such as ``benchmark.rotated.drawn``. It may have wildcards.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

RENAMED = {  # old key -> its new last part
    "ray.timeout": "hang_timeout",
    "benchmark.rotated*.drawn": "num_random_angles",
    "strategies.budget": "stop_at_budget",
    "strategies.old_validation": "forgetting_stop",
    "model.small_cnn.batch_norm": "norm",
}
_VALUES: dict[str, dict[Any, Any]] = {  # old key -> its values that were renamed too
    "model.small_cnn.batch_norm": {True: "batch", False: None},
}


def new_name(path: str) -> str | None:
    """Return the new path of a renamed key; None for any other key."""
    for old, last in RENAMED.items():
        if fnmatchcase(path, old) and path.count(".") == old.count("."):
            return f"{path.rpartition('.')[0]}.{last}"
    return None


def hint(path: str) -> str:
    """Return `` It was renamed to X.`` for a renamed key, or an empty string."""
    name = new_name(path)
    return f" It was renamed to {name}." if name else ""


def translate(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's config with the current keys, in the same order; overrides in its sweep section are translated too."""
    translated = _section(config, "")
    sweep = translated.get("sweep")
    if not isinstance(sweep, Mapping):
        return translated
    sweep = dict(sweep)
    for part in ("variants", "streams"):
        if isinstance(sweep.get(part), Mapping):
            sweep[part] = {
                name: _section(overrides, "") if isinstance(overrides, Mapping) else overrides
                for name, overrides in sweep[part].items()
            }
    if isinstance(sweep.get("space"), Mapping):
        sweep["space"] = {_dotted(str(key)): domain for key, domain in sweep["space"].items()}
    return translated | {"sweep": sweep}


def _section(section: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return a section of a config with new keys, at any depth."""
    translated: dict[str, Any] = {}
    for key, value in section.items():
        path = f"{prefix}{key}"
        name = new_name(path)
        if isinstance(value, Mapping):
            value = _section(value, f"{path}.")
        elif path in _VALUES:
            value = _VALUES[path].get(value, value)
        translated[name.rpartition(".")[2] if name else str(key)] = value
    return translated


def _dotted(path: str) -> str:
    """Return a dotted path with the new names: ``strategies.budget.accuracy`` -> ``strategies.stop_at_budget.accuracy``."""
    parts = path.split(".")
    for end in range(1, len(parts) + 1):
        name = new_name(".".join(parts[:end]))
        if name:
            parts[end - 1] = name.rpartition(".")[2]
    return ".".join(parts)
