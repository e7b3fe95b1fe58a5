"""Read YAML and ``key=value`` overrides into plain data. OmegaConf resolves interpolations such as ``${seed}``."""

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from ..errors import UserError
from . import registry

_MAX_BYTES = 1_000_000
_MAX_VALUES = (
    20_000  # with aliases expanded: nested aliases that multiply (billion laughs) are refused before they are built
)
# a number such as 1e-3 too, for which YAML 1.1 wants 1.0e-3
_FLOAT = (
    r"^[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+|\.[0-9]+(?:[eE][-+]?[0-9]+)?)$"
)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file of plain values: no tags, no code, bounded size, also with its aliases expanded.

    Raises:
        UserError: the file is not readable, not YAML, not a mapping, or too large.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}.") from None
    if len(text) > _MAX_BYTES:
        raise UserError(f"{path}: {len(text)} characters; a config has at most {_MAX_BYTES}.")
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> dict[str, Any]:
    """Parse YAML text of plain values into a mapping; `source` names it in errors."""
    data = _parse(text, source)
    if not isinstance(data, Mapping):
        raise UserError(f"{source}: must hold a mapping of keys to values, not {type(data).__name__}.")
    return dict(data)


def _parse(text: str, source: str) -> Any:
    """Parse YAML text of plain values; the values are counted with aliases expanded before anything is built."""
    try:
        try:
            return _construct(_FastLoader(text), source)
        except yaml.YAMLError:
            return _construct(_Loader(text), source)  # for its better error message
    except yaml.YAMLError as error:
        hint = " (A text that begins with {, [ or * must be quoted.)" if "<scalar>" in str(error) else ""
        raise UserError(f"{source}: is not valid YAML: {error}{hint}") from None
    except RecursionError:
        raise UserError(f"{source}: is nested too deeply, or an alias contains itself.") from None


def _construct(loader: Any, source: str) -> Any:
    """Build the single document of a loader."""
    try:
        root = loader.get_single_node()
        if root is not None and _size(root, {}) > _MAX_VALUES:
            raise UserError(f"{source}: more than {_MAX_VALUES} values with its aliases expanded.")
        return None if root is None else loader.construct_document(root)
    finally:
        loader.dispose()


def _size(node: yaml.Node, known: dict[yaml.Node, int]) -> int:
    """Return the number of values under a node with its aliases expanded; RecursionError for one that contains itself."""
    if node not in known:
        pairs = chain.from_iterable(node.value) if isinstance(node, yaml.MappingNode) else node.value
        inside = pairs if isinstance(node, yaml.CollectionNode) else ()
        known[node] = 1 + sum(_size(item, known) for item in inside)
    return known[node]


class _StrictKeys:
    """Mixin for a SafeLoader that refuses duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping; raise ConstructorError for a duplicate key."""
        loader: Any = self
        seen: set[Any] = set()
        for key in (loader.construct_object(key, deep=True) for key, _ in node.value):
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key '{key}' stands twice", node.start_mark)
            seen |= {key} if isinstance(key, Hashable) else set()
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)  # type: ignore[misc]
        return mapping


class _Loader(_StrictKeys, yaml.SafeLoader):
    """The loader in Python."""


class _FastLoader(_StrictKeys, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The loader in C, if PyYAML was built with it: a report reads thousands of configs."""


for _loader in (_Loader, _FastLoader):
    _loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(_FLOAT), list("-+0123456789."))


def plain_mapping(config: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a dict of plain values; OmegaConf's DictConfig is resolved, with whatever resolvers its program registered.

    Raises:
        UserError: a value of a DictConfig is missing (``???``) or cannot be resolved.
    """
    return _resolved(config) if OmegaConf.is_config(config) else {str(key): value for key, value in config.items()}


def _resolved(config: Any) -> dict[str, Any]:
    """Resolve the interpolations of a dict or DictConfig; UserError names the key that cannot be resolved or has no value."""
    try:
        made = config if OmegaConf.is_config(config) else OmegaConf.create(dict(config))
        plain = OmegaConf.to_container(made, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key}=???: has no value yet; set it.") from None
    except OmegaConfBaseException as error:
        raise UserError(f"{getattr(error, 'full_key', None) or 'config'}: {str(error).splitlines()[0]}.") from None
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def apply_overrides(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Merge ``key.path=value`` overrides into plain data and resolve interpolations. Values are YAML.

    An override replaces the whole value of its key: after ``strategies={lwf: {}}`` lwf is the only strategy, while
    ``strategies.lwf.weight=2`` sets one value and keeps the rest.

    Raises:
        UserError: an override is not ``key=value`` or its value is not YAML, or an interpolation fails.
    """
    merged: Any = dict(data)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key.strip():
            raise UserError(f"override '{override}': must be key=value, e.g. training.epochs=5.")
        merged = merge(merged, nest_key(key.strip(), _Replacement(_value(key, value))))
    return resolve_interpolations(merged)


def nest_key(key: str, value: Any) -> dict[str, Any]:
    """Return nested mappings: ``a.b=1`` -> ``{a: {b: 1}}``.

    A module's dotted path under strategies, benchmark, model or probes stays one key; so does a key under sweep.space.
    """
    parts = key.split(".")
    if len(parts) > 3 and _is_dotted(parts[0], parts[1]):
        parts = [parts[0], ".".join(parts[1:-1]), parts[-1]]
    if parts[:2] == ["sweep", "space"] and len(parts) > 3:
        parts = ["sweep", "space", ".".join(parts[2:])]  # a search space's keys are dotted
    for part in reversed(parts):
        value = {part: value}
    return dict(value)


def _value(key: str, text: str) -> Any:
    """Return the value of an override, read as YAML; None for an empty one."""
    return _parse(text, f"override '{key}={text}'") if text else None


@dataclass(frozen=True, slots=True)
class _Replacement:
    """A value that replaces the previous value of its key instead of merging with it."""

    value: Any


def _is_dotted(key: str, name: str) -> bool:
    """Return whether `name` starts a module's dotted path: `key` names plugins and no shipped one has this name.

    The settings of shipped plugins may be nested, so their dots separate keys.
    """
    kinds: dict[str, registry.Kind] = {key: kind for kind, key in registry.KEYS.items() if kind != "datasets"}
    return key in kinds and name not in registry.names(kinds[key])


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested mappings; `over` wins. Another benchmark or model replaces the previous one: there is one of each."""
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, _Replacement):
            merged[key] = value.value
        elif key in ("benchmark", "model"):
            merged[key] = _replace_or_merge(merged.get(key), value)
        elif isinstance(value, Mapping):
            previous = merged.get(key)
            merged[key] = merge(previous if isinstance(previous, Mapping) else {}, value)
        else:
            merged[key] = value
    return merged


def _replace_or_merge(base: Any, over: Any) -> Any:
    """Merge settings of the same name; another name replaces the previous one."""
    base = {base: {}} if isinstance(base, str) else base
    over = {over: {}} if isinstance(over, str) else over
    if not isinstance(over, Mapping):
        return over
    same_name = {name: settings for name, settings in base.items() if name in over} if isinstance(base, Mapping) else {}
    return merge(same_name, over)


def resolve_interpolations(data: Mapping[str, Any]) -> dict[str, Any]:
    """Resolve ``${key}`` interpolations with OmegaConf; its resolvers, which can read the environment, are refused."""
    _refuse_resolvers(data, "")
    return _resolved(data)


def _refuse_resolvers(value: Any, path: str) -> None:
    """Refuse ``${resolver:...}``: a config is data, and loading it runs no code."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            _refuse_resolvers(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for index, item in enumerate(value):
            _refuse_resolvers(item, f"{path}.{index}")
    elif isinstance(value, str) and _has_resolver(value):
        raise UserError(f"{path}={value!r}: only ${{key}} interpolations are allowed, no resolvers.")


def _has_resolver(text: str) -> bool:
    """Return whether there is a colon inside ``${...}``, at any depth; plain interpolations are removed from the inside."""
    while (rest := re.sub(r"\$\{[^${}:]*\}", "", text)) != text:
        text = rest
    return ":" in text.partition("${")[2]
