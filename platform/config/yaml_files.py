"""Read and write YAML of plain values: text, numbers, true, false, null, lists, and mappings whose keys are texts.

PyYAML reads YAML 1.1, which takes ``on`` for true, ``010`` for 8, ``1:30`` for 90 and ``2026-01-01`` for a date; YAML 1.2 does
not. Such values are refused unless they are in quotes.
"""

import math
import re
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError
from ..visible_text import shortened

MAX_DEPTH = 32  # levels of lists and mappings; OmegaConf recurses over them
MAX_INTEGER = 2**64  # larger ones fit into no array, seed or JSON reader
_MAX_CHARACTERS = 1_000_000
_MAX_VALUES = (
    20_000  # with aliases expanded: nested aliases that multiply (billion laughs) are refused before they are built
)
_TAG = "tag:yaml.org,2002:"
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*|[1-9][0-9]{0,2}(?:_[0-9]{3})+)")
_FLOAT = re.compile(r"[-+]?(?:(?:[0-9]+|[1-9][0-9]{0,2}(?:_[0-9]{3})+)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_SPECIAL_FLOAT = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
# a number such as 1e-3 too, for which YAML 1.1 wants 1.0e-3
_EXPONENT = re.compile(r"^[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9]+)[eE][-+]?[0-9]+$")
_HINTS = (  # part of PyYAML's message -> advice
    ("'\\t'", "indent with spaces, not with tabs"),
    ("found '?'", "put a text that begins with ? in quotes"),
    ("found character", "put a text that begins with this character in quotes"),
    ("undefined alias", "put a text that begins with * in quotes"),
    ("scanning an alias", "put a text that begins with * in quotes"),
    ("<scalar>", "check quotes and brackets, or put a text that begins with {, [ or * in quotes"),
    ("mapping values are not allowed", "check the indentation and the space after each colon; a text with ': ' needs quotes"),
    ("could not find expected ':'", "check the indentation, and that a colon and a space follow each key"),
    ("block end", "check the indentation"),
    ("single document", "remove the line ---"),
    ("special characters", "save the file as plain UTF-8 text"),
)  # fmt: skip


class _Loader(yaml.SafeLoader):
    """The parser in Python: only nodes are taken from it."""


class _FastLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The parser in C, if PyYAML was built with it: a report reads thousands of configs."""


class _Dumper(yaml.SafeDumper):
    """A dumper that quotes each text that `parse_yaml` would not read as text."""


class _FastDumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """The same in C, if PyYAML was built with it: a sweep writes thousands of configs."""


for _class in (_Loader, _FastLoader, _Dumper, _FastDumper):
    _class.add_implicit_resolver(f"{_TAG}float", _EXPONENT, list("-+0123456789."))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file of plain values: no tags, no code, bounded size, also with its aliases expanded.

    Raises:
        UserError: the file is not readable, not YAML, not a mapping, or too large.
    """
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_MAX_CHARACTERS + 1)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read: save it as UTF-8 text ({error}).") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}.") from None
    if len(text) > _MAX_CHARACTERS:
        raise UserError(f"{path}: has more than {_MAX_CHARACTERS} characters; a config has less.")
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> dict[str, Any]:
    """Parse YAML text of plain values into a mapping; `source` names it in errors."""
    data = parse_value(text, source)
    if isinstance(data, Mapping):
        return dict(data)
    kind = "an empty file" if data is None else f"{type(data).__name__} {data!r:.60}"
    colon = ": put a space after each colon" if isinstance(data, str) and ":" in data else ""
    raise UserError(f"{source}: must hold a mapping of keys to values, not {kind}{colon}.")


def parse_value(text: str, source: str) -> Any:
    """Parse YAML text of any plain value.

    Raises:
        UserError: the text is not YAML, has tags, keys that are no text, or values that versions of YAML read differently.
    """
    try:
        text.encode()
    except UnicodeEncodeError:  # from the bytes of a command line
        raise UserError(f"{source}: is not valid text (UTF-8).") from None
    try:
        try:
            root = _compose(_FastLoader, text)
        except yaml.YAMLError as error:
            if "nesting depth" in str(error):
                raise RecursionError from None
            root = _compose(_Loader, text)  # for its better error message
        if root is None:
            return None
        if _size(root, {}) > _MAX_VALUES:
            raise UserError(f"{source}: more than {_MAX_VALUES} values with its aliases expanded.")
        return _value(root, MAX_DEPTH)
    except yaml.YAMLError as error:
        raise UserError(_message(error, text, source)) from None
    except RecursionError:
        raise UserError(f"{source}: is nested too deeply, or an alias contains itself.") from None


def dump_yaml(data: Mapping[str, Any]) -> str:
    """Return plain data as YAML text that `parse_yaml` reads back to the same values, keys in their order."""
    try:
        return str(yaml.dump(data, Dumper=_FastDumper, sort_keys=False))
    except UnicodeEncodeError:  # text that is not UTF-8, which only the dumper in Python escapes
        return str(yaml.dump(data, Dumper=_Dumper, sort_keys=False))


def flow_yaml(value: Any) -> str:
    """Return a plain value as YAML on one line, as a user would write it: ``{lwf: {weight: 1}}``."""
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, default_flow_style=True, width=math.inf)
    return str(text).removesuffix("...\n").strip()


def _compose(loader_class: Any, text: str) -> yaml.Node | None:
    """Return the node of the single document in a text."""
    loader = None
    try:
        loader = loader_class(text)
        node: yaml.Node | None = loader.get_single_node()
        return node
    finally:
        if loader is not None:
            loader.dispose()


def _size(node: yaml.Node, known: dict[yaml.Node, int]) -> int:
    """Return the number of values under a node with its aliases expanded; RecursionError for one that contains itself."""
    if node not in known:
        pairs = chain.from_iterable(node.value) if isinstance(node, yaml.MappingNode) else node.value
        inside = pairs if isinstance(node, yaml.CollectionNode) else ()
        known[node] = 1 + sum(_size(item, known) for item in inside)
    return known[node]


def _value(node: yaml.Node, depth: int) -> Any:
    """Return the plain value of a node with at most `depth` levels."""
    if depth == 0:
        raise RecursionError
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node)
    name = "map" if isinstance(node, yaml.MappingNode) else "seq"
    if node.tag != _TAG + name:
        raise _refusal(node, f"the tag {_shown_tag(node)} is not allowed: a config holds plain values only")
    return _mapping(node, depth) if name == "map" else [_value(item, depth - 1) for item in node.value]


def _mapping(node: yaml.Node, depth: int) -> dict[str, Any]:
    """Return a mapping. The values of a merge key (``<<: *anchor``, or a list of anchors) give way to the mapping's own keys."""
    merged: dict[str, Any] = {}
    values: dict[str, Any] = {}
    merges = [value for key, value in node.value if key.tag == f"{_TAG}merge"]
    if len(merges) > 1:
        raise _refusal(node, "the key '<<' stands twice: write a list, <<: [*one, *other]")
    for merge in merges:
        for source in merge.value if isinstance(merge, yaml.SequenceNode) else [merge]:
            if not isinstance(source, yaml.MappingNode):
                raise _refusal(source, "<<: must be an alias of a mapping, or a list of them")
            merged = _value(source, depth - 1) | merged
    for key_node, value_node in node.value:
        if key_node.tag == f"{_TAG}merge":
            continue
        key = _key(key_node)
        if key in values:
            raise _refusal(key_node, f"the key '{key}' stands twice")
        values[key] = _value(value_node, depth - 1)
    return merged | values


def _key(node: yaml.Node) -> str:
    """Return a key, which must be a text."""
    if not isinstance(node, yaml.ScalarNode):
        raise _refusal(
            node, "a key must be a text, not a list or mapping: put a text that begins with { or [ in quotes"
        )
    if node.tag not in (f"{_TAG}str", f"{_TAG}value"):
        raise _refusal(node, f"the key {shortened(node.value, 80) or 'null'} is no text: put it in quotes")
    return str(node.value)


def _scalar(node: yaml.ScalarNode) -> Any:
    """Return a scalar's value; refuse what YAML 1.1 reads as something else than it looks like."""
    text, kind = node.value, node.tag.removeprefix(_TAG)
    if kind in ("str", "value", "merge"):  # = and << mean nothing as values
        return text
    if kind == "null" and text.lower() in ("", "~", "null"):
        return None
    if kind == "bool" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if kind == "int" and _INTEGER.fullmatch(text):
        if len(text) < 30 and abs(int(text)) < MAX_INTEGER:
            return int(text)
        raise _refusal(node, f"{shortened(text, 80)} is too large: an integer has at most 64 bits")
    if kind == "float" and _SPECIAL_FLOAT.fullmatch(text):
        return float(text.replace(".", "").lower())
    if kind == "float" and _FLOAT.fullmatch(text):
        if math.isfinite(float(text)):
            return float(text)
        raise _refusal(node, f"{shortened(text, 80)} is too large for a number")
    if kind in ("bool", "int", "float", "timestamp"):
        raise _refusal(node, _ambiguous(shortened(text, 80), kind))
    raise _refusal(node, f"the tag {_shown_tag(node)} is not allowed: a config holds plain values only")


def _ambiguous(text: str, kind: str) -> str:
    """Return why a value is refused that YAML 1.1 and 1.2 read differently."""
    if kind == "timestamp":
        return f"{text} is read as a date: put it in quotes"
    if kind == "bool":
        return f"{text} is read as true or false: write true or false, or put it in quotes if it is a text"
    return (
        f"{text} is read differently by versions of YAML (octal, base 60, ...): write a decimal number without leading zeros, "
        f"or put it in quotes if it is a text"
    )


def _shown_tag(node: yaml.Node) -> str:
    return f"'{shortened(node.tag.replace(_TAG, '!!'), 80)}'"


def _refusal(node: yaml.Node, problem: str) -> yaml.YAMLError:
    """Return the error for a node that is YAML but not allowed."""
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _message(error: yaml.YAMLError, text: str, source: str) -> str:
    """Return one sentence for an error of the parser or of this module: the source, line and column, the problem, an advice."""
    if isinstance(error, yaml.reader.ReaderError):
        before = text[: error.position]
        line, column, problem = (
            before.count("\n"),
            len(before) - before.rfind("\n") - 1,
            f"{error.reason} (#x{ord(text[error.position]):04x})",
        )
    else:
        mark: Any = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        line, column = (mark.line, mark.column) if mark else (0, 0)
        problem = getattr(error, "problem", None) or str(error)
    where = f"{source}, line {line + 1}, column {column + 1}" if not source.startswith("override ") else source
    if isinstance(error, yaml.constructor.ConstructorError):
        return f"{where}: {problem}.{_in_a_shell(where == source, problem)}"
    context: Any = getattr(error, "context", None)
    opened: Any = getattr(error, "context_mark", None)
    since = (
        f" ({context}, which begins in line {opened.line + 1})" if context and opened and opened.line != line else ""
    )
    advice = next((f": {advice}" for part, advice in _HINTS if part in f"{problem} {context}"), "")
    if where == source and isinstance(error, yaml.reader.ReaderError):
        advice = ""  # there is no file to save
    return f"{where}: is not valid YAML: {problem}{since}{advice}.{_in_a_shell(where == source, advice)}"


def _in_a_shell(is_override: bool, advice: str) -> str:
    """Return how to write on the command line what the advice says about quotes."""
    return " (In a shell, quote the quotes: \"key='text'\".)" if is_override and "quotes" in advice else ""
