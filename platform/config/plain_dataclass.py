"""Build a user's `Config` that is a plain dataclass, not made by `settings`: pydantic validates the whole of it.

So its nested dataclasses, validators and ``pydantic.Field`` limits work as with pydantic.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from ..errors import UserError, nearest
from .repairs import mapping_advice, repairs

_TYPES: dict[str, Any] = {  # pydantic's type of an error -> the type that it wants
    "int_type": int,
    "float_type": int | float,
    "bool_type": bool,
    "string_type": str,
    "tuple_type": list,
    "list_type": list,
    "dict_type": dict,
    "dataclass_type": dict,
}


def type_hints(cls: Any) -> dict[str, Any]:
    """Return the annotations of a class's fields, without what limits their values."""
    return _type_hints(cls)


@cache  # a config's classes are asked a hundred times for each trial
def _type_hints(cls: Any) -> dict[str, Any]:
    return get_type_hints(cls)


def build_plain(cls: Any, data: Mapping[str, Any], path: str) -> Any:
    """Return an instance of the dataclass `cls`; types are strict, as in JSON: lists become tuples, whole numbers floats.

    Raises:
        UserError: a missing value, a wrong type or a refused value, each with its full path.
    """
    try:
        return _adapter(cls).validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        raise UserError("\n".join(_messages(cls, error, path))) from None
    except TypeError as error:
        raise UserError(f"{path or 'config'}: holds something that is no plain YAML value: {error}.") from None


@cache  # building one takes milliseconds
def _adapter(cls: Any) -> TypeAdapter[Any]:
    return TypeAdapter(cls)


def section_of(hint: Any) -> Any:
    """Return the dataclass of a section that may be null; any other annotation as it is."""
    return next((member for member in get_args(hint) if is_dataclass(member)), hint)


def _messages(cls: Any, error: ValidationError, path: str) -> list[str]:
    """Return pydantic's errors as sentences, one per key: a value that fits none of several types has several errors."""
    problems_of_key: dict[str, list[str]] = {}
    advice: dict[str, str] = {}
    for item in error.errors():
        where, problem = _explain(cls, item, path)
        problems_of_key.setdefault(where, []).append(problem)
        advice[where] = advice.get(where) or _advice(item)
    lines = []
    for where, problems in problems_of_key.items():
        text = " or ".join([problems[0], *(problem.removeprefix(": must be ") for problem in problems[1:])])
        line = where + text + advice[where]
        lines.append(line if line.endswith(("?", ".")) else f"{line}.")
    return lines


def _advice(item: Any) -> str:
    """Return how to write what the user probably meant; an empty text if that is unclear."""
    kind, value = _TYPES.get(item["type"]), item["input"]
    if kind is dict:
        return mapping_advice(value, names=item["type"] == "dict_type")
    meant = (each for each in repairs(value) if kind is not None and isinstance(each[0], kind))
    return next((f": {advice}" for _, advice in meant), "")


def _explain(cls: Any, item: Any, path: str) -> tuple[str, str]:
    """Return the full path of a pydantic error's key, with its value, and the problem."""
    where = ".".join(([path] if path else []) + _keys(cls, item["loc"]))
    if item["type"] == "value_error":
        return (f"{where}." if where else "") + str(item["ctx"]["error"]), ""
    if item["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return where, ": is missing"
    value = item["input"]
    suggestion = nearest(str(value), item["ctx"]["expected"].split("'")) if item["type"] == "literal_error" else ""
    message = item["msg"].replace("Input should be", "must be")
    message = message.replace("an object", "a mapping").replace("array", "list")
    return f"{where}={value!r}", f": {message}{'.' if suggestion else ''}{suggestion}"


def _keys(cls: Any, location: Sequence[str | int]) -> list[str]:
    """Return the keys in the location of a pydantic error, without pydantic's names for a union's members."""
    keys: list[str] = []
    hint: Any = cls
    for part in location:
        if is_dataclass(hint) and part in type_hints(hint):
            hint = section_of(type_hints(hint)[part])
        elif get_origin(hint) is Mapping:
            hint = get_args(hint)[1]
        elif not isinstance(part, int):
            continue
        keys.append(str(part))
    return keys
