"""Find a data set's files, and identify their content."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from ...errors import UserError
from ..cache import DataFolders

_SAMPLE = 65536  # bytes read at each end of a file for its identity; a .gz file ends with the CRC of its content


def content_identity(files: Iterable[Path]) -> str:
    """Hash the files cheaply, for a cache key: the size, the time and both ends of each."""
    digest = hashlib.sha256()
    for path in files:
        status = path.stat()
        with path.open("rb") as file:
            start = file.read(_SAMPLE)
            file.seek(max(0, status.st_size - _SAMPLE))
            digest.update(f"{status.st_size} {status.st_mtime_ns} ".encode() + start + file.read())
    return digest.hexdigest()[:16]


def candidate_folders(folders: DataFolders, names: Sequence[str]) -> list[Path]:
    """Return the folders with these names in the data folder, existing or not; [] without a data folder."""
    return [] if folders.root is None else [folders.root / name for name in names]


def folders_text(tried: Sequence[Path]) -> str:
    """Return the searched folders as text, for an error message."""
    return ", ".join(map(str, tried)) or "data.root, which is not set"


def folder_with(marker: str, title: str, tried: Sequence[Path], advice: str) -> Path:
    """Return the first of the folders that holds a file or folder called `marker`.

    Raises:
        UserError: none does; the message has `title` and `advice` (how to get the data set).
    """
    match = next((folder for folder in tried if (folder / marker).exists()), None)
    if match is None:
        raise UserError(f"{title} was not found in {folders_text(tried)}: none has {marker}. {advice}")
    return match
