"""YAML and ``key=value`` overrides -> plain data. OmegaConf merges and resolves interpolations such as ``${seed}``."""

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..errors import UserError
from . import registry

_MAX_BYTES = 1_000_000
_MAX_VALUES = 20_000  # with aliases written out: one that multiplies itself (billion laughs) is refused unbuilt


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file of plain values: no tags, no code, bounded size, also with its aliases written out.

    Raises:
        UserError: not readable, not YAML, or not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}.") from None
    if len(text) > _MAX_BYTES:
        raise UserError(f"{path}: {len(text)} characters; a config has at most {_MAX_BYTES}.")
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> dict[str, Any]:
    """Parse YAML text of plain values into a mapping."""
    data = _parse(text, source)
    if not isinstance(data, Mapping):
        raise UserError(f"{source}: must hold a mapping of keys to values, not {type(data).__name__}.")
    return dict(data)


def _parse(text: str, source: str) -> Any:
    """Parse YAML text of plain values; what its aliases stand for is counted before anything is built."""
    try:
        try:
            return _built(_FastLoader(text), source)
        except yaml.YAMLError:
            return _built(_Loader(text), source)  # it words the error better
    except yaml.YAMLError as error:
        hint = " (A text that begins with {, [ or * is to stand in quotes.)" if "<scalar>" in str(error) else ""
        raise UserError(f"{source}: is not valid YAML: {error}{hint}") from None
    except RecursionError:
        raise UserError(f"{source}: is nested too deeply, or an alias stands inside of what it names.") from None


def _built(loader: Any, source: str) -> Any:
    """The one document of a loader."""
    try:
        root = loader.get_single_node()
        if root is not None and _size(root, {}) > _MAX_VALUES:
            raise UserError(f"{source}: more than {_MAX_VALUES} values once its aliases are written out.")
        return None if root is None else loader.construct_document(root)
    finally:
        loader.dispose()


def _size(node: yaml.Node, known: dict[yaml.Node, int]) -> int:
    """Number of values under a node with its aliases written out; without end (RecursionError) where one holds itself."""
    if node not in known:
        pairs = chain.from_iterable(node.value) if isinstance(node, yaml.MappingNode) else node.value
        inside = pairs if isinstance(node, yaml.CollectionNode) else ()
        known[node] = 1 + sum(_size(item, known) for item in inside)
    return known[node]


class _Rules:
    """For a SafeLoader: reads 1e-3 as a number (YAML 1.1 wants 1.0e-3) and refuses a key that stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The pairs of a mapping."""
        loader: Any = self
        seen: set[Any] = set()
        for key in (loader.construct_object(key, deep=True) for key, _ in node.value):
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key '{key}' stands twice", node.start_mark)
            seen |= {key} if isinstance(key, Hashable) else set()
        found: dict[Any, Any] = super().construct_mapping(node, deep)  # type: ignore[misc]
        return found


class _Loader(_Rules, yaml.SafeLoader):
    """In Python."""


class _FastLoader(_Rules, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """In C, where PyYAML was built with it: thousands of configs are read for a report."""


_FLOAT = (
    r"^[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+|\.[0-9]+(?:[eE][-+]?[0-9]+)?)$"
)

for _loader in (_Loader, _FastLoader):
    _loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(_FLOAT), list("-+0123456789."))


def apply_overrides(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Merge ``key.path=value`` overrides into plain data (values are YAML) and resolve interpolations.

    An override sets its key as a whole: ``strategies={lwf: {}}`` leaves lwf alone there, ``strategies.lwf.weight=2`` adds to
    what there is.
    """
    merged: Any = dict(data)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key.strip():
            raise UserError(f"override '{override}': must be key=value, e.g. training.epochs=5.")
        merged = merge(merged, nest_key(key.strip(), _Whole(_value(key, value))))
    return resolve_interpolations(merged)


def nest_key(key: str, value: Any) -> dict[str, Any]:
    """``a.b=1`` -> ``{a: {b: 1}}``; a dotted path of a module under strategies, benchmark or model stays one key."""
    parts = key.split(".")
    if len(parts) > 3 and _is_dotted(parts[0], parts[1]):
        parts = [parts[0], ".".join(parts[1:-1]), parts[-1]]
    if parts[:2] == ["sweep", "space"] and len(parts) > 3:
        parts = ["sweep", "space", ".".join(parts[2:])]  # a search space's keys are dotted
    for part in reversed(parts):
        value = {part: value}
    return dict(value)


def _value(key: str, text: str) -> Any:
    """The value of an override, read as YAML."""
    return _parse(text, f"override '{key}={text}'") if text else None


@dataclass(frozen=True, slots=True)
class _Whole:
    """A value that replaces what was at its key instead of merging with it."""

    value: Any


def _is_dotted(key: str, name: str) -> bool:
    """Whether a module's dotted path begins there: under one of these keys, with no shipped name (those have nested settings)."""
    kinds: dict[str, registry.Kind] = {key: kind for kind, key in registry.KEYS.items() if kind != "datasets"}
    return key in kinds and name not in registry.names(kinds[key])


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested mappings, `over` wins; another benchmark or model replaces the former, since there is one of each."""
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, _Whole):
            merged[key] = value.value
        elif key in ("benchmark", "model"):
            merged[key] = _replace_or_merge(merged.get(key), value)
        elif isinstance(value, Mapping):
            former = merged.get(key)
            merged[key] = merge(former if isinstance(former, Mapping) else {}, value)
        else:
            merged[key] = value
    return merged


def _replace_or_merge(base: Any, over: Any) -> Any:
    """Settings of the same name merge, another name replaces."""
    base = {base: {}} if isinstance(base, str) else base
    over = {over: {}} if isinstance(over, str) else over
    if not isinstance(over, Mapping):
        return over
    kept = {name: settings for name, settings in base.items() if name in over} if isinstance(base, Mapping) else {}
    return merge(kept, over)


def resolve_interpolations(data: Mapping[str, Any]) -> dict[str, Any]:
    """Resolve ``${key}`` interpolations through OmegaConf; its resolvers that read the environment are not offered."""
    _refuse_resolvers(data, "")
    try:
        plain = OmegaConf.to_container(OmegaConf.create(dict(data)), resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{getattr(error, 'full_key', None) or 'config'}: {str(error).splitlines()[0]}.") from None
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _refuse_resolvers(value: Any, path: str) -> None:
    """Refuse ``${resolver:...}``: a config is data, loading it runs nothing."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            _refuse_resolvers(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for index, item in enumerate(value):
            _refuse_resolvers(item, f"{path}.{index}")
    elif isinstance(value, str) and _has_resolver(value):
        raise UserError(f"{path}={value!r}: only ${{key}} interpolations are allowed, no resolvers.")


def _has_resolver(text: str) -> bool:
    """Whether a colon stands inside of ``${...}``, wherever: plain interpolations are taken out from the inside first."""
    while (rest := re.sub(r"\$\{[^${}:]*\}", "", text)) != text:
        text = rest
    return ":" in text.partition("${")[2]
