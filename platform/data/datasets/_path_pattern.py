"""Path patterns with placeholders for class, domain and split, as regular expressions; better patterns for a folder."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import PurePosixPath

from ...errors import nearest

PLACEHOLDERS = ("class", "domain", "split")
SPLITS = {  # accepted names of a folder {split}
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "validation": ("val", "valid", "validation"),  # used as the test part if there is none, as with ImageNet
}
SPLIT_OF = {name: part for part, names in SPLITS.items() for name in names}


@dataclass(frozen=True, slots=True)
class NamedFolder:
    """A part of a pattern that names folders by a placeholder.

    `expression` fits the folders' paths. `is_nested` is true after a ``**``: then it fits the folders around them too.
    """

    expression: re.Pattern[str]
    is_nested: bool


def compiled(pattern: str) -> re.Pattern[str]:
    """Compile a pattern to a regular expression on paths below the folder, in Unicode's normal form C.

    Placeholders such as ``{class}``, ``*`` and ``?`` match within one name; a part ``**`` matches any number of folders.

    Raises:
        ValueError: it has no {class}, a placeholder twice or an unknown one, leads out of the folder, or fits no file.
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
    parts = parts_of(pattern)
    if parts[-1] == "**" or pattern.endswith("/"):
        raise ValueError(f"pattern={pattern!r}: fits folders only, no files: write {'/'.join(parts)}/*")
    return _expression(parts)


def parts_of(pattern: str) -> list[str]:
    """Return the parts of a pattern between slashes."""
    return [part for part in normal(pattern).split("/") if part not in ("", ".")]


def normal(text: str) -> str:
    """Return a text in Unicode's normal form C; Macs write names in form D, which look the same."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def fixed_folder(pattern: str) -> str:
    """Return the folders at the start of a pattern that are no placeholders or wildcards, with a slash at the end, or ""."""
    fixed = takewhile(lambda part: not re.search(r"[{*?]", part), parts_of(pattern)[:-1])
    return "".join(f"{part}/" for part in fixed)


def named_folders(pattern: str) -> list[NamedFolder]:
    """Return the parts of a pattern that are the folder of a class or domain, from the top."""
    parts = parts_of(pattern)
    return [
        NamedFolder(_expression(parts[: number + 1]), "**" in parts[:number])
        for number, part in enumerate(parts[:-1])
        if "{class}" in part or "{domain}" in part
    ]


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A pattern that takes more pictures: how many of those that are left out, and the classes that it gives."""

    pattern: str
    number: int
    classes: tuple[str, ...]


def better_patterns(pattern: str, taken: Sequence[str], left: Sequence[str]) -> list[Suggestion]:
    """Return the usual patterns that take most pictures; [] if none takes more than the present one.

    There are several only if the present pattern takes none, so which folders are the classes cannot be told.

    Args:
        pattern: the present pattern.
        taken: paths of the pictures that it takes.
        left: paths of those that it does not fit.
    """
    scored: list[tuple[int, Suggestion]] = []
    for candidate in _candidates(pattern, left):
        expression = compiled(candidate)
        matches = [match for path in (*left, *taken) if (match := expression.fullmatch(normal(path)))]
        classes = tuple(sorted({match["class"] for match in matches}))
        plausible = bool(taken) or len(classes) > 1  # one class is a folder around the classes
        number = sum(expression.fullmatch(normal(path)) is not None for path in left)
        if len(matches) > len(taken):
            scored.append((len(matches) * (2 if plausible else 1), Suggestion(candidate, number, classes)))
    most = max((score for score, _ in scored), default=0)
    best = [suggestion for score, suggestion in scored if score == most]
    if taken or (best and "{split}" in best[0].pattern):
        return best[:1]
    return list({suggestion.classes: suggestion for suggestion in reversed(best)}.values())[::-1]


def _candidates(pattern: str, left: Sequence[str]) -> Iterator[str]:
    """Yield the usual alternatives to a pattern: splits, any file name, folders further down, folders further up."""
    parts = parts_of(pattern)
    folders, last = parts[:-1], parts[-1]
    at = next(number for number, part in enumerate(parts) if "{class}" in part)
    level = _split_level(left)
    if "{split}" not in pattern and level is not None and level <= len(folders):
        yield "/".join([*folders[:level], "{split}", *folders[level:], last if "{" in last else "*"])
    variants = [folders, [*folders, "**"], ["**", *folders]] + ([["**", *parts[at:-1]]] if at else [])
    for name in dict.fromkeys([last, last if "{" in last else "*"]):
        for variant in variants:
            whole = [part for part, before in zip(variant, ["", *variant], strict=False) if not part == before == "**"]
            if [*whole, name] != parts:
                yield "/".join([*whole, name])


def _split_level(paths: Sequence[str]) -> int | None:
    """Return how many folders are above those that are named as splits, train and another; None if no level has such names."""
    folders = [path.lower().split("/")[:-1] for path in paths]
    for level, names in enumerate(zip(*folders, strict=False)):  # as deep as all paths are
        parts = {SPLIT_OF.get(name) for name in names}
        if "train" in parts and len(parts) > 1 and None not in parts:
            return level
    return None


def _expression(parts: Sequence[str]) -> re.Pattern[str]:
    pieces = [_piece(part) for part in parts]
    return re.compile("".join(piece if piece.endswith(")*") else f"{piece}/" for piece in pieces).removesuffix("/"))


def _piece(part: str) -> str:
    """Convert one part of a pattern to a regular expression; that of ``**`` includes the slash."""
    if part == "**":
        return "(?:[^/]+/)*"
    pieces = re.split(r"(\{\w+\}|\*|\?)", part)
    special = {"*": "[^/]*", "?": "[^/]"} | {f"{{{name}}}": f"(?P<{name}>[^/]+)" for name in PLACEHOLDERS}
    return "".join(special.get(piece, re.escape(piece)) for piece in pieces)
