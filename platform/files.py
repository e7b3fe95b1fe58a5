"""Small text files, written whole and atomically, and read with errors that name them; what makes files durable and checked.

This file imports nothing heavy.
"""

import contextlib
import hashlib
import os
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as `write_bytes` does."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically: a reader sees the old content or the new, also after a crash of the machine."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with contextlib.ExitStack() as stack:
        stack.callback(temporary.unlink, missing_ok=True)  # whatever happens, it is not left behind
        with temporary.open("wb") as file:
            file.write(data)
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
