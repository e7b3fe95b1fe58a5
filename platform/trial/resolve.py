"""Check the settings of the plugins that an experiment names, and fill in their defaults."""

from dataclasses import fields, replace
from typing import Any

from ..config import registry
from ..config.dotted_paths import split_colon
from ..config.load import build_config, plain_data
from ..config.schema import Experiment, Settings, Training
from ..errors import UserError

_DEFAULT_PROBES: Settings = {"curves": {}}  # on by default


def check_plugins(experiment: Experiment) -> Experiment:
    """Check every plugin's settings against its `Config` and return the experiment with all defaults filled in.

    It imports the plugins' modules, so it takes as long as ``import torch``.

    Raises:
        UserError: a setting is unknown or not allowed, or a module cannot be imported.
    """
    filled: dict[str, Any] = {}
    for kind, key in registry.KEYS.items():
        if kind == "datasets":  # filled in by the benchmark that uses it
            continue
        named: Settings = {**(_DEFAULT_PROBES if kind == "probes" else {}), **getattr(experiment, key)}
        filled[key] = {name: _filled(kind, name, settings) for name, settings in named.items()}
    return replace(experiment, training=_with_transformations(experiment), **filled)


def _filled(kind: registry.Kind, name: str, settings: Settings) -> Settings:
    """Return one plugin's settings with its defaults; those of an Avalanche class stay as they are."""
    module, config = _module_and_config(kind, name, settings)
    if not hasattr(module, "Config"):
        return settings
    _, colon_settings = split_colon(name)
    alias_settings = registry.alias_settings(name) if kind == "benchmarks" else {}
    implied = colon_settings.keys() | (alias_settings.keys() - settings.keys())  # what the name says is not repeated
    return {key: value for key, value in plain_data(config).items() if key not in implied}


def _module_and_config(kind: registry.Kind, name: str, settings: Settings) -> tuple[Any, Any]:
    """Return a plugin's module and its `Config`, or an Avalanche class or function and its arguments."""
    module = registry.resolve(kind, name)
    if not hasattr(module, "Config"):
        return module, settings
    path, (_, colon_settings) = f"{registry.KEYS[kind]}.{name}", split_colon(name)
    if colon_settings and "name" not in [field.name for field in fields(module.Config)]:
        raise UserError(f"{path}: '{split_colon(name)[0]}' takes no name after a colon; give it settings.")
    if duplicates := colon_settings.keys() & settings.keys():
        raise UserError(f"{path}.{duplicates.pop()}: is already given after the colon.")
    return module, build_config(module.Config, {**settings, **colon_settings}, path)


def plugin_configs(experiment: Experiment, kind: registry.Kind) -> list[tuple[Any, Any]]:
    """Return (module, Config) for each plugin of a kind, in the order of the YAML; for an Avalanche class, (class, arguments)."""
    named: Settings = getattr(experiment, registry.KEYS[kind])
    return [_module_and_config(kind, name, settings) for name, settings in named.items()]


def _with_transformations(experiment: Experiment) -> Training:
    """Return the training settings with a preset expanded to its transformations, each with all of its settings."""
    if experiment.training.augmentation is None:
        return experiment.training
    from ..data.augmentation.presets import resolve_transformations  # here: it imports torch

    transformations = tuple({name: plain_data(built)} for name, built in resolve_transformations(experiment))
    return replace(experiment.training, augmentation=transformations)
