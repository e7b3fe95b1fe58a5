"""Where strategies, benchmarks and networks are found by name, and what strategies ask of whatever runs them.

A module of one of these kinds has a frozen dataclass `Config` and a function `build`; its file's name is its name in the YAML.
A colon (``torchvision:resnet18``) gives the module its setting `name`.
A dotted path (``mypkg.mymodule``) names a module of the user's own with the same contract; under ``strategies`` it may also
name an Avalanche plugin class (``avalanche.training.plugins.EWCPlugin``), under ``benchmark`` a function that makes an Avalanche
benchmark (``avalanche.benchmarks.SplitCIFAR100``): the settings are then its arguments.
This file imports no torch at the top: names are checked before anything heavy is loaded.
"""

import importlib
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from ..errors import UserError, listed, nearest
from .dotted_paths import import_path, split_colon
from .renamed import hint

if TYPE_CHECKING:
    pass

Kind = Literal["strategies", "benchmarks", "networks", "datasets", "probes"]
_ROOT = Path(__file__).resolve().parents[2]
_PACKAGE = __package__.rpartition(".platform.")[0]  # retain
_FOLDERS: dict[Kind, str] = {
    "strategies": "strategies",
    "benchmarks": "benchmarks",
    "networks": "platform/models/networks",
    "datasets": "platform/data/datasets",
    "probes": "platform/training/probes",
}
_BENCHMARKS = "avalanche.benchmarks.classic."  # elsewhere Avalanche has functions that unpickle what they are given
KEYS: dict[Kind, str] = {  # the key of each kind in the YAML; data sets stand inside of benchmarks
    "strategies": "strategies",
    "benchmarks": "benchmark",
    "networks": "model",
    "datasets": "data",
    "probes": "probes",
}


def names(kind: Kind) -> list[str]:
    """Names of the shipped modules of a kind, sorted: the files of its folder."""
    folder = _ROOT / _FOLDERS[kind]
    return sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))


def check_name(kind: Kind, name: str) -> None:
    """Refuse a name that no module has, without importing anything (a dotted path is left to `resolve`)."""
    module, _ = split_colon(name)
    if "." not in module and module not in names(kind):
        known = names(kind)
        raise UserError(
            f"{KEYS[kind]}.{name}: there is no such name.{hint(f'{KEYS[kind]}.{name}') or nearest(module, known)} "
            f"Known: {listed(known)}; or give the dotted path of a module of your own."
        )


def resolve(kind: Kind, name: str) -> Any:
    """Return the module (or, for a dotted path, Avalanche's plugin class or benchmark function) that `name` stands for.

    Raises:
        UserError: nothing of that name can be imported, or it has not the contract (`Config` and `build`).
    """
    check_name(kind, name)
    name, _ = split_colon(name)
    if "." not in name:
        return importlib.import_module(f"{_PACKAGE}.{_FOLDERS[kind].replace('/', '.')}.{name}")
    found = import_path(f"{KEYS[kind]}.{name}", name)
    if isinstance(found, ModuleType) and hasattr(found, "Config") and hasattr(found, "build"):
        return found
    where = str(getattr(found, "__module__", ""))
    if kind == "strategies" and isinstance(found, type) and not where.startswith("avalanche.logging"):
        return found
    if kind == "benchmarks" and callable(found) and where.startswith(_BENCHMARKS):
        return found
    raise UserError(
        f"{KEYS[kind]}.{name}: is no module with a dataclass `Config` and a function `build` (see README.md), no plugin class "
        f"and no function of {_BENCHMARKS}*."
    )
