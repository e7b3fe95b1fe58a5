"""A checked experiment with the settings of every plugin that it names filled in."""

from dataclasses import fields, replace
from typing import Any

from ..config import registry
from ..config.dotted_paths import split_colon
from ..config.load import build_config, plain_data
from ..config.schema import Experiment, Settings, Training
from ..errors import UserError

_DEFAULT_PROBES: Settings = {"curves": {}}  # on where they are not named


def check_plugins(experiment: Experiment) -> Experiment:
    """Check every plugin's settings against its `Config` and return the experiment with all defaults filled in.

    Imports the modules that are named, so it takes as long as ``import torch``.
    """
    filled: dict[str, Any] = {}
    for kind, key in registry.KEYS.items():
        if kind == "datasets":  # filled in by the benchmark that names it
            continue
        named: Settings = {**(_DEFAULT_PROBES if kind == "probes" else {}), **getattr(experiment, key)}
        filled[key] = {name: _filled(kind, name, settings) for name, settings in named.items()}
    return replace(experiment, training=_with_transformations(experiment), **filled)


def _filled(kind: registry.Kind, name: str, settings: Settings) -> Settings:
    """One plugin's settings with its defaults; an Avalanche class keeps the arguments it was given."""
    module, built = _resolved(kind, name, settings)
    _, in_the_name = split_colon(name)
    return (
        {k: v for k, v in plain_data(built).items() if k not in in_the_name} if hasattr(module, "Config") else settings
    )


def _resolved(kind: registry.Kind, name: str, settings: Settings) -> tuple[Any, Any]:
    """A plugin's module and its `Config`; an Avalanche class or function comes with its arguments."""
    module = registry.resolve(kind, name)
    if not hasattr(module, "Config"):
        return module, settings
    path, (_, in_the_name) = f"{registry.KEYS[kind]}.{name}", split_colon(name)
    if in_the_name and "name" not in [field.name for field in fields(module.Config)]:
        raise UserError(f"{path}: '{split_colon(name)[0]}' takes no name after a colon; give it settings.")
    if twice := in_the_name.keys() & settings.keys():
        raise UserError(f"{path}.{twice.pop()}: stands after the colon already.")
    return module, build_config(module.Config, {**settings, **in_the_name}, path)


def plugin_configs(experiment: Experiment, kind: registry.Kind) -> list[tuple[Any, Any]]:
    """The (module, Config) pairs of a kind, in the order of the YAML; an Avalanche class comes with its arguments."""
    named: Settings = getattr(experiment, registry.KEYS[kind])
    return [_resolved(kind, name, settings) for name, settings in named.items()]


def _with_transformations(experiment: Experiment) -> Training:
    """The training with a preset as its list of transformations, and each with all of its settings."""
    if experiment.training.augmentation is None:
        return experiment.training
    from ..data.augmentation.presets import resolve_transformations  # here: it imports torch

    listed_out = tuple({name: plain_data(built)} for name, built in resolve_transformations(experiment))
    return replace(experiment.training, augmentation=listed_out)
