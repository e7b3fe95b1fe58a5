"""The exception for user mistakes, and helpers for its messages."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in the user's input. The message names the key, the value and what is allowed; the exit code is 2."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the known name closest to `name`, or an empty string."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    matches = difflib.get_close_matches(name.lower(), list(by_lower), n=1, cutoff=0.5)
    return f" Did you mean '{by_lower[matches[0]]}'?" if matches else ""


def comma_separated(names: Iterable[str]) -> str:
    """Return the names sorted and separated by commas, for an error message."""
    return ", ".join(sorted(names))
