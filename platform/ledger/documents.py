"""JSON documents of a run folder: written atomically with a checksum, which is verified on reading."""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import write_text

DOCUMENT_SCHEMA = 2  # of the JSON documents; those of schema 1 had no checksum
VIEWS = (
    "task_agnostic",
    "task_aware",
)  # of an accuracy matrix: predict among all classes, or among the experience's classes
_MAX_BYTES = 2**28  # far more than any document needs


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
    except DamagedError:  # it is also a ValueError
        raise
    except ValueError as error:
        raise DamagedError(f"{path} is damaged: {error}") from error


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON file atomically, with the schema number and a checksum; NaN and infinities become null."""
    plain = {"schema": DOCUMENT_SCHEMA} | {
        key: value for key, value in _plain(data).items() if key not in ("schema", "sha256")
    }
    write_text(path, json.dumps({**plain, "sha256": checksum(plain)}, indent=1, allow_nan=False) + "\n")


def checksum(data: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a document's canonical JSON: sorted keys, UTF-8, no spaces.

    Raises:
        ValueError: a text cannot be encoded as UTF-8.
    """
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def read_text(path: Path, sha256: str | None) -> str:
    """Return the content of a text file; with `sha256`, verify its checksum.

    Raises:
        UserError: the file is missing.
        DamagedError: the file has another checksum, or is not UTF-8 text.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
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
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
