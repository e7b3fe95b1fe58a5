"""Where a data set's files lie, and what their content is called."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from ...errors import UserError
from ..cache import DataFolders

_SAMPLE = 65536  # bytes at either end of a file that go into its identity; a .gz file's end holds its content's CRC


def identity(files: Iterable[Path]) -> str:
    """Name the content of the files cheaply: sizes, times and both ends of each."""
    digest = hashlib.sha256()
    for path in files:
        status = path.stat()
        with path.open("rb") as file:
            start = file.read(_SAMPLE)
            file.seek(max(0, status.st_size - _SAMPLE))
            digest.update(f"{status.st_size} {status.st_mtime_ns} ".encode() + start + file.read())
    return digest.hexdigest()[:16]


def places(folders: DataFolders, names: Sequence[str]) -> list[Path]:
    """The folders of these names in the data folder, whether they exist or not; none without a data folder."""
    return [] if folders.root is None else [folders.root / name for name in names]


def searched(tried: Sequence[Path]) -> str:
    """The places that were tried, for an error message."""
    return ", ".join(map(str, tried)) or "data.root, which is not set"


def folder_with(marker: str, title: str, tried: Sequence[Path], advice: str) -> Path:
    """The first of the folders that holds a file or folder called `marker`.

    Raises:
        UserError: none does; `title` and `advice` (how to get the data set) are said.
    """
    found = next((folder for folder in tried if (folder / marker).exists()), None)
    if found is None:
        raise UserError(f"{title} was not found in {searched(tried)}: none has {marker}. {advice}")
    return found
