"""Small text files, written whole and atomically, and read with errors that name them; what makes files durable and checked.

This file imports nothing heavy.
"""

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import UserError

SCHEMA = 1
VIEWS = ("task_agnostic", "task_aware")  # of an accuracy matrix: among all classes, among the experience's own


def read_json(path: Path) -> dict[str, Any]:
    """Return the mapping in a JSON file; UserError names the file when it is missing, damaged or of a newer schema."""
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} is damaged: a mapping was expected, not {type(data).__name__}")
    schema = data.get("schema", SCHEMA)
    if not isinstance(schema, int) or schema > SCHEMA:
        raise UserError(f"{path} has schema {schema!r}, written by a newer retain: this one reads up to {SCHEMA}")
    return data


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON file atomically; NaN and infinities become null."""
    write_text(path, to_json(data, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically: a reader sees the old content or the new, also after a crash of the machine."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with contextlib.ExitStack() as stack:
        stack.callback(temporary.unlink, missing_ok=True)  # whatever happens, it is not left behind
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    sync(path.parent)


def digest(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Make a file, or a folder's list of names, survive a power cut, where the system can (Windows opens no folders)."""
    with contextlib.suppress(PermissionError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def to_json(data: Mapping[str, Any], indent: int | None = None) -> str:
    """Return strict JSON text, on one line without an indent; NaN and infinities become null."""
    return json.dumps(_finite(data), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    """Copy nested data with None in the place of what JSON cannot say."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def whole_lines(path: Path, size: int | None = None) -> int:
    """Length in bytes of the file's complete lines, or of those within its first `size` bytes."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END) if size is None else size
        while end > 0:
            start = max(0, end - 65536)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
    return 0
