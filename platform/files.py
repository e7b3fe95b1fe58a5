"""Atomic and durable file writes, checksums, and the length of a file's complete lines.

Imports only the standard library.
"""

import contextlib
import hashlib
import os
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as `write_bytes` does."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically and durably: a reader sees the old content or the new, even after the machine crashes."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with contextlib.ExitStack() as stack:
        stack.callback(temporary.unlink, missing_ok=True)  # also removed after an error
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    fsync(path.parent)


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk, so that it survives a power cut.

    Does nothing for folders on Windows, which cannot open them.
    """
    with contextlib.suppress(PermissionError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def whole_lines(path: Path, size: int | None = None) -> int:
    """Return the length in bytes of the file's complete lines, or of those within its first `size` bytes."""
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
