"""Show text that comes from outside: characters that act on a terminal, a page or a spreadsheet are made visible.

Names, error messages and paths may come from somebody else's config, folder or picture files. Imports only the standard library.
"""

import re

# Characters that look like nothing, although `str.isprintable` accepts them: fillers, joiners, variation selectors.
_BLANK = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
# What a spreadsheet takes for the start of a formula, also after blanks and in full width (OWASP, CSV injection).
_FORMULA = re.compile("\\s*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")


def visible(text: str, keep: str = "") -> str:
    r"""Escape the characters of a text that cannot be seen but act, as Python writes them: "\x1b", "\u202e".

    These are control characters (C0, C1), marks that reorder or join text, characters without width, line breaks, blanks other
    than the space, and bytes of a file's name that are not UTF-8. Letters of every script stay as they are.

    Args:
        text: any text.
        keep: characters to leave as they are, such as line breaks.
    """
    if text.isprintable() and not _BLANK.search(text):
        return text
    return "".join(
        char if char in keep or (char.isprintable() and not _BLANK.match(char)) else _escaped(char) for char in text
    )


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()


def shortened(text: str, limit: int) -> str:
    """Return a text of at most `limit` characters: of a longer one, the start and the end."""
    if len(text) <= limit:
        return text
    start = limit * 2 // 3
    return f"{text[:start]}…{text[start + 1 - limit :]}"


def beginning(text: str, limit: int) -> str:
    """Return a text of at most `limit` characters: of a longer one, the start up to the end of a word."""
    return text if len(text) <= limit else f"{text[: limit - 1].rpartition(' ')[0] or text[: limit - 1]}…"


def csv_cell(text: str) -> str:
    """Return a text as a CSV cell that no spreadsheet runs as a formula: an apostrophe precedes = + - @ TAB CR."""
    text = visible(text, keep="\t\r\n")
    return f"'{text}" if _FORMULA.match(text) else text
