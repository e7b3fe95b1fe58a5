"""Modules that a config names: by a dotted path or with a colon, the user's own, Avalanche's, never those in a run's folder."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..run_folders import run_folder_of

if TYPE_CHECKING:
    pass


def split_colon(name: str) -> tuple[str, dict[str, str]]:
    """``torchvision:resnet18`` -> the module `torchvision` and its setting `name`; any other name has no such setting."""
    module, colon, inner = name.partition(":")
    return module, {"name": inner} if colon else {}


def import_path(key: str, path: str) -> Any:
    """Import a module, or an attribute of one, by its dotted path.

    Raises:
        UserError: there is none, or it is one that a config may not name. `key`: what names it.
    """
    parent, _, attribute = path.rpartition(".")
    if _is_closed(path.partition(".")[0]):
        raise UserError(
            f"{key}: is not imported: modules in a run's folder and those of the standard library never are. "
            f"Name a module of your own with a dataclass `Config` and a function `build`."
        )
    try:
        is_module = importlib.util.find_spec(path) is not None
    except (ImportError, ValueError, TypeError):
        is_module = False  # the last part may be a class: looked up in its module next
    try:
        return importlib.import_module(path) if is_module else getattr(importlib.import_module(parent), attribute)
    except (ImportError, AttributeError, ValueError, TypeError, SyntaxError) as error:
        raise UserError(f"{key}: cannot be imported: {error}.") from error


def _is_closed(package: str) -> bool:
    """Whether a top-level package is not for configs to name: of the standard library, or in a run's folder."""
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # no name, or one such as __main__
        return True
    places = [str(spec.origin), *(spec.submodule_search_locations or ())] if spec is not None else []
    return package in sys.stdlib_module_names or any(run_folder_of(Path(place)) for place in places)


def module_path(path: Sequence[str]) -> list[str]:
    """`path` (as sys.path) with the working folder first: there are the user's own modules.

    Not where that is inside of a run's folder, which may be somebody else's: no code is taken from there.
    """
    here = os.getcwd()
    if run_folder_of(Path(here)) is None:
        return list(dict.fromkeys([here, *path]))
    return [entry for entry in path if entry and run_folder_of(Path(entry)) is None]
