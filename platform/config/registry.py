"""Lookup of strategies, benchmarks, networks, data sets and probes by name.

A module of one of these kinds has a frozen dataclass `Config` and a function `build`. Its file name is its name in the YAML.
A colon (``torchvision:resnet18``) sets the module's setting `name`.

A dotted path (``mypkg.mymodule``) names the user's module, with the same contract. Under ``strategies`` it may also name an
Avalanche plugin class (``avalanche.training.plugins.EWCPlugin``), under ``benchmark`` a function that returns an Avalanche
benchmark (``avalanche.benchmarks.SplitCIFAR100``). The settings are then its arguments.

Imports no torch at the top: names are checked before anything heavy is loaded.
"""

import importlib
import inspect
import os
from dataclasses import field, fields, is_dataclass, make_dataclass
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_type_hints

import yaml

from ..errors import UserError, comma_separated, nearest
from .dotted_paths import import_path, split_colon
from .renamed import hint

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
_BENCHMARKS = "avalanche.benchmarks.classic."  # other Avalanche modules have functions that unpickle their arguments
KEYS: dict[Kind, str] = {  # the key of each kind in the YAML; `data` is a key inside a benchmark's settings
    "strategies": "strategies",
    "benchmarks": "benchmark",
    "networks": "model",
    "datasets": "data",
    "probes": "probes",
}


def names(kind: Kind) -> list[str]:
    """Return the names of the shipped modules of a kind, sorted: the files in its folder, and the aliases of benchmarks."""
    folder = _ROOT / _FOLDERS[kind]
    files = [path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")]
    return sorted([*files, *(aliases() if kind == "benchmarks" else ())])


@cache
def aliases() -> dict[str, dict[str, Any]]:
    """Return the benchmarks of benchmarks/aliases.yaml: name -> one line about it, the kind, and settings of the kind."""
    read: dict[str, dict[str, Any]] = yaml.safe_load(
        (_ROOT / "benchmarks" / "aliases.yaml").read_text(encoding="utf-8")
    )
    return read


def _kind_and_settings(name: str) -> tuple[str, dict[str, Any]]:
    """Return what an alias stands for."""
    ((kind, settings),) = aliases()[name]["is"].items()
    return kind, settings


def alias_settings(name: str) -> dict[str, Any]:
    """Return the settings of its kind that an alias stands for; {} for any other benchmark."""
    return _kind_and_settings(name)[1] if name in aliases() else {}


@cache
def alias(name: str) -> ModuleType:
    """Return a module for an alias: `Config` is the kind's with the alias's settings as defaults, `build` keeps its name."""
    line, (kind, settings) = aliases()[name]["line"], _kind_and_settings(name)
    base = resolve("benchmarks", kind)
    hints = get_type_hints(base.Config, include_extras=True)
    fields = [(key, hints[key], field(default=value)) for key, value in settings.items()]
    settings_text = (inspect.getdoc(base.Config) or "").partition("\n")[2]
    namespace = {"__doc__": f"{line}\n{settings_text}"}
    config = make_dataclass(
        "Config", fields, bases=(base.Config,), namespace=namespace, frozen=True, kw_only=True, slots=True
    )
    config.__module__, config.__qualname__ = f"{_PACKAGE}.benchmarks", f"{name}.Config"  # where pickle finds it
    module = ModuleType(f"{_PACKAGE}.benchmarks.{name}", line)
    module.__dict__.update(Config=config, build=partial(base.build, name=name))
    return module


def check_name(kind: Kind, name: str) -> None:
    """Raise UserError for an unknown name, without importing anything; `resolve` checks dotted paths."""
    module, _ = split_colon(name)
    is_path = "/" in module or module.endswith(".py")
    if is_path or ("." not in module and module not in names(kind)):
        known = names(kind)
        meant = _own_file(module) or hint(f"{KEYS[kind]}.{name}") or nearest(module, known)
        raise UserError(
            f"{KEYS[kind]}.{name}: there is no such name.{meant} "
            f"Known: {comma_separated(known)}; or give the dotted path of your own module."
        )


def _own_file(name: str) -> str:
    """Return how to name a file of the user's, whose path or name was given; an empty text if there is no such file."""
    stem = name.removesuffix(".py").removeprefix("./")
    dotted = stem.replace("/", ".")
    if not os.path.isfile(f"{stem}.py") or not all(part.isidentifier() for part in dotted.split(".")):
        return ""
    if "." in dotted:
        return f" For your file {stem}.py write {dotted}."
    return f" For your file {stem}.py, put it into a folder, such as mine, and write mine.{dotted}."


def neutral_settings(module: Any) -> dict[str, Any] | None:
    """Return the settings with which a strategy changes nothing; None if there are none (its NEUTRAL_REASON says why).

    They are the module's NEUTRAL, or else inferred: a `weight` of 0, or a `memory` of 0.

    Raises:
        TypeError: neither is declared nor can be inferred.
    """
    if hasattr(module, "NEUTRAL"):
        declared: dict[str, Any] | None = module.NEUTRAL
        return declared
    known = {each.name for each in fields(module.Config)}
    for name, zero in (("weight", 0.0), ("memory", 0)):
        if name in known:
            return {name: zero}
    raise TypeError(f"{module.__name__}: declare NEUTRAL, since its Config has neither `weight` nor `memory`")


def is_neutral(module: Any, config: Any) -> bool:
    """Return whether a strategy with these settings changes nothing, whatever its other settings are."""
    try:
        neutral = neutral_settings(module)
    except TypeError:  # a user's module need not declare any
        return False
    return neutral is not None and all(_same_setting(getattr(config, name), value) for name, value in neutral.items())


def _same_setting(one: Any, other: Any) -> bool:
    """Return whether two settings mean the same: lists equal tuples, and 0 of something equals none of it."""
    one, other = (tuple(each) if isinstance(each, list) else each for each in (one, other))
    return bool(one == other) or (one in (0, ()) and other in (0, ()))


def resolve(kind: Kind, name: str) -> Any:
    """Return the module with this name or, for some dotted paths, an Avalanche plugin class or benchmark function.

    Raises:
        UserError: the name cannot be imported, or the module lacks `Config` or (but for strategies) `build`.
    """
    check_name(kind, name)
    name, _ = split_colon(name)
    if kind == "benchmarks" and name in aliases():
        return alias(name)
    if "." not in name:
        return importlib.import_module(f"{_PACKAGE}.{_FOLDERS[kind].replace('/', '.')}.{name}")
    imported = import_path(f"{KEYS[kind]}.{name}", name)
    has_build = hasattr(imported, "build") or kind == "strategies"  # by default, the strategy's class is called
    if isinstance(imported, ModuleType) and hasattr(imported, "Config") and has_build:
        _check_config(f"{KEYS[kind]}.{name}", imported.Config)
        return imported
    defined_in = str(getattr(imported, "__module__", ""))
    if kind == "strategies" and isinstance(imported, type) and not defined_in.startswith("avalanche.logging"):
        return imported
    if kind == "benchmarks" and callable(imported) and defined_in.startswith(_BENCHMARKS):
        return imported
    raise UserError(
        f"{KEYS[kind]}.{name}: is no module with a dataclass `Config` and a function `build` (see docs/extending.md), no plugin "
        f"class and no function of {_BENCHMARKS}*."
    )


def _check_config(key: str, config: Any) -> None:
    """Raise UserError for a user's `Config` that is no dataclass, or has an annotation that cannot be evaluated."""
    if not (isinstance(config, type) and is_dataclass(config)):
        raise UserError(f"{key}: its Config is no dataclass: write @settings (from retain import settings) above it.")
    try:
        get_type_hints(config)
    except Exception as error:  # noqa: BLE001 - an annotation may be any expression
        raise UserError(f"{key}: an annotation of its Config is wrong: {type(error).__name__}: {error}.") from error
