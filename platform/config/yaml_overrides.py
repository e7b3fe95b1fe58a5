"""Merge ``key=value`` overrides, and the overrides of a sweep's streams and variants, into plain data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UserError, comma_separated, nearest
from ..visible_text import shortened
from . import registry
from .interpolations import refuse_resolvers, resolve_interpolations, section_of_text
from .schema import DEFAULT_PROBES, Override
from .yaml_files import MAX_DEPTH, parse_value

_ONE_NAME = ("benchmark", "model")
MANY_NAMES = ("strategies", "probes")
_IN_SWEEP = ("variants", "streams")
KINDS: dict[str, registry.Kind] = {key: kind for kind, key in registry.KEYS.items() if kind != "datasets"}
# Sections whose keys are names: null in an override removes one.
_REMOVABLE = {*((key,) for key in MANY_NAMES), *(("sweep", key) for key in (*_IN_SWEEP, "space"))}


def apply_overrides(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Merge ``key.path=value`` overrides into plain data and resolve interpolations. Values are YAML.

    An override replaces the whole value of its key: after ``strategies={lwf: {}}`` lwf is the only strategy, while
    ``strategies.lwf.weight=2`` sets one value and keeps the rest. ``strategies.lwf=null`` removes lwf.

    Raises:
        UserError: an override is not ``key=value`` or its value is not YAML, or an interpolation fails.
    """
    return resolve_interpolations(merge_overrides(data, overrides)[0])


def merge_overrides(data: Mapping[str, Any], overrides: Sequence[str]) -> tuple[dict[str, Any], tuple[Override, ...]]:
    """Merge ``key.path=value`` overrides into plain data; return it, with its interpolations, and the overrides.

    Raises:
        UserError: an override is not ``key=value``, its value is not YAML, or it names what its variant or stream does not have.
    """
    refuse_resolvers(data)
    merged: Any = dict(data)
    applied: list[Override] = []
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UserError(f"override '{text}': must be key=value, e.g. training.epochs=5.")
        keys, content = split_key(key.strip()), _value(key, value)
        refuse_resolvers(content, key.strip())
        _check_part(merged, keys, text)
        adds = keys[0] == "strategies" and len(keys) > 1 and keys[1] not in names_in(merged.get("strategies"))
        if keys == ["strategies"]:  # it replaces what earlier ones have added
            applied = [each for each in applied if each.keys[0] != "strategies"]
        applied.append(Override(text, tuple(keys), keys[1] if adds else ""))
        merged = merge(merged, _nested(keys, _Replacement(content)))
    return merged, tuple(applied)


def split_key(key: str) -> list[str]:
    """Split a dotted key into the keys of nested mappings.

    A module's dotted path under strategies, benchmark, model or probes stays one key; so does a key of a search space.
    """
    parts = key.split(".")
    if len(parts) > MAX_DEPTH:
        raise UserError(f"{shortened(key, 80)}: has {len(parts)} parts; a key has at most {MAX_DEPTH}.")
    if parts[0] == "sweep" and len(parts) > 3 and parts[1] in _IN_SWEEP:
        return [*parts[:3], *split_key(".".join(parts[3:]))]
    if parts[:2] == ["sweep", "space"] and len(parts) > 2:
        return ["sweep", "space", ".".join(parts[2:])]
    if parts[0] == "space" and len(parts) > 1:  # of a variant or stream
        return ["space", ".".join(parts[1:])]
    if len(parts) > 3 and _is_dotted(parts[0], parts[1]):
        return [parts[0], ".".join(parts[1:-1]), parts[-1]]
    return parts


def nest_key(key: str, value: Any) -> dict[str, Any]:
    """Return nested mappings: ``a.b=1`` -> ``{a: {b: 1}}``; `split_key` says which dots separate keys."""
    return _nested(split_key(key), value)


def _nested(keys: Sequence[str], value: Any) -> dict[str, Any]:
    for key in reversed(keys):
        value = {key: value}
    return dict(value)


def _value(key: str, text: str) -> Any:
    """Return the value of an override, read as YAML; None for an empty one."""
    return parse_value(text, f"override '{key}={shortened(text, 80)}'") if text else None


@dataclass(frozen=True, slots=True)
class _Replacement:
    """A value that replaces the previous value of its key instead of merging with it."""

    value: Any


def _is_dotted(key: str, name: str) -> bool:
    """Return whether `name` starts a module's dotted path: `key` names plugins and no shipped one has this name.

    The settings of shipped plugins may be nested, so their dots separate keys.
    """
    return key in KINDS and name not in registry.names(KINDS[key])


def names_in(section: Any) -> list[str]:
    """Return the names in a section such as strategies or model, which may be a single name."""
    return [section] if isinstance(section, str) else list(section) if isinstance(section, Mapping) else []


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the overrides `over` into a config.

    Another benchmark or model replaces the previous one: there is one of each. Strategies and probes are added; null removes one.

    Raises:
        UserError: null names a strategy, probe, variant, ... that there is not, or a benchmark or model.
    """
    return _merge(base, over, (), base)


def combine(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Return the overrides `first`, then `second`, as one mapping of overrides; null stays null."""
    return _merge(first, second, (), None)


def _merge(
    base: Mapping[str, Any], over: Mapping[str, Any], path: tuple[str, ...], config: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Merge the mappings at `path`. `config`: the whole config, where null removes; None: null is kept."""
    merged = dict(base)
    for key, value in over.items():
        is_whole = isinstance(value, _Replacement)
        content = value.value if is_whole else value
        if content is None and config is not None and path in _REMOVABLE:
            _remove(merged, path, key)
        elif content is None and config is not None and len(path) == 1 and path[0] in _ONE_NAME:
            raise UserError(
                f"{path[0]}.{key}=null: write {path[0]}.{key}={{}} to keep its settings, or settings to change."
            )
        else:
            merged[key] = content if is_whole else _merged_value(merged.get(key), content, (*path, key), config)
    return merged


def _merged_value(base: Any, over: Any, path: tuple[str, ...], config: Mapping[str, Any] | None) -> Any:
    """Merge the values of one key."""
    is_part = len(path) > 3 and path[0] == "sweep" and path[1] in _IN_SWEEP  # of a variant or stream
    section = path[3:] if is_part else path
    is_one = len(section) == 1 and section[0] in _ONE_NAME
    if is_one or (len(section) == 1 and section[0] in MANY_NAMES):
        base, over = ({each: {}} if isinstance(each, str) and "${" not in each else each for each in (base, over))
    if config is not None and isinstance(base, Mapping):
        over = section_of_text(over, config)
    if not isinstance(over, Mapping):
        return over
    if config is not None:
        base = section_of_text(base, config)
    base = base if isinstance(base, Mapping) else {}
    if is_one:
        base = {name: settings for name, settings in base.items() if name in over}
    return _merge(base, over, path, config)


def _remove(section: dict[str, Any], path: tuple[str, ...], name: str) -> None:
    """Remove a name from a section; UserError if it is not there."""
    where = ".".join((*path, name))
    if path == ("probes",) and name in DEFAULT_PROBES:
        raise UserError(f"{where}=null: this probe is there by default; {where}.every=null turns it off.")
    if name not in section:
        raise UserError(
            f"{where}=null: there is nothing to remove.{nearest(name, section)} Here: {comma_separated(section) or 'none'}. "
            f"Default settings are {{}}: {name}: {{}}."
        )
    del section[name]


def _check_part(config: Mapping[str, Any], keys: Sequence[str], text: str) -> None:
    """Refuse an override inside a variant or stream that does not exist, or does not have the strategy, model or benchmark."""
    if keys[0] != "sweep" or len(keys) < 4 or keys[1] not in _IN_SWEEP:
        return
    sweep: Any = config.get("sweep")
    sections = {each: sweep.get(each) or {} for each in _IN_SWEEP} if isinstance(sweep, Mapping) else {}
    parts, what, name = sections.get(keys[1], {}), keys[1].removesuffix("s"), keys[2]
    where, parts = ".".join(keys[:3]), parts if isinstance(parts, Mapping) else {}
    if not isinstance(parts.get(name), Mapping):
        raise UserError(
            f"override '{shortened(text, 80)}': there is no {what} '{name}'.{nearest(name, parts)} "
            f"Here: {comma_separated(parts) or 'none'}. {where}={{...}} adds one."
        )
    section, plugin = keys[3], keys[4] if len(keys) > 5 else ""
    if not plugin or section not in ("strategies", *_ONE_NAME):
        return
    streams = sections["streams"].values() if keys[1] == "variants" and isinstance(sections["streams"], Mapping) else ()
    shared = [config, *(each for each in streams if isinstance(each, Mapping))]
    names = names_in(parts[name].get(section))
    if section == "strategies" or not names:
        names += [each for settings in shared for each in names_in(settings.get(section))]
    if plugin not in names:
        registry.check_name(KINDS[section], plugin)
        has, verb = comma_separated(set(names)) or "none", "adds" if section == "strategies" else "sets"
        raise UserError(
            f"override '{shortened(text, 80)}': there is no '{plugin}' in the {section} of the {what} '{name}', which has {has}. "
            f"{where}.{section}.{plugin}={{...}} {verb} it."
        )
