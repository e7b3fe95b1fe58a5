"""Build the parts of a trial from a checked config (stream, network, plugins, learner), and run the checks that need them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..config.schema import Experiment
from ..data.augmentation.pipeline import Augmentation, check_stream
from ..data.augmentation.presets import resolve_transformations
from ..data.avalanche_import import stream_of
from ..data.cache import DataFolders
from ..data.streams import Stream
from ..errors import UserError
from ..seeding import derive, generator
from ..training.optimization import blocks_from_head, parameter_groups
from ..training.plugin import Plugin
from ..training.probes._base import Probe, ProbeContext
from .avalanche_plugin import build_avalanche_plugin
from .checks import check_combination, check_last_batches, check_list_lengths, check_strategy_needs
from .resolve import plugin_configs

if TYPE_CHECKING:
    from ..training.learner import Learner


@dataclass(frozen=True, slots=True)
class TrialSeeds:
    """The three seeds of a trial. Each comes from the trial's `seed` unless the config sets it separately."""

    class_order: int
    initialisation: int
    data: int


@dataclass(frozen=True, slots=True, eq=False)
class TrialBuilder:
    """Builder of a trial's parts: each method returns new objects, which share the stream.

    Attributes:
        config: the checked config.
        stream: the stream of experiences.
        seeds: the trial's seeds.
        device: where the network is trained.
    """

    config: Experiment
    stream: Stream
    seeds: TrialSeeds
    device: torch.device

    def learner(
        self,
        on_epoch: "Callable[[Learner], None]",
        on_note: Callable[[str], None],
        on_iteration: "Callable[[Learner], None]" = lambda learner: None,
    ) -> "Learner":
        """Return a learner with a new network and new plugins.

        Args:
            on_epoch: called after each epoch.
            on_note: called with each note that a strategy writes.
            on_iteration: called between two iterations.
        """
        from ..training.learner import Learner  # here: it imports avalanche, which only a process that trains needs

        return Learner(
            model=self.network(),
            stream=self.stream,
            training=self.config.training,
            plugins=self.plugins(),
            seed_data=self.seeds.data,
            seed_initialisation=self.seeds.initialisation,
            device=self.device,
            on_epoch=on_epoch,
            on_note=on_note,
            on_iteration=on_iteration,
            augment=self.augmentation(),
        )

    def augmentation(self) -> Augmentation | None:
        """Return the augmentation of mini-batches; None if the config names no transformations."""
        transformations = [transformation for _, transformation in resolve_transformations(self.config)]
        return Augmentation(self.stream, transformations, self.seeds.data) if transformations else None

    def network(self) -> torch.nn.Module:
        """Return a new network whose head has the classes of the first experience, or all (`training.full_head`)."""
        (module, settings), *_ = plugin_configs(self.config, "networks")
        full = self.config.training.full_head
        num_classes = len(self.stream.class_names) if full else 1 + max(self.stream.experiences[0].classes)
        init_generator = generator(self.seeds.initialisation, "network")
        network: torch.nn.Module
        if hasattr(module, "build_for"):  # for a network that needs the stream's normalisation and the data folders
            network = module.build_for(settings, self.stream, _folders(self.config), num_classes, init_generator)
        else:
            network = module.build(settings, self.stream.shape, num_classes, init_generator)
        for name, (strategy, config) in zip(
            self.config.strategies, plugin_configs(self.config, "strategies"), strict=True
        ):
            if hasattr(strategy, "adapt"):  # it changes the network: another head, other norms, prompts
                network = strategy.adapt(config, network, generator(self.seeds.initialisation, "adapt", name))
        return network

    def plugins(self) -> list[Any]:
        """Return new plugins, in the order of the YAML."""
        return [
            _plugin(module, config, self.seeds.data) for module, config in plugin_configs(self.config, "strategies")
        ]

    def probes(self, folder: Path) -> dict[str, Probe]:
        """Return new probes by name, in the order of the YAML; they write their files under `folder`."""
        context = ProbeContext(self.stream, self.seeds.data, _folders(self.config), folder)
        settings = plugin_configs(self.config, "probes")
        probes = {
            name: module.build(config, context)
            for name, (module, config) in zip(self.config.probes, settings, strict=True)
        }
        for name, probe in probes.items():
            if not isinstance(probe, Probe):
                raise UserError(f"probes.{name}: its `build` returned {probe!r}, which is no retain.Probe.")
        return probes

    def num_trained(self) -> int:
        """Return how many experiences are trained on: all, or one with `joint`, which waits for the last."""
        length = len(self.stream.experiences)
        plugins = [plugin for plugin in self.plugins() if isinstance(plugin, Plugin)]  # without Avalanche's
        return sum(all(plugin.should_train(number, length) for plugin in plugins) for number in range(length))


def build_trial(config: Experiment, *, planning: bool = False, stream: Stream | None = None) -> TrialBuilder:
    """Build the stream and check everything that needs data or modules.

    Args:
        config: the checked config.
        planning: run the checks only; the machine need not have the GPUs that the trials will run on.
        stream: the config's stream, if it is already built.

    Raises:
        UserError: data missing, strategies that cannot run together or on this stream, no GPU although one is requested.
    """
    check_combination(config)
    device = torch.device("cpu") if planning else device_of(config)
    seeds = seeds_of(config)
    stream = stream or _stream(config, seeds.class_order)
    check_list_lengths(config, len(stream.experiences))
    check_stream(resolve_transformations(config), stream)
    builder = TrialBuilder(config, stream, seeds, device)
    network = builder.network()
    # raises for patterns that match no parameter
    parameter_groups(config.training.optimizer, network.named_parameters(), blocks_from_head(network))
    check_last_batches(config, stream, network)
    num_trained = builder.num_trained()
    for module, strategy in plugin_configs(config, "strategies"):
        check_strategy_needs(module, strategy, stream, num_trained)
        if hasattr(module, "check_model"):
            module.check_model(strategy, network)
    for module, probe in plugin_configs(config, "probes"):
        if hasattr(module, "check_model"):
            module.check_model(probe, network)
    builder.probes(Path())  # errors are raised now rather than when the trial starts
    return builder


def _stream(config: Experiment, seed: int) -> Stream:
    """Return the benchmark's stream; an Avalanche benchmark is converted to one."""
    (benchmark, settings), *_ = plugin_configs(config, "benchmarks")
    if not hasattr(benchmark, "Config"):
        return stream_of(next(iter(config.benchmark)), benchmark, settings)
    stream: Stream = benchmark.build(settings, seed, _folders(config))
    return stream


def _folders(config: Experiment) -> DataFolders:
    return DataFolders.of(config.data.root, config.data.cache)


def seeds_of(config: Experiment) -> TrialSeeds:
    """Return the trial's seeds; each kind is derived separately, so equal numbers in the config give different draws."""
    separate = config.seeds
    return TrialSeeds(
        class_order=config.seed if separate.class_order is None else separate.class_order,
        initialisation=derive(
            config.seed if separate.initialisation is None else separate.initialisation, "initialisation"
        ),
        data=derive(config.seed if separate.data is None else separate.data, "data"),
    )


def device_of(config: Experiment) -> torch.device:
    """Return the first visible GPU if `resources.gpus` is not 0, else the CPU. Ray makes only a trial's GPUs visible to it.

    Raises:
        UserError: torch sees no GPU.
    """
    if config.resources.gpus == 0:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(
            f"resources.gpus={config.resources.gpus}: torch sees no GPU on this machine; set it to 0 for the CPU."
        )
    return torch.device("cuda", 0)


def _plugin(module: Any, config: Any, seed: int) -> Any:
    """Build one of our plugins, or an Avalanche class with its arguments."""
    return build_avalanche_plugin(module, config) if isinstance(module, type) else module.build(config, seed)
