"""From a checked config to the parts of a trial: stream, network, plugins, learner; and the checks that need them."""

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
from .resolve import plugin_configs

if TYPE_CHECKING:
    from ..training.learner import Learner
from .avalanche_plugin import _foreign
from .checks import _check_last_batches, _check_lengths, _check_stream, check_combination


@dataclass(frozen=True, slots=True)
class TrialSeeds:
    """The three seeds of a trial, each the trial's own `seed` unless set apart."""

    class_order: int
    initialisation: int
    data: int


@dataclass(frozen=True, slots=True, eq=False)
class TrialBuilder:
    """What a trial is made of."""

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
        """A new network and new plugins in a learner."""
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
        """What is done to the pictures of each mini-batch; None where the config names nothing."""
        transformations = [built for _, built in resolve_transformations(self.config)]
        return Augmentation(self.stream, transformations, self.seeds.data) if transformations else None

    def network(self) -> torch.nn.Module:
        """A new network whose head has the classes of the first experience, or all of them (`training.full_head`)."""
        (module, settings), *_ = plugin_configs(self.config, "networks")
        full = self.config.training.full_head
        num_classes = len(self.stream.class_names) if full else 1 + max(self.stream.experiences[0].classes)
        draws = generator(self.seeds.initialisation, "network")
        network: torch.nn.Module
        if hasattr(module, "build_for"):  # one that must know how the stream normalises, and where files are
            network = module.build_for(settings, self.stream, _folders(self.config), num_classes, draws)
        else:
            network = module.build(settings, self.stream.shape, num_classes, draws)
        for name, (strategy, config) in zip(
            self.config.strategies, plugin_configs(self.config, "strategies"), strict=True
        ):
            if hasattr(strategy, "adapt"):  # it has parts of its own in the network: another head, other norms, prompts
                network = strategy.adapt(config, network, generator(self.seeds.initialisation, "adapt", name))
        return network

    def plugins(self) -> list[Any]:
        """New plugins, in the order of the YAML."""
        return [
            _plugin(module, config, self.seeds.data) for module, config in plugin_configs(self.config, "strategies")
        ]

    def probes(self, folder: Path) -> dict[str, Probe]:
        """New probes by name, in the order of the YAML; what they write goes under `folder`."""
        context = ProbeContext(self.stream, self.seeds.data, _folders(self.config), folder)
        settings = plugin_configs(self.config, "probes")
        built = {
            name: module.build(config, context)
            for name, (module, config) in zip(self.config.probes, settings, strict=True)
        }
        for name, probe in built.items():
            if not isinstance(probe, Probe):
                raise UserError(f"probes.{name}: its `build` returned {probe!r}, which is no retain.Probe.")
        return built

    def num_trained(self) -> int:
        """How many experiences are trained on: all, or one where `joint` waits for the last."""
        length = len(self.stream.experiences)
        ours = [plugin for plugin in self.plugins() if isinstance(plugin, Plugin)]
        return sum(all(plugin.should_train(number, length) for plugin in ours) for number in range(length))


def build_trial(config: Experiment, *, planning: bool = False, stream: Stream | None = None) -> TrialBuilder:
    """Build the stream and check everything that needs data or modules.

    `planning`: for the checks only, on a machine that need not have the GPUs that the trials will run on.
    `stream`: the config's, where it has been built already.

    Raises:
        UserError: data missing, strategies that cannot run together or on this stream, no GPU where one is asked for.
    """
    check_combination(config)
    device = torch.device("cpu") if planning else device_of(config)
    seeds = seeds_of(config)
    stream = stream or _stream(config, seeds.class_order)
    _check_lengths(config, len(stream.experiences))
    check_stream(resolve_transformations(config), stream)
    parts = TrialBuilder(config, stream, seeds, device)
    network = parts.network()
    # refuses patterns that fit nothing
    parameter_groups(config.training.optimizer, network.named_parameters(), blocks_from_head(network))
    _check_last_batches(config, stream, network)
    num_trained = parts.num_trained()
    for module, strategy in plugin_configs(config, "strategies"):
        _check_stream(module, strategy, stream, num_trained)
        if hasattr(module, "check_model"):
            module.check_model(strategy, network)
    for module, probe in plugin_configs(config, "probes"):
        if hasattr(module, "check_model"):
            module.check_model(probe, network)
    parts.probes(Path())  # refused now rather than at the start
    return parts


def _stream(config: Experiment, seed: int) -> Stream:
    """The benchmark's stream; an Avalanche benchmark is read into one."""
    (benchmark, settings), *_ = plugin_configs(config, "benchmarks")
    if not hasattr(benchmark, "Config"):
        return stream_of(next(iter(config.benchmark)), benchmark, settings)
    stream: Stream = benchmark.build(settings, seed, _folders(config))
    return stream


def _folders(config: Experiment) -> DataFolders:
    return DataFolders.of(config.data.root, config.data.cache)


def seeds_of(config: Experiment) -> TrialSeeds:
    """Resolve the split seeds; each kind is derived apart, so that equal numbers do not mean equal draws."""
    chosen = config.seeds
    return TrialSeeds(
        class_order=config.seed if chosen.class_order is None else chosen.class_order,
        initialisation=derive(
            config.seed if chosen.initialisation is None else chosen.initialisation, "initialisation"
        ),
        data=derive(config.seed if chosen.data is None else chosen.data, "data"),
    )


def device_of(config: Experiment) -> torch.device:
    """The first visible GPU where `resources.gpus` asks for one (Ray shows each trial its own), else the CPU."""
    if config.resources.gpus == 0:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(
            f"resources.gpus={config.resources.gpus}: torch sees no GPU on this machine; set it to 0 for the CPU."
        )
    return torch.device("cuda", 0)


def _plugin(module: Any, config: Any, seed: int) -> Any:
    """One of our plugins, or an instance of an Avalanche class with its arguments."""
    return _foreign(module, config) if isinstance(module, type) else module.build(config, seed)
