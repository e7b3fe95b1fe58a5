"""Renamed config keys: a user's file with an old key is refused with the new name; an older run's config is translated.

A key is a dotted path from the top of a config, such as ``benchmark.rotated.drawn``. It may have wildcards.
"""

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

RENAMED = {  # old key -> its new last part
    "ray.timeout": "hang_timeout",
    "benchmark.rotated*.drawn": "num_random_angles",
    "probes.evaluate_on.streams.rotated*.drawn": "num_random_angles",
    "streams.rotated*.drawn": "num_random_angles",  # as the probe names it
    "strategies.budget": "stop_at_budget",
    "strategies.old_validation": "forgetting_stop",
    "model.small_cnn.batch_norm": "norm",
}
_VALUES: dict[str, dict[Any, Any]] = {  # old key -> its values that were renamed too
    "model.small_cnn.batch_norm": {True: "batch", False: None},
}


@lru_cache(10_000)  # a report asks for each key of thousands of configs
def new_name(path: str) -> str | None:
    """Return the new path of a renamed key; None for any other key. List items count as their list: ``a[0].b`` is ``a.b``."""
    plain = re.sub(r"\[\d+\]", "", path)
    for old, last in RENAMED.items():
        if fnmatchcase(plain, old) and plain.count(".") == old.count("."):
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
        sweep["space"] = {_dotted(str(key)): _domain(str(key), domain) for key, domain in sweep["space"].items()}
    return translated | {"sweep": sweep}


def _section(section: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return a section of a config with new keys, at any depth, in lists too."""
    translated: dict[str, Any] = {}
    for key, value in section.items():
        path = f"{prefix}{key}"
        name = new_name(path)
        translated[name.rpartition(".")[2] if name else str(key)] = _value(path, value)
    return translated


def _value(path: str, value: Any) -> Any:
    """Return the value of a key with new keys and values."""
    if isinstance(value, Mapping):
        return _section(value, f"{path}.")
    if isinstance(value, list | tuple):
        return [_value(path, item) for item in value]
    return _VALUES[path].get(value, value) if path in _VALUES else value


def _domain(path: str, domain: Any) -> Any:
    """Return a domain of a search space, such as ``{choice: [..]}``; its values may be whole sections."""
    if not isinstance(domain, Mapping):
        return domain
    return {
        kind: [_value(path, item) for item in values] if isinstance(values, list | tuple) else values
        for kind, values in domain.items()
    }


def _dotted(path: str) -> str:
    """Return a dotted path with the new names: ``strategies.budget.accuracy`` -> ``strategies.stop_at_budget.accuracy``."""
    parts = path.split(".")
    for end in range(1, len(parts) + 1):
        name = new_name(".".join(parts[:end]))
        if name:
            parts[end - 1] = name.rpartition(".")[2]
    return ".".join(parts)
