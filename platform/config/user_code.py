"""Find the line of the user's own code that an exception comes from."""

import os
import sysconfig
import traceback
from functools import cache
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_INSTALLED = ("site-packages", "dist-packages")


@cache
def standard_library() -> tuple[Path, ...]:
    """Return the folders of Python's own modules."""
    folders = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), os.path.dirname(os.__file__))
    return tuple(dict.fromkeys(Path(folder).resolve() for folder in folders))


def is_standard_library(path: Path) -> bool:
    """Return whether a file or folder belongs to Python itself; installed packages do not, although they may lie inside."""
    path = path.resolve()
    for folder in standard_library():
        if path.is_relative_to(folder):
            parts = path.relative_to(folder).parts
            if len(parts) < 2 or parts[0] not in _INSTALLED:
                return True
    return False


def user_line(error: BaseException) -> str:
    """Return the innermost line of the user's code in an exception's traceback, as ``mine.py, line 3``; "" if there is none.

    The user's is what belongs neither to Python, nor to an installed package, nor to retain. Of a syntax error it is the line
    that cannot be read.
    """
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        frames.append((error.filename, error.lineno))
    own = [(name, line) for name, line in frames if _is_users(name)]
    return "{}, line {}".format(*own[-1]) if own else ""


def _is_users(name: str) -> bool:
    path = Path(name)
    if name.startswith("<") or set(path.parts) & set(_INSTALLED):
        return False
    ours = any(path.is_relative_to(_ROOT / part) for part in ("platform", "strategies", "benchmarks", "__init__.py"))
    return not ours and not is_standard_library(path)
