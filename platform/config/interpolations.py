"""Interpolations such as ``${seed}``: OmegaConf resolves them; resolvers, which could read the environment, are refused.

A sweep puts other values into the keys that an interpolation names, so a sweep resolves them once more for each of its trials.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import (
    GrammarParseError,
    InterpolationKeyError,
    InterpolationResolutionError,
    InterpolationToMissingValueError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from ..errors import UserError, nearest
from ..visible_text import shortened

MISSING = "???"  # OmegaConf's mark of a value that must be set
_PER_TRIAL = ("variants", "streams", "space")  # keys of `sweep` that are resolved in each trial
Interpolation = tuple[tuple[str, ...], Any]  # the keys that lead to a value, and the value with its ``${...}``


def plain_mapping(config: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a dict of plain values; OmegaConf's DictConfig is resolved, with whatever resolvers its program registered.

    Raises:
        UserError: a value of a DictConfig is missing (``???``) or cannot be resolved.
    """
    if not OmegaConf.is_config(config):
        return {str(key): value for key, value in config.items()}
    return {str(key): _plain(config, key) for key in config}


def resolve_interpolations(data: Mapping[str, Any]) -> dict[str, Any]:
    """Resolve ``${key}``. A sweep's variants, streams and space stay as they are: each trial resolves them.

    Raises:
        UserError: a key does not exist or has no value yet, or there is a resolver (``${oc.env:HOME}``).
    """
    refuse_resolvers(data)
    if not has_interpolation(data):
        return {str(key): value for key, value in data.items()}
    made = _made(data)
    plain = {str(key): _plain(made, key) for key in data if key != "sweep"}
    sweep = data.get("sweep")
    if isinstance(sweep, Mapping):
        later = {key for key in _PER_TRIAL if isinstance(sweep.get(key), Mapping)}
        sweep = {str(key): value if key in later else _plain(made["sweep"], key) for key, value in sweep.items()}
    return {str(key): plain.get(str(key), sweep) for key in data}


def resolve_value(value: Any, root: Mapping[str, Any], path: str) -> Any:
    """Resolve the interpolations of one value, whose keys are those of `root`; `path` names it in errors.

    Raises:
        UserError: as `resolve_interpolations`.
    """
    return _plain(_made({**root, path: value}), path) if has_interpolation(value) else value


def section_of_text(text: Any, root: Mapping[str, Any]) -> Any:
    """Return a copy of the section that a text such as ``${sweep.variants.a.strategies}`` names; any other value as it is."""
    match = re.fullmatch(r"\$\{([^${}:]+)\}", text) if isinstance(text, str) else None
    if match is None:
        return text
    try:
        section = OmegaConf.select(_made(root), match[1])
    except OmegaConfBaseException:  # resolving it will say what is wrong
        return text
    return OmegaConf.to_container(section) if OmegaConf.is_dict(section) else text


def has_interpolation(value: Any) -> bool:
    """Return whether there is a ``${`` or a ``???`` in a value, at any depth."""
    if isinstance(value, Mapping):
        return any(map(has_interpolation, value.values()))
    if isinstance(value, list | tuple):
        return any(map(has_interpolation, value))
    return isinstance(value, str) and ("${" in value or value == MISSING)


def may_name(value: Any, key: str) -> bool:
    """Return whether an interpolation in a value, at any depth, may name a top-level key or what is below it."""
    if isinstance(value, Mapping):
        return any(may_name(item, key) for item in value.values())
    if isinstance(value, list | tuple):
        return any(may_name(item, key) for item in value)
    # one inside another, ${a.${b}}, can name anything
    return isinstance(value, str) and re.search(rf"\$\{{[^}}]*(?:\b{re.escape(key)}\b|\$\{{)", value) is not None


def interpolations_of(data: Mapping[str, Any], keys: tuple[str, ...] = ()) -> Iterator[Interpolation]:
    """Yield the interpolations of nested mappings; a list with one counts as a whole."""
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from interpolations_of(value, (*keys, key))
        elif has_interpolation(value):
            yield (*keys, key), value


def refuse_resolvers(value: Any, path: str = "") -> None:
    """Refuse ``${resolver:...}``: a config is data, and loading it runs no code."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            refuse_resolvers(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for index, item in enumerate(value):
            refuse_resolvers(item, f"{path}.{index}")
    elif isinstance(value, str) and _has_resolver(value):
        raise UserError(f"{path}={shortened(value, 80)!r}: only ${{key}} interpolations are allowed, no resolvers.")


def _has_resolver(text: str) -> bool:
    """Return whether there is a colon inside ``${...}``, at any depth; plain interpolations are removed from the inside."""
    while (rest := re.sub(r"\$\{[^${}:]*\}", "", text)) != text:
        text = rest
    return ":" in text.partition("${")[2]


def _made(data: Mapping[str, Any]) -> Any:
    """Return an OmegaConf config; UserError for malformed interpolations."""
    try:
        return OmegaConf.create(dict(data))
    except OmegaConfBaseException as error:
        raise _refusal(error) from None


def _plain(config: Any, key: Any) -> Any:
    """Return a key's value, resolved; UserError names the key that cannot be resolved or has no value."""
    try:
        value = config[key]
        if not OmegaConf.is_config(value):
            return value
        return OmegaConf.to_container(value, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise _refusal(error, config) from None


def _refusal(error: OmegaConfBaseException, config: Any = None) -> UserError:
    """Return OmegaConf's error as one sentence; `config`: the config, for the nearest key."""
    key = getattr(error, "full_key", None) or "config"
    if isinstance(error, MissingMandatoryValue) and not isinstance(error, InterpolationResolutionError):
        return UserError(f"{key}=???: has no value yet; set it.")
    first_line = str(error).splitlines()[0]
    if isinstance(error, InterpolationToMissingValueError):
        first_line = first_line.rpartition(": ")[2] + " has no value yet, or one that differs between the trials"
    elif isinstance(error, InterpolationKeyError) and (unknown := re.search("'(.+)'", first_line)):
        known = [] if config is None else list(_keys(OmegaConf.to_container(config)))
        return UserError(f"{key}: {first_line}.{nearest(unknown[1], known)}")
    elif isinstance(error, GrammarParseError):
        first_line = "is no valid interpolation: write ${key}, or \\${ for the text ${"
    return UserError(f"{key}: {first_line}.")


def _keys(value: Any, path: str = "") -> Iterator[str]:
    """Yield the dotted keys of nested mappings."""
    for key, item in value.items() if isinstance(value, Mapping) else ():
        yield f"{path}{key}"
        yield from _keys(item, f"{path}{key}.")
