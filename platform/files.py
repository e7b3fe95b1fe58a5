"""Atomic and durable file writes, reads of regular files only, checksums, and the length of a file's complete lines.

Imports only the standard library.
"""

import contextlib
import errno
import hashlib
import os
import stat
from io import BufferedReader
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


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading. A folder of results may come from someone else: a pipe or device in it would hang.

    Raises:
        OSError: the path is missing (FileNotFoundError), or a link, folder, pipe, socket or device.
    """
    if not stat.S_ISREG(path.lstat().st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    return os.fdopen(descriptor, "rb")


def check_size(path: Path, max_bytes: int) -> None:
    """Raise OSError if a file is larger than `max_bytes`."""
    if path.lstat().st_size > max_bytes:
        raise OSError(errno.EFBIG, f"it has more than {max_bytes} bytes", str(path))


def read_regular(path: Path, max_bytes: int) -> bytes:
    """Return the content of a regular file.

    Raises:
        OSError: as `open_regular` does; or the file has more than `max_bytes`.
    """
    check_size(path, max_bytes)
    with open_regular(path) as file:
        return file.read()


def digest(path: Path) -> str:
    """Return the SHA-256 of a regular file, in hexadecimal."""
    with open_regular(path) as file:
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
    with open_regular(path) as file:
        end = file.seek(0, os.SEEK_END) if size is None else size
        while end > 0:
            start = max(0, end - 65536)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
    return 0
