"""The contract of a module's settings: a frozen dataclass `Config` that is described and survives YAML and a copy."""

import copy
import inspect
import sys
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from ..config.load import load_config, to_dict
from ..config.schema import Experiment
from ..config.yaml_files import dump_yaml
from ..errors import nearest
from ..trial.resolve import ResolvedPart, resolve_experiment
from .errors import NotApplicable, require


def config_class(part: ResolvedPart) -> Any:
    """Return a module's `Config`.

    Raises:
        NotApplicable: the part is an Avalanche class or function, whose arguments are the settings.
    """
    if not hasattr(part.module, "Config"):
        raise NotApplicable("its settings are the arguments of an Avalanche class")
    return part.module.Config


def check_frozen(part: ResolvedPart) -> None:
    """Require a frozen dataclass: the same settings are used by all parts of a trial, so nothing may change them."""
    config = config_class(part)
    frozen = is_dataclass(config) and getattr(config, "__dataclass_params__").frozen  # noqa: B009 - it is not declared
    require(frozen, "Config is no frozen dataclass: write @settings (from retain) above it")


def check_documented(part: ResolvedPart) -> None:
    """Require a sentence about the whole and a line ``name: ...`` for each setting in the docstring of `Config`.

    `retain list` prints them; a setting without a description cannot be used.
    """
    config = config_class(part)
    text = "\n".join(inspect.getdoc(base) or "" for base in config.__mro__[:-1] if base.__doc__)
    lines = [line.strip() for line in text.splitlines()]
    require(lines[0].endswith("."), "the first line of Config's docstring is no sentence that ends with a full stop")
    for field in fields(config):
        described = any(field.name in line.partition(":")[0].split(", ") for line in lines if ":" in line)
        require(
            described, f"Config.{field.name} is not described: add a line '{field.name}: ...' to Config's docstring"
        )


def check_yaml(experiment: Experiment, folder: Path) -> None:
    """Require that an experiment's settings come back equal from a YAML file, as given and with all defaults.

    A trial is resumed, and a report is made, from the YAML in its folder.
    """
    resolved = resolve_experiment(experiment)
    for number, written in enumerate((experiment, resolved.experiment)):
        path = folder / f"settings-{number}.yaml"
        path.write_text(dump_yaml(to_dict(written)), encoding="utf-8")
        read = resolve_experiment(load_config(path))
        require(_configs(read) == _configs(resolved), f"settings differ after YAML: {_configs(read)}")
        require(read.experiment == resolved.experiment, "the experiment differs after YAML")


def _configs(resolved: Any) -> list[Any]:
    parts = (resolved.benchmark, resolved.network, *resolved.strategies, *resolved.probes)
    return [part.config for part in parts]


def check_copies(part: ResolvedPart) -> None:
    """Require that a copy of the settings equals them, and that their class is found by its name.

    Both are needed to send them to another process, such as a worker of Ray.
    """
    config = config_class(part)
    require(copy.deepcopy(part.config) == part.config, "a copy of the settings differs from them: Config needs ==")
    try:
        named = reduce(getattr, config.__qualname__.split("."), sys.modules[config.__module__])
    except (AttributeError, KeyError):
        named = None
    is_alias = config.__module__ != part.module.__name__
    require(named is config or is_alias, f"Config is not found as {config.__module__}.{config.__qualname__}")


def check_declared_names(part: ResolvedPart, known: Iterable[str]) -> None:
    """Refuse a name of the module that is almost one that is asked for, such as ``CONFLICT``: nothing would read it."""
    known = list(known)
    for name, value in vars(part.module).items():
        declares = name.isupper() or (inspect.isfunction(value) and value.__module__ == part.module.__name__)
        if declares and not name.startswith("_") and name not in known:
            refuse_misspelt(name, known, "")


def check_methods(cls: type, base: type, known: Iterable[str]) -> None:
    """Refuse a method that looks like one that is called and has no such name, such as ``before_trainig_exp``.

    Args:
        cls: the class.
        base: the base class that comes with retain; its methods and those above it are not looked at.
        known: the names that are called.
    """
    known = list(known)
    for owner in cls.__mro__:
        if owner is base:
            return
        for name in [name for name, value in vars(owner).items() if callable(value) and not name.startswith("_")]:
            if name not in known and not hasattr(base, name):
                if name.startswith(("before_", "after_")):
                    suggestion = nearest(name, known)
                    require(False, f"{owner.__name__}.{name}: no such hook is ever called.{suggestion}")
                refuse_misspelt(name, known, f"{owner.__name__}.")


def refuse_misspelt(name: str, known: list[str], prefix: str) -> None:
    """Raise ContractError for a name that differs in one or two letters from a known one."""
    close = [each for each in known if abs(len(each) - len(name)) <= 2 and _distance(name, each) <= 2 < len(each) - 2]
    require(not close, f"{prefix}{name}: nothing asks for this name. Did you mean '{''.join(close[:1])}'?")


def _distance(first: str, second: str) -> int:
    """Return the number of letters to insert, delete or replace (Levenshtein)."""
    row = list(range(len(second) + 1))
    for i, own in enumerate(first, 1):
        previous, row[0] = row[0], i
        for j, other in enumerate(second, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (own != other))
    return row[-1]
