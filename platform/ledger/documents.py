"""JSON documents of a run folder: written atomically with a checksum, which is verified on reading."""

import errno
import hashlib
import json
import math
import os
import re
from array import array
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import read_regular, write_text

DOCUMENT_SCHEMA = 2  # of the JSON documents; those of schema 1 had no checksum
VIEWS = (
    "task_agnostic",
    "task_aware",
)  # of an accuracy matrix: predict among all classes, or among the experience's classes
NAME_FIELDS = ("id", "variant", "stream")  # of a trial's identity
_MAX_NAME = 255  # bytes of a file's name
_MEBIBYTE = 2**20
# Of the documents that grow; the matrices of 800 experiences have up to 66 MB, a list of 100,000 trials 50 MB.
_MAX_BYTES = {"matrix.json": 72 * _MEBIBYTE, "trials.json": 64 * _MEBIBYTE, "projector.json": 64 * _MEBIBYTE}
_MAX_BYTES_OF_OTHERS = 8 * _MEBIBYTE
MAX_EXPERIENCES = 800  # of a stream: more, and its matrix.json could not be read again
_LONG_ROW = 16  # numbers whose text is kept
# What Python would read as infinity, or as an integer that does not fit into a float. An exponent follows a digit or a point and
# ends the number: most checksums with an "e045" in them are no match.
_EXTREME = re.compile(rb"[0-9.][eE]\+?[0-9]{3,}(?![0-9a-fA-F])|[0-9]{19}")


class DamagedError(UserError):
    """A file of a run folder has changed since it was written, or cannot be parsed."""


def read_json(path: Path) -> dict[str, Any]:
    """Return the mapping in a JSON file of a run folder, without its checksum.

    Raises:
        DamagedError: the file has changed since it was written.
        UserError: the file is missing, or of a newer schema.
    """
    data, actual_sum = _parse(path)
    recorded_sum, schema = data.pop("sha256", None), data.get("schema")
    if recorded_sum is not None and recorded_sum != actual_sum:
        raise DamagedError(f"{path} is damaged: it has changed since it was written")
    if isinstance(schema, int) and schema > DOCUMENT_SCHEMA:
        raise UserError(
            f"{path} has schema {schema!r}, written by a newer retain: this one reads up to {DOCUMENT_SCHEMA}"
        )
    if recorded_sum is None and schema != 1:
        raise DamagedError(f"{path} is damaged: it has changed since it was written (it has no checksum)")
    return data


def _parse(path: Path) -> tuple[dict[str, Any], str]:
    """Return a document and the checksum computed from it."""
    try:
        data = strict_json(read_regular(path, _MAX_BYTES.get(path.name, _MAX_BYTES_OF_OTHERS)))
        if not isinstance(data, dict):
            raise DamagedError(f"{path} is damaged: a mapping was expected, not {type(data).__name__}")
        return data, checksum({key: value for key, value in data.items() if key != "sha256"})
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise unreadable(path, error) from None
    except RecursionError:
        raise DamagedError(f"{path} is damaged: it is nested too deeply") from None
    except DamagedError:  # it is also a ValueError
        raise
    except ValueError as error:
        raise DamagedError(f"{path} is damaged: {error}") from error


def strict_json(data: bytes) -> Any:
    """Parse JSON that a ledger holds: finite numbers only, integers of at most 64 bits, as `to_json` writes them.

    Raises:
        ValueError: the text is not such JSON.
        RecursionError: it is nested too deeply.
    """
    if _EXTREME.search(data) is None:  # the hooks below cost time for each number
        return json.loads(data, parse_constant=_refuse_constant)
    return json.loads(data, parse_constant=_refuse_constant, parse_float=_finite, parse_int=_fitting)


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text:.20} is too large")
    return number


def _fitting(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= int(text) < 2**64:
        raise ValueError(f"an integer of {len(text.lstrip('-'))} digits is too large")
    return int(text)


def unreadable(path: Path, error: OSError) -> UserError:
    """Return the error of a file that cannot be read, or that is no file of a run: a link, a pipe, a folder, too large."""
    if error.errno in (errno.EINVAL, errno.EFBIG, errno.ELOOP, errno.EISDIR):
        return DamagedError(f"{path} is damaged: {error.strerror}")
    return UserError(f"{path}: cannot be read: {error.strerror}")


def identity_problem(data: object) -> str:
    """Return what is wrong with a trial's identity, whose id becomes part of paths; an empty text if nothing is.

    The writer and the reader both ask here, so that whatever is written can be read.
    """
    if not isinstance(data, Mapping):
        return "a trial must be a mapping"
    for name in NAME_FIELDS:
        if not isinstance(data.get(name), str):
            return f"a trial's {name} must be a text"
    if type(data.get("seed")) is not int:
        return "a trial's seed must be a whole number"
    if problem := _role_problem(data):
        return problem
    trial_id = data["id"]
    if trial_id in ("", ".", "..") or set(trial_id) & set("/\\\0") or len(os.fsencode(trial_id)) > _MAX_NAME:
        return f"a trial's id {trial_id!r:.300} must be the name of a folder"
    return ""


def _role_problem(data: Mapping[str, Any]) -> str:
    """Return what is wrong with what an identity says about a search; an empty text if nothing is."""
    role, number = data.get("role", "reported"), data.get("configuration")
    if role not in ("reported", "search", "superseded"):
        return f"a trial's role {role!r:.80} must be reported, search or superseded"
    if number is not None and (type(number) is not int or number < 0):
        return "a trial's configuration must be a whole number"
    if "protocol" in data and not isinstance(data["protocol"], Mapping):
        return "a trial's protocol must be a mapping"
    if role == "search" and (number is None or "protocol" not in data or not isinstance(data.get("searched"), str)):
        return "a search's trial must have searched, configuration and protocol"
    return ""


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON file atomically, with the schema number and a checksum; NaN and infinities become null."""
    plain = {"schema": DOCUMENT_SCHEMA} | {
        key: value for key, value in _plain(data).items() if key not in ("schema", "sha256")
    }
    sha256 = hashlib.sha256(canonical_json(plain).encode()).hexdigest()
    write_text(path, indented_json({**plain, "sha256": sha256}) + "\n")


def indented_json(value: Any, line: str = "\n") -> str:
    """Return the text of ``json.dumps(value, indent=1, allow_nan=False)``, in a fraction of the time for matrices.

    Args:
        value: plain data; keys are texts.
        line: a line break and the indentation of `value`.
    """
    inner = f"{line} "
    if isinstance(value, dict) and value:
        members = [f"{json.dumps(key)}: {indented_json(item, inner)}" for key, item in value.items()]
        return f"{{{inner}{f',{inner}'.join(members)}{line}}}"
    if not isinstance(value, list) or not value:
        return json.dumps(value, allow_nan=False)
    if any(isinstance(item, dict | list) for item in value):
        items = f",{inner}".join(indented_json(item, inner) for item in value)
    else:
        separator = f",{inner}"
        items = _row(value, separator) or json.dumps(value, separators=(separator, ": "), allow_nan=False)[1:-1]
    return f"[{inner}{items}{line}]"


def canonical_json(value: Any) -> str:
    """Return the text of ``json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)``, likewise."""
    if isinstance(value, dict):
        pairs = sorted(value.items())
        return f"{{{','.join(f'{_canonical(key)}:{canonical_json(item)}' for key, item in pairs)}}}"
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        return f"[{','.join(map(canonical_json, value))}]"
    row = _row(value, ",") if isinstance(value, list) else ""
    return f"[{row}]" if row else _canonical(value)


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _row(values: list[Any], separator: str) -> str:
    """Return a long row of floats as JSON, without brackets; an empty text for any other list."""
    is_row = len(values) >= _LONG_ROW and all(type(value) is float for value in values)
    return _floats(array("d", values).tobytes(), separator) if is_row else ""


@lru_cache(1024)  # a matrix is written after each experience, with one more row that is new
def _floats(data: bytes, separator: str) -> str:
    """Return floats, given as their bytes, as JSON."""
    return json.dumps(array("d", data).tolist(), separators=(separator, ": "), allow_nan=False)[1:-1]


def checksum(data: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a document's canonical JSON: sorted keys, UTF-8, no spaces.

    Raises:
        ValueError: a text cannot be encoded as UTF-8.
    """
    return hashlib.sha256(_canonical(data).encode()).hexdigest()


def read_text(path: Path, sha256: str | None) -> str:
    """Return the content of a text file; with `sha256`, verify its checksum.

    Raises:
        UserError: the file is missing.
        DamagedError: the file has another checksum, or is not UTF-8 text.
    """
    try:
        data = read_regular(path, _MAX_BYTES_OF_OTHERS)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise unreadable(path, error) from None
    actual_sum = hashlib.sha256(data).hexdigest()
    if sha256 is not None and sha256 != actual_sum:
        raise DamagedError(
            f"{path} has changed since it was written (SHA-256 {actual_sum[:12]}, it was {sha256[:12]}): restore it, or "
            f"start again in a new folder"
        )
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DamagedError(f"{path} is damaged: {error}") from None


def to_json(data: Mapping[str, Any], indent: int | None = None) -> str:
    """Return strict JSON text, on one line unless `indent` is given; NaN and infinities become null."""
    return json.dumps(_plain(data), indent=indent, allow_nan=False)


def _plain(value: Any) -> Any:
    """Copy nested data; NaN and infinities become None, and text that is not UTF-8 (a file's name) is escaped."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {_plain(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):  # x - x: 0 if x is finite, else NaN; a quick way for the numbers of a matrix
        return [item if type(item) is float and item - item == 0 else _plain(item) for item in value]
    return value
