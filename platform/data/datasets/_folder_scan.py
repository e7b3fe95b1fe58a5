"""List the picture files of a folder that fit a pattern, and count those that are left out, in one walk."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from ...errors import UserError, comma_separated
from ..image_decoding import EXTENSIONS, printable
from ._path_pattern import Suggestion, better_patterns, compiled, fixed_folder, named_folders, normal, parts_of

Row = tuple[str, dict[str, str]]  # path below the folder, values of the placeholders as printable names
_OTHER_PICTURES = (  # that `decode` does not read
    *(".heic", ".heif", ".jxl", ".jp2", ".j2k", ".jpx", ".dib", ".tga", ".psd", ".svg"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw"),
)
_REASONS = {
    "pattern": "by the pattern",
    "extension": "by the extension",
    "hidden": "hidden",
    "unreadable": "unreadable",
    "link": "behind links that are not followed",
    "split": "for validation, since there is a test part",
    "elsewhere": "outside the folder that the pattern names",
    "metadata": "metadata of macOS",
}
_EXPECTED = ("split", "elsewhere", "metadata")  # reported, but no sign of a mistake
_LIMIT = 0.1  # share of the files that may be left out
_SHOWN = 5  # pictures, or folders, shown in an error
_printable = lru_cache(maxsize=4096)(printable)  # a million pictures have few classes


@dataclass(slots=True)
class Scan:
    """What a folder holds.

    Attributes:
        pattern: the pattern.
        rows: the pictures that are taken, sorted by path.
        places: for each placeholder its values, in Unicode's normal form C, and the folders in which each is a name.
        counts: how many files are left out, by reason.
        examples: for each reason, where such a file is.
        unfit: the paths of the pictures that the pattern does not fit.
        empty: the folders of classes or domains in which no picture is taken, sorted.
        num_files: the number of files that are not hidden.
    """

    pattern: str
    rows: list[Row] = field(default_factory=list)
    places: dict[str, dict[str, set[str]]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    unfit: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    num_files: int = 0

    def take(self, path: str, match: re.Match[str]) -> None:
        """Add a picture that the pattern fits."""
        for placeholder, value in match.groupdict().items():
            folder = match.string[: match.start(placeholder)].rpartition("/")[0]
            self.places.setdefault(placeholder, {}).setdefault(value, set()).add(folder)
        self.rows.append((path, {placeholder: _printable(value) for placeholder, value in match.groupdict().items()}))

    def leave_out(self, reason: str, path: str, number: int = 1) -> None:
        """Count files that are left out for a reason; `path` is an example."""
        if number and reason not in self.examples:
            self.examples[reason] = f"such as {printable(path)}"
        self.counts[reason] += number

    @property
    def num_taken(self) -> int:
        """Return how many pictures the data set has."""
        return len(self.rows) - self.counts["unreadable"] - self.counts["split"]

    def exceeds_limit(self) -> bool:
        """Return whether more than a tenth of the files is left out; macOS's metadata and unused splits do not count."""
        left = self.counts.total() - sum(self.counts[reason] for reason in _EXPECTED)
        return left > _LIMIT * (left + self.num_taken)

    def report(self) -> str:
        """Describe what is left out, by reason, and the pattern that would take it; an empty text if nothing is."""
        texts = []
        if total := self.counts.total():
            parts = [
                f"{self.counts[reason]:,} {text} ({self.examples[reason]})"
                for reason, text in _REASONS.items()
                if self.counts[reason]
            ]
            texts.append(f"{total:,} of {total + self.num_taken:,} files are left out: {', '.join(parts)}.")
        if self.empty:
            more = f" and {len(self.empty) - _SHOWN:,} more" if len(self.empty) > _SHOWN else ""
            shown = ", ".join(map(printable, self.empty[:_SHOWN]))
            texts.append(f"No picture is taken from these folders of classes or domains: {shown}{more}.")
        return " ".join([*texts, *self._suggestion()])

    def _suggestion(self) -> list[str]:
        if self.rows and not self.counts["pattern"]:
            return []
        left = [path for path in self.unfit if normal(path).startswith(fixed_folder(self.pattern))] or self.unfit
        suggestions = better_patterns(self.pattern, [path for path, _ in self.rows], left)
        if not suggestions:
            return []
        best, *others = suggestions
        number = f"{best.number:,} of them" if best.number < len(left) else "those too"
        if not others:
            return [f"The pattern {best.pattern} takes {number}."]
        rest = ", or ".join(f"{other.pattern} ({_classes_of(other)})" for other in others)
        return [f"The pattern {best.pattern} takes {number} ({_classes_of(best)}), or {rest}."]

    def content(self) -> str:
        """Describe the content of a folder in which no picture fits, for an error message."""
        if not self.num_files:
            return "the folder has no files"
        if not self.unfit:
            return f"of its {self.num_files} files none ends in {comma_separated(EXTENSIONS)}"
        shown = sorted(map(printable, self.unfit))
        shown = shown[:: max(1, len(shown) // _SHOWN)][:_SHOWN]
        return " ".join(
            [f"its {len(self.unfit)} pictures are like {', '.join(shown)}.", *self._suggestion()]
        ).removesuffix(".")


def scan(root: Path, pattern: str) -> Scan:
    """Walk through a folder once and sort its files into those that the pattern takes and those that it leaves out.

    Links to folders are followed down to the depth of the pattern; with ``**``, which has no depth, none is followed.

    Raises:
        UserError: a folder cannot be listed.
    """
    result = Scan(pattern)
    parts = parts_of(pattern)
    expression, depth = compiled(pattern), None if "**" in parts else len(parts)
    fixed = fixed_folder(pattern)
    folders: list[tuple[str, bool]] = []  # path, whether it has subfolders
    for prefix, subfolders, names in _walk(root, depth, result):
        folders.append((prefix.removesuffix("/"), bool(subfolders)))
        hidden, inside = _is_hidden(prefix), normal(prefix).startswith(fixed)
        for name in names:
            path, is_picture = prefix + name, name.lower().endswith(EXTENSIONS)
            if hidden or name.startswith("."):
                if is_picture:
                    result.leave_out("metadata" if name.startswith("._") else "hidden", path)
                continue
            result.num_files += 1
            match = expression.fullmatch(normal(path))
            if match is not None and is_picture:
                result.take(path, match)
            elif is_picture:
                result.unfit.append(path)
                result.leave_out("pattern" if inside else "elsewhere", path)
            elif match is not None or (inside and name.lower().endswith(_OTHER_PICTURES)):
                result.leave_out("extension", path)
            elif (depth is None or prefix.count("/") < depth - 1) and os.path.islink(root / path):
                result.leave_out("link", path)  # a broken one: a class on a disk that is not mounted, say
                folders.append((path, False))
    result.rows.sort()
    result.empty = _empty_folders(pattern, folders, result.rows)
    return result


def _walk(root: Path, depth: int | None, result: Scan) -> Iterator[tuple[str, Sequence[str], Sequence[str]]]:
    """Yield (path of a folder below `root` with a slash at its end, names of its folders, names of its files), sorted."""
    top = os.path.join(root, "")
    for folder, folders, names in os.walk(root, onerror=_refuse, followlinks=True):
        prefix = os.path.join(folder, "")[len(top) :].replace(os.sep, "/")
        followed = depth is not None and prefix.count("/") < depth - 1 and not _is_hidden(prefix)
        if not followed:
            for name in [name for name in folders if os.path.islink(os.path.join(folder, name))]:
                folders.remove(name)
                if not _leads_into(root, Path(folder, name)) and not _is_hidden(f"{prefix}{name}"):
                    result.leave_out("link", prefix + name)
        folders.sort()
        yield prefix, folders, sorted(names)


def _is_hidden(path: str) -> bool:
    """Return whether a name of a path starts with a dot, or is the folder of metadata that macOS adds to archives."""
    return path.startswith(".") or "/." in path or "__MACOSX" in path.split("/")


def _leads_into(root: Path, link: Path) -> bool:
    """Return whether a link's target lies below `root`, where it is walked through anyway."""
    return Path(os.path.realpath(link)).is_relative_to(os.path.realpath(root))


def _empty_folders(pattern: str, folders: Sequence[tuple[str, bool]], rows: Sequence[Row]) -> list[str]:
    """Return the folders of classes or domains in which no picture is taken; not those inside such a folder."""
    filled = {""}
    for path, _ in rows:
        while (path := path.rpartition("/")[0]) not in filled:
            filled.add(path)
    empty: dict[str, None] = {}
    for named in named_folders(pattern):
        for path, has_folders in folders:
            if path in filled or _is_hidden(path) or (named.is_nested and has_folders):
                continue
            if path.rpartition("/")[0] not in empty and named.expression.fullmatch(normal(path)):
                empty[path] = None
    return sorted(empty)


def _classes_of(suggestion: Suggestion) -> str:
    """Show the classes that a pattern gives."""
    names = suggestion.classes
    return f"classes {', '.join(map(printable, names[:_SHOWN]))}{', ...' if len(names) > _SHOWN else ''}"


def _refuse(error: OSError) -> None:
    raise UserError(f"{printable(error.filename)}: cannot be listed ({error.strerror}).") from error
