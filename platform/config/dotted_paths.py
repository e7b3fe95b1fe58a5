"""Imports of the modules that a config names by a dotted path: the user's and Avalanche's, never those in a run folder."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..run_folders import run_folder_of


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
        UserError: the import fails, or a config may not name the module.
    """
    parent, _, attribute = path.rpartition(".")
    if _is_closed(path.partition(".")[0]):
        raise UserError(
            f"{key}: is not imported: modules in a run's folder and those of the standard library never are. "
            f"Name your own module, with a dataclass `Config` and a function `build`."
        )
    try:
        is_module = importlib.util.find_spec(path) is not None
    except (ImportError, ValueError, TypeError):
        is_module = False  # the last part may be a class, which is looked up in its module below
    try:
        return importlib.import_module(path) if is_module else getattr(importlib.import_module(parent), attribute)
    except (ImportError, AttributeError, ValueError, TypeError, SyntaxError) as error:
        raise UserError(f"{key}: cannot be imported: {error}.") from error


def _is_closed(package: str) -> bool:
    """Return whether configs may not name a top-level package: it is in the standard library or in a run folder."""
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # an empty name, or one such as __main__
        return True
    paths = [str(spec.origin), *(spec.submodule_search_locations or ())] if spec is not None else []
    return package in sys.stdlib_module_names or any(run_folder_of(Path(path)) for path in paths)


def module_path(path: Sequence[str]) -> list[str]:
    """Return `path` (as sys.path) with the working directory first, where the user's modules are.

    A working directory inside a run folder is not added, and other entries in run folders are removed: such a folder may come
    from someone else, so no code is imported from it.
    """
    working_directory = os.getcwd()
    if run_folder_of(Path(working_directory)) is None:
        return list(dict.fromkeys([working_directory, *path]))
    return [entry for entry in path if entry and run_folder_of(Path(entry)) is None]
