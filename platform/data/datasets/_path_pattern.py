"""Which files of a folder are pictures of which class, domain and split: a pattern with placeholders on their paths."""

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ...errors import UserError, listed, nearest
from ..image_decoding import EXTENSIONS, printable

PLACEHOLDERS = ("class", "domain", "split")
_SHOWN = 5  # examples of what was found instead


def compiled(pattern: str) -> re.Pattern[str]:
    """A pattern as an expression on paths below the folder: ``{class}`` and the like stand within one name, as ``*`` and ``?``
    do, a part ``**`` for any number of folders.

    Raises:
        ValueError: it has no {class}, a placeholder twice or one that is not known, or leads out of the folder.
    """
    found = re.findall(r"\{([^}]*)\}", pattern)
    unknown = [name for name in found if name not in PLACEHOLDERS]
    if unknown:
        known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
        raise ValueError(f"pattern={pattern!r}: must hold no other than {known}.{nearest(unknown[0], PLACEHOLDERS)}")
    if "class" not in found or len(found) != len(set(found)):
        raise ValueError(f"pattern={pattern!r}: must hold {{class}}, and each placeholder once")
    if not pattern or pattern.startswith(("/", "~")) or ".." in PurePosixPath(pattern).parts:
        raise ValueError(f"pattern={pattern!r}: must be below path: no leading / or ~, no ..")
    parts = [_part(part) for part in pattern.split("/") if part not in ("", ".")]
    return re.compile("".join(part if part.endswith(")*") else f"{part}/" for part in parts).removesuffix("/"))


def _part(part: str) -> str:
    """One name of a pattern as an expression; ``**`` takes its slash with it."""
    if part == "**":
        return "(?:[^/]+/)*"
    pieces = re.split(r"(\{\w+\}|\*|\?)", part)
    special = {"*": "[^/]*", "?": "[^/]"} | {f"{{{name}}}": f"(?P<{name}>[^/]+)" for name in PLACEHOLDERS}
    return "".join(special.get(piece, re.escape(piece)) for piece in pieces)


def matches(root: Path, pattern: str) -> list[tuple[str, dict[str, str]]]:
    """The pictures that fit: path below `root` and the placeholders' values, sorted by path; hidden files are passed over.

    Links to folders are followed where the pattern says how deep to go.
    """
    expression = compiled(pattern)
    found = [(path, expression.fullmatch(path)) for path in files(root, _depth(pattern)) if _is_picture(path)]
    return sorted((path, _values(match)) for path, match in found if match is not None)


def _values(match: re.Match[str]) -> dict[str, str]:
    """The placeholders' values, as names that can be shown."""
    return {name: printable(value) for name, value in match.groupdict().items()}


def files(root: Path, depth: int | None) -> Iterator[str]:
    """The files below a folder, `depth` names deep at most (None: all), as paths below it.

    Raises:
        UserError: a folder cannot be listed.
    """
    for folder, folders, names in os.walk(root, onerror=_refuse, followlinks=depth is not None):
        below = PurePosixPath(Path(folder).relative_to(root).as_posix())
        if depth is not None and len(below.parts) >= depth - 1:
            folders.clear()
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (str(below / name) for name in names if not name.startswith("."))


def _refuse(error: OSError) -> None:
    raise UserError(f"{printable(error.filename)}: cannot be listed ({error.strerror}).") from error


def examples(root: Path) -> str:
    """What there is in a folder in which nothing fits, for an error message."""
    found = sorted(files(root, None))
    if not found:
        return "the folder has no files"
    pictures = [printable(path) for path in found if _is_picture(path)]
    if not pictures:
        return f"of its {len(found)} files none ends in {listed(EXTENSIONS)}"
    return f"its {len(pictures)} pictures are like {', '.join(pictures[:: max(1, len(pictures) // _SHOWN)][:_SHOWN])}"


def _depth(pattern: str) -> int | None:
    parts = [part for part in pattern.split("/") if part not in ("", ".")]
    return None if "**" in parts else len(parts)


def _is_picture(path: str) -> bool:
    return path.lower().endswith(EXTENSIONS)
