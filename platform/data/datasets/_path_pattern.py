"""Match picture files in a folder by a path pattern with placeholders for class, domain and split."""

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ...errors import UserError, comma_separated, nearest
from ..image_decoding import EXTENSIONS, printable

PLACEHOLDERS = ("class", "domain", "split")
_SHOWN = 5  # pictures shown if none fits


def compiled(pattern: str) -> re.Pattern[str]:
    """Compile a pattern to a regular expression on paths below the folder.

    Placeholders such as ``{class}``, ``*`` and ``?`` match within one name; a part ``**`` matches any number of folders.

    Raises:
        ValueError: it has no {class}, a placeholder twice or an unknown one, or leads out of the folder.
    """
    placeholders = re.findall(r"\{([^}]*)\}", pattern)
    unknown = [name for name in placeholders if name not in PLACEHOLDERS]
    if unknown:
        known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
        raise ValueError(f"pattern={pattern!r}: must hold no other than {known}.{nearest(unknown[0], PLACEHOLDERS)}")
    if "class" not in placeholders or len(placeholders) != len(set(placeholders)):
        raise ValueError(f"pattern={pattern!r}: must hold {{class}}, and each placeholder once")
    if not pattern or pattern.startswith(("/", "~")) or ".." in PurePosixPath(pattern).parts:
        raise ValueError(f"pattern={pattern!r}: must be below path: no leading / or ~, no ..")
    parts = [_part(part) for part in pattern.split("/") if part not in ("", ".")]
    return re.compile("".join(part if part.endswith(")*") else f"{part}/" for part in parts).removesuffix("/"))


def _part(part: str) -> str:
    """Convert one part of a pattern to a regular expression; that of ``**`` includes the slash."""
    if part == "**":
        return "(?:[^/]+/)*"
    pieces = re.split(r"(\{\w+\}|\*|\?)", part)
    special = {"*": "[^/]*", "?": "[^/]"} | {f"{{{name}}}": f"(?P<{name}>[^/]+)" for name in PLACEHOLDERS}
    return "".join(special.get(piece, re.escape(piece)) for piece in pieces)


def matches(root: Path, pattern: str) -> list[tuple[str, dict[str, str]]]:
    """Return the matching pictures, sorted: (path below `root`, values of the placeholders). Hidden files are skipped.

    Links to folders are followed, unless the pattern has ``**`` and therefore no depth limit.
    """
    expression = compiled(pattern)
    candidates = [(path, expression.fullmatch(path)) for path in files(root, _depth(pattern)) if _is_picture(path)]
    return sorted((path, _values(match)) for path, match in candidates if match is not None)


def _values(match: re.Match[str]) -> dict[str, str]:
    """Return the placeholders' values as printable names."""
    return {name: printable(value) for name, value in match.groupdict().items()}


def files(root: Path, depth: int | None) -> Iterator[str]:
    """Yield the files below a folder as relative paths, at most `depth` names deep (None: all).

    Raises:
        UserError: a folder cannot be listed.
    """
    for folder, folders, names in os.walk(root, onerror=_refuse, followlinks=depth is not None):
        relative = PurePosixPath(Path(folder).relative_to(root).as_posix())
        if depth is not None and len(relative.parts) >= depth - 1:
            folders.clear()
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (str(relative / name) for name in names if not name.startswith("."))


def _refuse(error: OSError) -> None:
    raise UserError(f"{printable(error.filename)}: cannot be listed ({error.strerror}).") from error


def examples(root: Path) -> str:
    """Describe the content of a folder in which no file matches, for an error message."""
    paths = sorted(files(root, None))
    if not paths:
        return "the folder has no files"
    pictures = [printable(picture) for picture in paths if _is_picture(picture)]
    if not pictures:
        return f"of its {len(paths)} files none ends in {comma_separated(EXTENSIONS)}"
    return f"its {len(pictures)} pictures are like {', '.join(pictures[:: max(1, len(pictures) // _SHOWN)][:_SHOWN])}"


def _depth(pattern: str) -> int | None:
    parts = [part for part in pattern.split("/") if part not in ("", ".")]
    return None if "**" in parts else len(parts)


def _is_picture(path: str) -> bool:
    return path.lower().endswith(EXTENSIONS)
