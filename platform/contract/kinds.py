"""What kind of module a name stands for: a strategy, network, benchmark, probe or data set."""

import inspect
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from ..config import registry
from ..config.dotted_paths import import_path, split_colon
from ..errors import UserError, nearest
from ..training.plugin import Plugin
from ..training.probes._base import Probe

KINDS: Mapping[str, registry.Kind] = {
    "strategy": "strategies",
    "network": "networks",
    "benchmark": "benchmarks",
    "probe": "probes",
    "data_set": "datasets",
}
_BY_PARAMETER = {"context": "probe", "folders": "data_set", "seed": "strategy"}


def kind_of(name: str, kind: str | None = None) -> str:
    """Return the kind of a module, a key of KINDS: the given one, or that of the name or of what the module defines.

    Raises:
        UserError: no such name or kind, or the kind is not clear.
    """
    if kind is not None:
        if kind not in KINDS:
            raise UserError(f"--kind {kind}: there is no such kind.{nearest(kind, KINDS)} Known: {', '.join(KINDS)}.")
        return kind
    candidates = _of_module(name) if "." in split_colon(name)[0] else _of_shipped_name(name)
    if len(candidates) != 1:
        said = f"could be a {' or a '.join(candidates)}" if candidates else "defines no part of a trial that is known"
        raise UserError(f"check {name}: {said}: give its kind with --kind {'|'.join(candidates or KINDS)}.")
    return candidates[0]


def _of_shipped_name(name: str) -> list[str]:
    """Return the kinds that ship a module of this name."""
    module, _ = split_colon(name)
    candidates = [kind for kind, key in KINDS.items() if module in registry.names(key)]
    if not candidates:
        known = [each for key in KINDS.values() for each in registry.names(key)]
        raise UserError(
            f"check {name}: there is no such name.{nearest(module, known)} "
            f"`retain list` prints all names; or give the dotted path of your own module."
        )
    return candidates


def _of_module(name: str) -> list[str]:
    """Return the kinds that a user's module, or an Avalanche class or function, may be of."""
    imported = import_path(f"check {name}", split_colon(name)[0])
    if not isinstance(imported, ModuleType):
        return ["strategy"] if isinstance(imported, type) else ["benchmark"]
    kinds = {kind for base, kind in ((Plugin, "strategy"), (Probe, "probe")) if _defines_subclass(imported, base)}
    if hasattr(imported, "build_for"):
        kinds.add("network")
    elif hasattr(imported, "build") and not kinds:
        kinds |= _of_parameters(list(inspect.signature(imported.build).parameters))
    return sorted(kinds)


def _of_parameters(parameters: list[str]) -> set[str]:
    """Return the kinds whose `build` has such parameters: by their number or else by the second one's name."""
    by_number = {4: {"network"}, 3: {"benchmark"}}.get(len(parameters))
    if by_number is not None:
        return by_number
    return {_BY_PARAMETER[each] for each in parameters[1:2] if each in _BY_PARAMETER}


def _defines_subclass(module: Any, base: type) -> bool:
    return any(
        isinstance(each, type) and issubclass(each, base) and each.__module__ == module.__name__
        for each in vars(module).values()
    )
