"""Config keys that were renamed: refused in a user's file with the new name, translated in the config of an existing run.

A key is a dotted path from the top of a config, as in ``benchmark.rotated.drawn``; it may have wildcards.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

RENAMED = {  # old key -> its new last part
    "ray.timeout": "hang_timeout",
    "benchmark.rotated*.drawn": "num_random_angles",
    "strategies.budget": "stop_at_budget",
    "strategies.old_validation": "forgetting_stop",
}


def new_name(path: str) -> str | None:
    """Return the new path of a renamed key; None for any other."""
    for old, last in RENAMED.items():
        if fnmatchcase(path, old) and path.count(".") == old.count("."):
            return f"{path.rpartition('.')[0]}.{last}"
    return None


def hint(path: str) -> str:
    """Return `` It was renamed to X.`` for a renamed key, or an empty string."""
    name = new_name(path)
    return f" It was renamed to {name}." if name else ""


def translate(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's config with today's keys, in the same order; the overrides in its sweep section are translated too."""
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
    """A section of a config with new keys, at any depth."""
    found: dict[str, Any] = {}
    for key, value in section.items():
        path = f"{prefix}{key}"
        name = new_name(path)
        inner = _section(value, f"{path}.") if isinstance(value, Mapping) else value
        found[name.rpartition(".")[2] if name else str(key)] = inner
    return found


def _dotted(path: str) -> str:
    """A dotted path with each part that was renamed: ``strategies.budget.accuracy`` -> ``strategies.stop_at_budget.accuracy``."""
    parts = path.split(".")
    for end in range(1, len(parts) + 1):
        name = new_name(".".join(parts[:end]))
        if name:
            parts[end - 1] = name.rpartition(".")[2]
    return ".".join(parts)
