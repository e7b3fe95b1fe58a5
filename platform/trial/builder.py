"""Build the parts of a trial from a checked config (stream, network, plugins, learner), and run the checks that need them."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..config.schema import Data, Experiment, Resources, Seeds
from ..data.augmentation.pipeline import Augmentation, check_stream
from ..data.avalanche_import import stream_of
from ..data.cache import DataFolders
from ..data.stream_part import part_of
from ..data.streams import Stream
from ..errors import UserError
from ..ledger.documents import MAX_EXPERIENCES
from ..seeding import derive, generator
from ..training.compile import check_compile
from ..training.optimization import blocks_from_head, parameter_groups
from ..training.probes._base import Probe, ProbeContext
from .batch_checks import check_batches_of_one
from .checks import check_combination, check_list_lengths, check_strategy_needs, empty_validation_warning
from .feature_checks import stale_feature_warnings
from .resolve import ResolvedExperiment, ResolvedPart
from .training_plan import planned_experiences

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
        resolved: the resolved experiment.
        stream: the stream of experiences.
        seeds: the trial's seeds.
        device: where the network is trained.
        warnings: what is allowed, but likely to ruin the result: a sentence each.
    """

    resolved: ResolvedExperiment
    stream: Stream
    seeds: TrialSeeds
    device: torch.device
    warnings: tuple[str, ...] = ()

    @property
    def config(self) -> Experiment:
        """Return the experiment's settings, with all defaults."""
        return self.resolved.experiment

    @property
    def folders(self) -> DataFolders:
        """Return the folders of data sets and prepared data."""
        return _folders(self.config.data)

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
        return self._learner_class()(
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

    @staticmethod
    def _learner_class() -> "type[Learner]":
        """Return the learner that is a template of Avalanche, if any part of the trial has imported Avalanche.

        The other one is the same loop, with the same bits, and starts in a fraction of the time.
        """
        if "avalanche" in sys.modules:
            from ..training.avalanche_learner import AvalancheLearner

            return AvalancheLearner
        from ..training.learner import Learner

        return Learner

    def augmentation(self) -> Augmentation | None:
        """Return the augmentation of mini-batches; None if the config names no transformations."""
        transformations = [transformation for _, transformation in self.resolved.transformations]
        return Augmentation(self.stream, transformations, self.seeds.data) if transformations else None

    def network(self) -> torch.nn.Module:
        """Return a new network whose head has the classes of the first experience, or all (`training.full_head`)."""
        module, settings = self.resolved.network.module, self.resolved.network.config
        full = self.config.training.full_head
        num_classes = len(self.stream.class_names) if full else 1 + max(self.stream.experiences[0].classes)
        init_generator = generator(self.seeds.initialisation, "network")
        network: torch.nn.Module
        if hasattr(module, "build_for"):  # for a network that needs the stream's normalisation and the data folders
            network = module.build_for(settings, self.stream, self.folders, num_classes, init_generator)
        else:
            network = module.build(settings, self.stream.shape, num_classes, init_generator)
        for strategy in self.resolved.strategies:
            if adapt := strategy.declared("adapt", None):  # it changes the network: another head, other norms, prompts
                network = adapt(strategy.config, network, generator(self.seeds.initialisation, "adapt", strategy.name))
        return network

    def plugins(self) -> list[Any]:
        """Return new plugins, in the order of the YAML."""
        return [strategy.build_strategy(self.seeds.data) for strategy in self.resolved.strategies]

    def probes(self, folder: Path) -> dict[str, Probe]:
        """Return new probes by name, in the order of the YAML; they write their files under `folder`."""
        context = ProbeContext(self.stream, self.seeds.data, self.folders, folder)
        probes = {probe.name: probe.module.build(probe.config, context) for probe in self.resolved.probes}
        for name, probe in probes.items():
            if not isinstance(probe, Probe):
                raise UserError(f"probes.{name}: its `build` returned {probe!r}, which is no retain.Probe.")
        return probes


def build_trial(resolved: ResolvedExperiment, *, planning: bool = False, stream: Stream | None = None) -> TrialBuilder:
    """Build the stream and check everything that needs data or modules.

    Args:
        resolved: the resolved experiment.
        planning: run the checks only; the machine need not have the GPUs that the trials will run on.
        stream: the experiment's stream, if it is already built.

    Raises:
        UserError: data missing, strategies that cannot run together or on this stream, no GPU although one is requested.
    """
    check_combination(resolved)
    config = resolved.experiment
    device = torch.device("cpu") if planning else device_of(config.resources)
    if not planning:
        check_compile(config.training.compile, device)
    seeds = seeds_of(config.seed, config.seeds)
    if stream is None:
        stream = _stream(resolved.benchmark, seeds.class_order, _folders(config.data))
        stream = part_of(stream, config.stream_part)
    if len(stream.experiences) > MAX_EXPERIENCES:
        raise UserError(
            f"{resolved.benchmark.path}: gives {len(stream.experiences)} experiences; at most {MAX_EXPERIENCES} are allowed."
        )
    check_list_lengths(config.training, len(stream.experiences))
    check_stream(resolved.transformations, stream)
    builder = TrialBuilder(resolved, stream, seeds, device)
    network = builder.network()
    if config.training.channels_last and not any(parameter.ndim == 4 for parameter in network.parameters()):
        raise UserError(f"training.channels_last=true: {resolved.network.path} has no convolution: leave it out.")
    # raises for patterns that match no parameter
    parameter_groups(config.training.optimizer, network.named_parameters(), blocks_from_head(network))
    plugins = builder.plugins()
    planned = planned_experiences(config.training, stream, plugins)
    for strategy in resolved.strategies:
        check_strategy_needs(strategy, stream, planned)
    for part in (*resolved.strategies, *resolved.probes):
        check_model = part.declared("check_model", None)
        if check_model and not part.does_nothing:
            check_model(part.config, network)
    check_batches_of_one(planned, stream, network, resolved.strategies, plugins)
    builder.probes(Path())  # errors are raised now rather than when the trial starts
    warnings = stale_feature_warnings(config.training, network, resolved.strategies, plugins, len(planned))
    if text := empty_validation_warning(stream):
        warnings = (*warnings, text)
    return replace(builder, warnings=warnings)


def _stream(benchmark: ResolvedPart, seed: int, folders: DataFolders) -> Stream:
    """Return the benchmark's stream; an Avalanche benchmark is converted to one."""
    if not hasattr(benchmark.module, "Config"):
        return stream_of(benchmark.name, benchmark.module, benchmark.config)
    stream: Stream = benchmark.module.build(benchmark.config, seed, folders)
    return stream


def _folders(data: Data) -> DataFolders:
    return DataFolders.of(data.root, data.cache)


def seeds_of(seed: int, separate: Seeds) -> TrialSeeds:
    """Return the trial's seeds; each kind is derived separately, so equal numbers in the config give different draws."""
    initialisation = seed if separate.initialisation is None else separate.initialisation
    return TrialSeeds(
        class_order=seed if separate.class_order is None else separate.class_order,
        initialisation=derive(initialisation, "initialisation"),
        data=derive(seed if separate.data is None else separate.data, "data"),
    )


def device_of(resources: Resources) -> torch.device:
    """Return the first visible GPU if `resources.gpus` is not 0, else the CPU. Ray makes only a trial's GPUs visible to it.

    Raises:
        UserError: torch sees no GPU.
    """
    if resources.gpus == 0:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(f"resources.gpus={resources.gpus}: torch sees no GPU on this machine; set it to 0 for the CPU.")
    return torch.device("cuda", 0)
