"""Resolve an experiment once: check the settings of every part that it names, and build each part's `Config`.

All later code of a trial takes the `ResolvedExperiment`.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

from ..config import registry
from ..config.dotted_paths import split_colon
from ..config.load import build_config, plain_data, without_interpolations
from ..config.schema import DEFAULT_PROBES, Experiment, Settings
from ..errors import UserError
from .avalanche_plugin import build_avalanche_plugin


@dataclass(frozen=True, slots=True)
class ResolvedPart:
    """A strategy, network, benchmark or probe that an experiment names.

    Attributes:
        kind: its kind.
        name: its name in the YAML.
        module: its module; of an Avalanche plugin the class, of an Avalanche benchmark the function.
        config: its `Config`; for Avalanche's, the arguments.
        settings: the same as plain data, with defaults, without what its name says.
    """

    kind: registry.Kind
    name: str
    module: Any
    config: Any
    settings: Settings

    @property
    def path(self) -> str:
        """Return its dotted key in the config."""
        return f"{registry.KEYS[self.kind]}.{self.name}"

    @property
    def does_nothing(self) -> bool:
        """Return whether it is a strategy whose settings are those that change nothing (NEUTRAL), whatever the others are."""
        if self.kind != "strategies" or not hasattr(self.module, "Config"):
            return False
        return registry.is_neutral(self.module, self.config)

    def declared(self, name: str, default: Any = ()) -> Any:
        """Return what its module declares under a name, such as ROLES."""
        return getattr(self.module, name, default)

    def build_strategy(self, seed: int) -> Any:
        """Return a new plugin: from the module's `build`, its only subclass of `Plugin`, or the Avalanche class."""
        if isinstance(self.module, type):
            return build_avalanche_plugin(self.module, self.config)
        return strategy_builder(self.module, self.path)(self.config, seed)


@dataclass(frozen=True, slots=True)
class ResolvedExperiment:
    """An experiment with everything that it names, checked; immutable.

    Attributes:
        experiment: the experiment with all defaults filled in, as config.yaml stores it.
        benchmark: the benchmark.
        network: the network (`model` in the YAML).
        strategies: the strategies, in the order of the YAML.
        probes: the probes, in the order of the YAML.
        transformations: (name, transformation) of the augmentation, in order.
    """

    experiment: Experiment
    benchmark: ResolvedPart
    network: ResolvedPart
    strategies: tuple[ResolvedPart, ...]
    probes: tuple[ResolvedPart, ...]
    transformations: tuple[tuple[str, Any], ...]

    def with_seed(self, seed: int) -> "ResolvedExperiment":
        """Return the same experiment with another `seed`."""
        return replace(self, experiment=replace(self.experiment, seed=seed))


def resolve_experiment(experiment: Experiment) -> ResolvedExperiment:
    """Check every part's settings against its `Config`, and return the experiment with its parts and all defaults.

    It imports the parts' modules, so it takes as long as ``import torch``.

    Raises:
        UserError: a setting is unknown or not allowed, or a module cannot be imported.
    """
    experiment = without_interpolations(experiment)
    named = {kind: getattr(experiment, key) for kind, key in registry.KEYS.items() if kind != "datasets"}
    named["probes"] = {**DEFAULT_PROBES, **named["probes"]}
    parts = {
        kind: tuple(_resolve_part(kind, name, settings) for name, settings in chosen.items())
        for kind, chosen in named.items()
    }
    for strategy in parts["strategies"]:
        if not isinstance(strategy.module, type):
            strategy_builder(strategy.module, strategy.path)
    transformations = _transformations(experiment)
    training = experiment.training
    if training.augmentation is not None:
        expanded = tuple({name: plain_data(built)} for name, built in transformations)
        training = replace(training, augmentation=expanded)
    filled: dict[str, Any] = {
        registry.KEYS[kind]: {part.name: part.settings for part in chosen} for kind, chosen in parts.items()
    }
    return ResolvedExperiment(
        experiment=replace(experiment, training=training, **filled),
        benchmark=parts["benchmarks"][0],
        network=parts["networks"][0],
        strategies=parts["strategies"],
        probes=parts["probes"],
        transformations=transformations,
    )


def _resolve_part(kind: registry.Kind, name: str, settings: Settings) -> ResolvedPart:
    """Return one part; the settings of an Avalanche class stay as they are."""
    module = registry.resolve(kind, name)
    if not hasattr(module, "Config"):
        return ResolvedPart(kind, name, module, settings, settings)
    path, (_, colon_settings) = f"{registry.KEYS[kind]}.{name}", split_colon(name)
    if colon_settings and "name" not in [field.name for field in fields(module.Config)]:
        raise UserError(f"{path}: '{split_colon(name)[0]}' takes no name after a colon; give it settings.")
    if duplicates := colon_settings.keys() & settings.keys():
        raise UserError(f"{path}.{duplicates.pop()}: is already given after the colon.")
    config = build_config(module.Config, {**settings, **colon_settings}, path)
    alias_settings = registry.alias_settings(name) if kind == "benchmarks" else {}
    implied = colon_settings.keys() | (alias_settings.keys() - settings.keys())  # what the name says is not repeated
    filled = {key: value for key, value in plain_data(config).items() if key not in implied}
    return ResolvedPart(kind, name, module, config, filled)


def strategy_builder(module: Any, path: str) -> Callable[[Any, int], Any]:
    """Return a strategy module's `build`, or else the only subclass of `Plugin` that the module defines.

    Raises:
        UserError: there is neither.
    """
    from ..training.plugin import Plugin  # here: importing a config must not import torch

    if hasattr(module, "build"):
        build: Callable[[Any, int], Any] = module.build
        return build
    own = {
        each
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, Plugin) and each.__module__ == module.__name__
    }
    classes = [
        each for each in own if not any(each in other.__mro__[1:] for other in own)
    ]  # without its own base classes
    if len(classes) != 1:
        names = sorted(each.__name__ for each in classes) or "none"
        raise UserError(
            f"{path}: its module must define one subclass of retain.Plugin, or a function build(config, seed); it has {names}."
        )
    return classes[0]


def _transformations(experiment: Experiment) -> tuple[tuple[str, Any], ...]:
    """Return the augmentation's transformations; a preset is expanded."""
    if experiment.training.augmentation is None:
        return ()
    from ..data.augmentation.presets import resolve_transformations  # here: it imports torch

    return tuple(resolve_transformations(experiment))
