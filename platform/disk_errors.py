"""Errors of a full or read-only disk, turned into a message that tells the user how to continue."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import disk_usage

from .errors import UserError

_UNWRITABLE = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG))


def unwritable_reason(error: BaseException) -> str | None:
    """Return the system's message if an exception or one of its causes reports a full or read-only disk, else None.

    The text is searched, not the type: torch reports a full disk with exceptions that are not OSErrors.
    """
    link: BaseException | None = error
    while link is not None:
        for message in _UNWRITABLE:
            if message in str(link):
                return message
        link = link.__cause__ or link.__context__
    return None


def unwritable_folder_error(folder: Path, reason: str) -> UserError:
    """Return the error for a folder that cannot be written: the reason, the free space, and how to continue."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    started = any((folder / name).exists() for name in ("trial.json", "trials.json"))
    advice = (
        f"Completed work is kept. Once the folder can be written again, continue with: retain resume {folder}"
        if started
        else "Make room, or start again with another folder."
    )
    return UserError(
        f"{folder} cannot be written: {reason} ({disk_usage(existing).free / 2**20:.1f} MB are free). {advice}"
    )


@contextmanager
def reraise_disk_errors(folder: Path) -> Iterator[None]:
    """Raise a UserError that names `folder` when the block fails because of a full or read-only disk."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - any type can carry the system's message; all others are re-raised
        reason = unwritable_reason(error)
        if reason is None:
            raise
        raise unwritable_folder_error(folder, reason) from error
