"""Imports of the modules that a config names by a dotted path: the user's and Avalanche's, never those in a run folder."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..run_folders import run_folder_of
from .user_code import is_standard_library, user_line


def split_colon(name: str) -> tuple[str, dict[str, str]]:
    """Split ``torchvision:resnet18`` into the module `torchvision` and its setting `name`; without a colon, no setting."""
    module, colon, inner = name.partition(":")
    return module, {"name": inner} if colon else {}


def import_path(key: str, path: str) -> Any:
    """Import a module, or an attribute of one, by its dotted path.

    Args:
        key: the config key with the path, for the error message.
        path: the dotted path.

    Raises:
        UserError: the import fails (with the file and line of the user's code), or a config may not name the module.
    """
    parent, _, attribute = path.rpartition(".")
    package = path.partition(".")[0]
    if _is_closed(package) or "__main__" in path.split("."):
        raise UserError(
            f"{key}: is not imported: modules in a run's folder and those of the standard library never are. "
            f"Name your own module, with a dataclass `Config` and a function `build`.{_hidden(package)}"
        )
    try:
        return _imported(path, parent, attribute)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's module may raise anything while it is imported
        line = user_line(error)
        if line:
            message = error.msg if isinstance(error, SyntaxError) else str(error)
            raise UserError(f"{key}: {line}: {type(error).__name__}: {message}") from error
        raise UserError(f"{key}: cannot be imported: {error}.{_hidden(package)}") from error


def _imported(path: str, parent: str, attribute: str) -> Any:
    """Import a module, or look up an attribute of its parent."""
    try:
        is_module = importlib.util.find_spec(path) is not None
    except (ModuleNotFoundError, ValueError, TypeError) as error:
        if isinstance(error, ModuleNotFoundError) and not f"{path}.".startswith(f"{error.name}."):
            raise  # a parent package was found, and imports what is not there
        is_module = False  # the last part may be a class, which is looked up in its module below
    return importlib.import_module(path) if is_module else getattr(importlib.import_module(parent), attribute)


def _is_closed(package: str) -> bool:
    """Return whether configs may not name a top-level package: it is Python's own, or lies in a run folder."""
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # an empty name, or one such as __main__
        return True
    if package in sys.stdlib_module_names or (spec is not None and spec.origin in ("built-in", "frozen")):
        return True
    paths = _paths(spec)
    return any(is_standard_library(path) or run_folder_of(path) is not None for path in paths)


def _paths(spec: ModuleSpec | None) -> list[Path]:
    """Return where a top-level module or package lies; a package may have several folders."""
    if spec is None:
        return []
    return [Path(path) for path in (spec.origin, *(spec.submodule_search_locations or ())) if path is not None]


def _hidden(package: str) -> str:
    """Return a sentence if the working directory has a module that another one of the same name hides."""
    spec = importlib.util.find_spec(package) if package.isidentifier() and package != "__main__" else None
    for path in (Path.cwd() / f"{package}.py", Path.cwd() / package):
        if path.exists() and spec is not None and path not in [each for p in _paths(spec) for each in (p, p.parent)]:
            where = next(iter(_paths(spec)), Path(package))
            return f" Your {path} has the name of {where}, which comes first: rename yours."
    return ""


def module_path(path: Sequence[str]) -> list[str]:
    """Return `path` (as sys.path) with the working directory last, where the user's modules are.

    There it hides no installed module and none of Python's: a user may have a script named ``calendar.py``. A working directory
    inside a run folder is not added, and other entries in run folders are removed: such a folder may come from someone else, so
    no code is imported from it.
    """
    working_directory = os.getcwd()
    if run_folder_of(Path(working_directory)) is None:
        return [*(entry for entry in dict.fromkeys(path) if entry not in ("", working_directory)), working_directory]
    return [entry for entry in path if entry and run_folder_of(Path(entry)) is None]
