"""What a user probably meant by a value of the wrong type: quotes around a number, no brackets around a list, ..."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import UserError
from ..visible_text import shortened
from .yaml_files import flow_yaml, parse_value

_WORDS = {"yes": True, "on": True, "true": True, "no": False, "off": False, "false": False}


def repairs(value: Any) -> Iterator[tuple[Any, str]]:
    """Yield values that the user may have meant, each with the advice how to write it; the most likely first.

    The caller takes the first one that is allowed.
    """
    if isinstance(value, str):
        yield from _repairs_of_text(value)
    elif isinstance(value, bool | int | float):
        yield str(value), "put it in quotes"
        if isinstance(value, float) and value.is_integer():
            yield int(value), f"write {int(value)}"
    elif isinstance(value, list | tuple):
        items = [_unquoted(item) for item in value]
        yield items, "remove the quotes"
        yield [str(item) for item in value], f"put each in quotes, {flow_yaml([str(item) for item in value])}"
        if len(value) == 1:
            yield value[0], f"write {flow_yaml(value[0])}"
    if value is not None and not isinstance(value, list | tuple | Mapping):
        yield [value], f"write a list, {flow_yaml([value])}"


def _repairs_of_text(text: str) -> Iterator[tuple[Any, str]]:
    unquoted = _unquoted(text)
    if not isinstance(unquoted, str):
        yield unquoted, "remove the quotes"
    if text.lower() in _WORDS:
        yield _WORDS[text.lower()], f"write {flow_yaml(_WORDS[text.lower()])}"
    if "," in text:
        items = [_unquoted(item.strip()) for item in text.strip("[]()").split(",")]
        yield items, f"write a list, {flow_yaml(items)}"


def _unquoted(value: Any) -> Any:
    """Return what a text is without its quotes; any other value as it is."""
    try:
        return parse_value(value, "") if isinstance(value, str) else value
    except UserError:
        return value


def mapping_advice(value: Any, names: bool = False) -> str:
    """Return how to write a mapping that the user wrote in another form, as ``: write ...``; an empty text if that is unclear.

    Args:
        value: the value that should be a mapping.
        names: the keys are names, each with a mapping of settings: a list of names means ``{name: {}, ...}``.
    """
    if value is None:
        return ": leave it out, or indent its content under it"
    if isinstance(value, str) and re.match(r"\s*[\w.]+:\S", value):
        return ": put a space after each colon"
    if isinstance(value, list | tuple) and value:
        mapping = mapping_of_list(value)
        if mapping is not None and (names or all(isinstance(item, Mapping) for item in value)):
            return f": write a mapping, without dashes and brackets: {shortened(flow_yaml(mapping), 200)}"
    return ""


def mapping_of_list(items: Any) -> dict[str, Any] | None:
    """Return the mapping that a list of names, or of mappings, stands for; None if it is no such list."""
    mapping: dict[str, Any] = {}
    for item in items:
        if not isinstance(item, str | Mapping):
            return None
        mapping |= {item: {}} if isinstance(item, str) else {str(key): value for key, value in item.items()}
    return mapping
