"""Download data sets with torchvision, whose classes know the addresses and check md5 sums before they read.

A data set is opened in parts, usually train and test. A part is given by the keyword arguments of torchvision's class.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from ...errors import UserError
from ._locate import folders_text

Keywords = Mapping[str, Any]


def fetch(
    title: str, torchvision: str, downloads: Path, tried: Sequence[Path], advice: str, parts: Sequence[Keywords] = ({},)
) -> list[Any]:
    """Download a data set into `downloads`, once, and return each part as torchvision's object.

    Args:
        title: the data set's display name.
        torchvision: name of torchvision's class.
        downloads: folder of the download.
        tried: folders searched before, for the error message.
        advice: other ways to get the files, for the error message.
        parts: keyword arguments of torchvision's class for each part.

    Raises:
        UserError: there is no network, or a mirror sent a wrong file.
    """
    try:
        downloads.mkdir(parents=True, exist_ok=True)
        with FileLock(downloads / f"{torchvision}.lock"):
            return _parts(torchvision, downloads, parts, download=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{title} was not found in {folders_text(tried)}, nor could it be downloaded ({_reason(error)}). "
            f"Do one of these: {advice}"
        ) from error


def verified(torchvision: str, root: Path, parts: Sequence[Keywords], again: bool) -> list[Any]:
    """Read the parts of a data set that lies in `root` in torchvision's form.

    Args:
        again: download damaged files again; a killed download leaves some.

    Raises:
        UserError: a file's md5 sum is not the official one.
    """
    try:
        return _parts(torchvision, root, parts, download=again)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{root}: its {torchvision} is truncated or damaged: a file's md5 sum is not the official one "
            f"({_reason(error)}). Get it again."
        ) from error


def _parts(torchvision: str, root: Path, parts: Sequence[Keywords], download: bool) -> list[Any]:
    """Open each part with torchvision."""
    from torchvision import datasets

    return [getattr(datasets, torchvision)(root, download=download, **part) for part in parts]


def _reason(error: Exception) -> str:
    """Return the error on one line."""
    return " ".join(str(error).split())
