"""Downloads by torchvision's data sets, which know the addresses and check md5 sums before they read anything.

They open a data set in parts, mostly train and test; a part is the keywords that its class takes for it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from ...errors import UserError
from ._locate import searched

Keywords = Mapping[str, Any]


def fetch(
    title: str, torchvision: str, downloads: Path, tried: Sequence[Path], advice: str, parts: Sequence[Keywords] = ({},)
) -> list[Any]:
    """Download a data set into `downloads`, once, and return each part as torchvision's object.

    Args:
        title: how people call it.
        torchvision: how torchvision's class is called.
        tried: where it was looked for, and
        advice: how else to get it, for the error message.

    Raises:
        UserError: there is no network, or a mirror sent a wrong file.
    """
    try:
        downloads.mkdir(parents=True, exist_ok=True)
        with FileLock(downloads / f"{torchvision}.lock"):
            return _parts(torchvision, downloads, parts, download=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{title} was not found in {searched(tried)}, nor could it be downloaded ({_reason(error)}). "
            f"Do one of these: {advice}"
        ) from error


def verified(torchvision: str, root: Path, parts: Sequence[Keywords], again: bool) -> list[Any]:
    """Read the parts of a data set that lies in `root` in torchvision's form.

    Args:
        again: download what is damaged again, as a download that was killed leaves it.

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
    """Let torchvision open each part."""
    from torchvision import datasets

    return [getattr(datasets, torchvision)(root, download=download, **part) for part in parts]


def _reason(error: Exception) -> str:
    """The error in one line."""
    return " ".join(str(error).split())
