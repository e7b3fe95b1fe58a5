"""What the user did wrong, said in one sentence."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in what the user gave us: the message names the key, the value and what is allowed (exit code 2)."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the known name closest to `name`, or an empty string."""
    by_lower = {one.lower(): one for one in known}
    found = difflib.get_close_matches(name.lower(), list(by_lower), n=1, cutoff=0.5)
    return f" Did you mean '{by_lower[found[0]]}'?" if found else ""


def listed(names: Iterable[str]) -> str:
    """Return the names sorted and separated by commas, for an error message."""
    return ", ".join(sorted(names))
