"""Refuse names of classes or domains that differ only in what nobody sees or means: case, blanks, Unicode's variants."""

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from ...errors import UserError
from ..image_decoding import printable

_SHOWN = 3  # pairs of names in an error


def check_spellings(names: Mapping[str, Iterable[str]], key: str, what: str) -> None:
    """Refuse names that are probably meant to be the same.

    Names that look the same (blanks, characters without width) are refused. Those that differ only in case, or in Unicode's
    compatibility forms, are refused unless one place has both, as a folder of the letters "a" and "A" does.

    Args:
        names: each name, in Unicode's normal form C, with the places where it is used.
        key: the setting that names them, for the error message.
        what: what they name, in the plural.

    Raises:
        UserError: with both spellings.
    """
    places = {name: set(of) for name, of in names.items()}
    pairs = []
    for similar in _groups(names, _meaning):
        same = [group for group in _groups(similar, _look) if len(group) > 1]
        pairs += [(group[0], group[1]) for group in same]
        if not same and len(similar) > 1 and not set.intersection(*(places[name] for name in similar)):
            pairs.append((similar[0], similar[1]))
    if pairs:
        shown = "; ".join(
            f"{_shown(name)} (in {_place(places[name])}) and {_shown(other)} (in {_place(places[other])})"
            for name, other in pairs[:_SHOWN]
        )
        more = f"; and {len(pairs) - _SHOWN} more" if len(pairs) > _SHOWN else ""
        raise UserError(f"{key}: {what} differ only in how they are spelt: {shown}{more}. Rename one of them.")


def _groups(names: Iterable[str], key: Callable[[str], str]) -> list[list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        groups[key(name)].append(name)
    return list(groups.values())


def _shown(name: str) -> str:
    """Return a name in quotes; characters that are not printable, such as those without width, are escaped."""
    return f"'{printable(name)}'"


def _place(places: set[str]) -> str:
    return printable(min(places)) or "the folder itself"


def _look(name: str) -> str:
    """Return a name without what is invisible: characters without width, and blanks around it or repeated."""
    shown = "".join(char for char in name if char.isspace() or not _is_invisible(char))
    return printable(unicodedata.normalize("NFC", " ".join(shown.split())))


def _is_invisible(char: str) -> bool:
    return unicodedata.category(char) in ("Cc", "Cf") or "\ufe00" <= char <= "\ufe0f"


def _meaning(name: str) -> str:
    """Return a name without differences in case and Unicode's compatibility forms, such as a ligature or a full-width letter."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", _look(name)).casefold())
