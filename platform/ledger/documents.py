"""JSON documents of a run folder: written atomically with a checksum, checked when they are read."""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import write_text

SCHEMA = 2  # of the JSON documents; those of 1 had no checksum
VIEWS = ("task_agnostic", "task_aware")  # of an accuracy matrix: among all classes, among the experience's own
_MAX_BYTES = 2**28  # far more than any document of ours


class DamagedError(UserError):
    """A file of ours is not as it was written."""


def read_json(path: Path) -> dict[str, Any]:
    """Return the mapping in a JSON file of ours, without its checksum.

    Raises:
        DamagedError: it is not as it was written.
        UserError: it is missing, or of a newer schema.
    """
    data, found = _parsed(path)
    told, schema = data.pop("sha256", None), data.get("schema")
    if told is not None and told != found:
        raise DamagedError(f"{path} is damaged: it has changed since it was written")
    if isinstance(schema, int) and schema > SCHEMA:
        raise UserError(f"{path} has schema {schema!r}, written by a newer retain: this one reads up to {SCHEMA}")
    if told is None and schema != 1:
        raise DamagedError(f"{path} is damaged: it has changed since it was written (it has no checksum)")
    return data


def _parsed(path: Path) -> tuple[dict[str, Any], str]:
    """A document and what its checksum should be."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DamagedError(f"{path} is damaged: it has more than {_MAX_BYTES} bytes")
        data = json.loads(path.read_bytes())
        if not isinstance(data, dict):
            raise DamagedError(f"{path} is damaged: a mapping was expected, not {type(data).__name__}")
        return data, checksum({key: value for key, value in data.items() if key != "sha256"})
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except RecursionError:
        raise DamagedError(f"{path} is damaged: it is nested too deeply") from None
    except DamagedError:  # a ValueError too
        raise
    except ValueError as error:
        raise DamagedError(f"{path} is damaged: {error}") from error


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON file atomically, with the schema's number and a checksum; NaN and infinities become null."""
    plain = {"schema": SCHEMA} | {key: value for key, value in _plain(data).items() if key not in ("schema", "sha256")}
    write_text(path, json.dumps({**plain, "sha256": checksum(plain)}, indent=1, allow_nan=False) + "\n")


def checksum(data: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of a document: sorted keys, UTF-8, no spaces; ValueError for what UTF-8 cannot say."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def read_text(path: Path, sha256: str | None) -> str:
    """Return a text file's content; with `sha256`, only if that is still its own.

    Raises:
        UserError: it is missing.
        DamagedError: it has another checksum, or is no text.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    found = hashlib.sha256(data).hexdigest()
    if sha256 is not None and sha256 != found:
        raise DamagedError(
            f"{path} has changed since it was written (SHA-256 {found[:12]}, it was {sha256[:12]}): restore it, or start anew"
        )
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DamagedError(f"{path} is damaged: {error}") from None


def to_json(data: Mapping[str, Any], indent: int | None = None) -> str:
    """Return strict JSON text, on one line without an indent; NaN and infinities become null."""
    return json.dumps(_plain(data), indent=indent, allow_nan=False)


def _plain(value: Any) -> Any:
    """Copy nested data with None in the place of what JSON cannot say; a file's name that is no UTF-8 is escaped."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {_plain(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
