"""A disk that is full or read-only: recognised in whatever it makes fail, and said so that the user knows how to go on."""

import errno
import os
from pathlib import Path
from shutil import disk_usage
from types import TracebackType
from typing import Self

from .errors import UserError

_UNWRITABLE = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS))


def unwritable_reason(error: BaseException) -> str | None:
    """The system's words, if an exception or its cause says that the disk is full or read-only (torch's are no OSErrors)."""
    told: BaseException | None = error
    while told is not None:
        for words in _UNWRITABLE:
            if words in str(told):
                return words
        told = told.__cause__ or told.__context__
    return None


def unwritable_folder_error(folder: Path, reason: str) -> UserError:
    """What to tell the user of a folder in which nothing can be written."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    begun = any((folder / name).exists() for name in ("trial.json", "trials.json"))
    advice = (
        f"What is done is kept; when that is mended, go on with: retain resume {folder}"
        if begun
        else "Make room, or start again with another folder."
    )
    return UserError(
        f"{folder} cannot be written: {reason} ({disk_usage(there).free / 2**20:.1f} MB are free). {advice}"
    )


class reraise_disk_errors:
    """A context in which such a failure becomes a UserError that names the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        reason = unwritable_reason(error) if isinstance(error, Exception) else None
        if reason is not None:
            raise unwritable_folder_error(self.folder, reason) from error
