"""The checks of each kind of module, in order."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from ..config import registry
from ..config.load import build_config, plain_data
from ..config.schema import Experiment
from ..data.cache import DataFolders
from ..errors import UserError
from ..trial.builder import build_trial
from ..trial.resolve import ResolvedPart, resolve_experiment
from . import benchmark, data_set, network, probe, settings, strategy
from .checks import Check
from .trials import (
    CNN,
    NETWORKS,
    WATCHER,
    Settings,
    StreamName,
    Trials,
    short_experiment,
    trained,
    with_enough_epochs,
)

RANDOM_PICTURES = f"{__package__}.random_pictures"
_ACTIVE: dict[str, Any] = {"epochs": 6, "optimizer": {"lr": 0.2}}  # enough for patience to run out


def checks_for(kind: str, name: str, chosen: Settings, folder: Path) -> list[Check]:
    """Return the checks of a module.

    Args:
        kind: a key of KINDS.
        name: a shipped name or a dotted path.
        chosen: settings of its `Config`; the others keep their defaults.
        folder: for trials; it exists.

    Raises:
        UserError: no such module, settings that it refuses, missing data, or nothing that it can run with.
    """
    suite: type[_Suite] = _SUITES[kind]
    return suite(name, chosen, Trials(folder)).checks()


class _Suite:
    """The checks of one module.

    Attributes:
        experiment: a short trial with it.
        part: the module with its settings.
    """

    experiment: Experiment

    def __init__(self, name: str, chosen: Settings, trials: Trials) -> None:
        self.name, self.settings, self.trials = name, chosen, trials
        self.prepare()

    def prepare(self) -> None:
        """Set `experiment`, or raise UserError."""
        raise NotImplementedError

    def checks(self) -> list[Check]:
        """Return the checks."""
        raise NotImplementedError

    @cached_property
    def part(self) -> ResolvedPart:
        """The part of the trial that the module is."""
        resolved = resolve_experiment(self.experiment)
        parts = (resolved.benchmark, resolved.network, *resolved.strategies, *resolved.probes)
        return next(part for part in parts if part.name == self.name)

    def settings_checks(self) -> list[Check]:
        """Return the checks of the settings."""
        part, folder = self.part, self.trials.folder
        return [
            Check("Config is a frozen dataclass", partial(settings.check_frozen, part)),
            Check("each setting is described", partial(settings.check_documented, part)),
            Check("settings come back from YAML", partial(settings.check_yaml, self.experiment, folder)),
            Check("settings can be sent to another process", partial(settings.check_copies, part)),
        ]


class _StrategySuite(_Suite):
    """The checks of a strategy, on the first streams and networks that it accepts."""

    def prepare(self) -> None:
        """Choose two streams and a network for each."""
        self.network: dict[StreamName, Settings] = {}
        refusals = []
        streams: tuple[StreamName, ...] = ("split", "rotated", "task")
        for stream in streams:
            for candidate in NETWORKS:
                try:
                    experiment = short_experiment(stream, candidate, {self.name: self.settings})
                    build_trial(resolve_experiment(with_enough_epochs(experiment)))
                except UserError as error:
                    refusals.append(error)
                else:
                    self.network[stream] = candidate
                    break
        if not self.network:
            raise refusals[0]
        self.streams = list(self.network)[:2]
        self.experiment = self.with_it(self.streams[0])

    def with_it(self, stream: StreamName, chosen: Settings | None = None, **training: Any) -> Experiment:
        """Return a trial with the strategy, of as many epochs as its own settings need, whatever is `chosen`."""
        network = self.network.get(stream, self.network[self.streams[0]])
        experiment = with_enough_epochs(short_experiment(stream, network, {self.name: self.settings}, **training))
        return experiment if chosen is None else replace(experiment, strategies={self.name: chosen})

    def naive(self, stream: StreamName, **training: Any) -> Experiment:
        """Return the same trial without strategies."""
        return replace(self.with_it(stream, **training), strategies={})

    def checks(self) -> list[Check]:
        """Return the checks."""
        part, trials, first = self.part, self.trials, self.experiment
        checks = self.settings_checks() if hasattr(part.module, "Config") else []
        checks += [
            Check("hooks and declarations have names that are known", partial(strategy.check_names, part)),
            Check("ROLES and CONFLICTS are valid", partial(strategy.check_declarations, part, first)),
            Check("a short trial runs", partial(trials, first), needed=True),
            Check("it has a state to resume from", partial(strategy.check_resumable, part)),
            Check("neutral settings give the bits of plain finetuning", self.check_neutral),
            Check("its settings change something", self.check_acts),
            Check("the same seed gives the same bits", partial(strategy.check_seed, first, trials)),
            Check("another seed gives other bits", partial(strategy.check_other_seed, first, trials)),
            Check("evaluation changes nothing", self.check_evaluation),
            Check("nothing is left in the network at the end", self.check_nothing_left),
        ]
        for stream in self.streams:
            text = f"stopped mid-experience and resumed, the bits are the same ({stream})"
            checks.append(Check(text, partial(self.check_resume, stream)))
        text = "stopped between experiences and resumed, the bits are the same"
        checks.append(Check(text, self.check_resume_between))
        text = "it runs in a plain Avalanche script"
        return [*checks, Check(text, self.check_plain_avalanche)]

    def check_neutral(self) -> None:
        """Compare with plain finetuning, on each stream."""
        neutral = strategy.neutral_settings_of(self.part)
        for stream in self.streams:
            strategy.check_neutral(self.naive(stream), self.with_it(stream, neutral), self.trials)

    def check_acts(self) -> None:
        """Compare with plain finetuning, on a short and then on a longer stream."""
        streams: list[StreamName] = ["pair", "split"] if self.streams[0] == "split" else list(self.streams)
        pairs = ((self.naive(each, **_ACTIVE), self.with_it(each, **_ACTIVE)) for each in streams)
        strategy.check_acts(pairs, self.trials)

    def check_evaluation(self) -> None:
        """Evaluate in one pass, and with Avalanche's loop."""
        strategy.check_evaluation(self.experiment)
        watched = {**self.experiment.strategies, WATCHER: {}}
        strategy.check_evaluation(replace(self.experiment, strategies=watched))

    def check_nothing_left(self) -> None:
        """Look at the network after a stream."""
        strategy.check_nothing_left(trained(self.experiment), 1)

    def check_plain_avalanche(self) -> None:
        """Train with Avalanche's own template."""
        from .avalanche_script import check_plain_avalanche  # here: importing Avalanche takes seconds

        check_plain_avalanche(self.part)

    def check_resume(self, stream: StreamName) -> None:
        """Stop and resume, if its state can be saved."""
        strategy.check_resumable(self.part)
        strategy.check_resume_mid_experience(self.with_it(stream), self.trials)

    def check_resume_between(self) -> None:
        """Stop and resume between experiences, if its state can be saved."""
        strategy.check_resumable(self.part)
        strategy.check_resume_between_experiences(self.experiment, self.trials)


class _NetworkSuite(_Suite):
    """The checks of a network, for the first shape that it accepts."""

    def prepare(self) -> None:
        """Choose the shape."""
        self.experiment = self.trial((1, 8, 8))
        self.case = network.first_case(self.part)
        grows = hasattr(getattr(self.case.make(), "head", None), "grow")
        self.experiment = self.trial(self.case.shape, full_head=not grows)

    def trial(self, shape: tuple[int, ...], **training: Any) -> Experiment:
        """Return a trial of the network on random pictures of a shape."""
        return short_experiment({RANDOM_PICTURES: {"shape": list(shape)}}, {self.name: self.settings}, **training)

    def checks(self) -> list[Check]:
        """Return the checks."""
        case, trials, shape = self.case, self.trials, list(self.case.shape)
        return self.settings_checks() + [
            Check("its output is finite and of shape (B, classes)", partial(network.check_output, case), needed=True),
            Check("its weights follow from the generator alone", partial(network.check_weights, case)),
            Check("its head grows with the classes", partial(network.check_head_grows, case)),
            Check("every parameter gets a gradient", partial(network.check_gradients, case)),
            Check("evaluation mode draws and changes nothing", partial(network.check_evaluation_mode, case)),
            Check("its state_dict holds everything", partial(network.check_state, case)),
            Check(f"it takes another shape than {shape}, or refuses it", partial(network.check_other_shape, case)),
            Check("a short trial trains it", partial(network.check_trains, self.experiment, trials), needed=True),
            Check(
                "stopped mid-experience and resumed, the bits are the same",
                partial(strategy.check_resume_mid_experience, self.experiment, trials),
            ),
        ]


class _BenchmarkSuite(_Suite):
    """The checks of a benchmark."""

    def prepare(self) -> None:
        """Build the stream."""
        self.experiment = short_experiment({self.name: self.settings}, NETWORKS[0], batch_size=64, iterations=4)
        self.stream = build_trial(resolve_experiment(self.experiment)).stream

    def checks(self) -> list[Check]:
        """Return the checks."""
        checks = self.settings_checks() if hasattr(self.part.module, "Config") else []
        return checks + self.stream_checks()

    def stream_checks(self) -> list[Check]:
        """Return the checks of the stream."""
        stream = self.stream
        return [
            Check(
                "samples and labels have the format that the loader takes",
                partial(benchmark.check_format, stream),
                True,
            ),
            Check("no experience is empty", partial(benchmark.check_not_empty, stream), needed=True),
            Check("labels, classes and scenario agree", partial(benchmark.check_classes, stream)),
            Check("no test or validation sample is trained on", partial(benchmark.check_no_leak, stream)),
            Check("same seed, same stream", self.check_same_seed),
            Check("a short trial runs", partial(self.trials, self.experiment)),
        ]

    def check_same_seed(self) -> None:
        """Build the stream again."""
        benchmark.check_same_seed(self.stream, build_trial(resolve_experiment(self.experiment)).stream)


class _ProbeSuite(_Suite):
    """The checks of a probe, on a network with BatchNorm."""

    def prepare(self) -> None:
        """Set the trials with and without it."""
        self.naive = short_experiment("pair", CNN, epochs=2)
        self.experiment = replace(self.naive, probes={**self.naive.probes, self.name: self.settings})
        builder = build_trial(resolve_experiment(self.experiment))
        self.probe = builder.probes(self.trials.folder)[self.name]

    def checks(self) -> list[Check]:
        """Return the checks."""
        part, trials = self.part, self.trials
        return self.settings_checks() + [
            Check("its methods have names that are known", partial(probe.check_names, part, self.probe)),
            Check("a short trial runs", partial(trials, self.experiment), needed=True),
            Check(
                "a trial with it has the bits of one without",
                partial(probe.check_changes_nothing, self.naive, self.experiment, trials),
            ),
            Check("its values are numbers", partial(probe.check_values, self.naive, self.experiment, trials)),
            Check(
                "stopped and resumed, each value is there once",
                partial(probe.check_resume, self.experiment, trials),
            ),
        ]


class _DataSetSuite(_BenchmarkSuite):
    """The checks of a data set, which also serves the benchmark `class_incremental`."""

    def prepare(self) -> None:
        """Build the data set and the stream."""
        data = {"data": {self.name: dict(self.settings)}, "num_experiences": 2}
        self.experiment = short_experiment({"class_incremental": data}, NETWORKS[0], batch_size=64, iterations=4)
        self.stream = build_trial(resolve_experiment(self.experiment)).stream
        self.data_set = self.build()

    @cached_property
    def part(self) -> ResolvedPart:
        """The data set with its settings."""
        module = registry.resolve("datasets", self.name)
        config = build_config(module.Config, self.settings, f"data.{self.name}")
        return ResolvedPart("datasets", self.name, module, config, plain_data(config))

    def build(self) -> Any:
        """Return the data set."""
        return self.part.module.build(self.part.config, DataFolders.of(None, None))

    def checks(self) -> list[Check]:
        """Return the checks."""
        return [
            *self.settings_checks(),
            Check(
                "pictures, labels and statistics have the expected form", partial(data_set.check_arrays, self.data_set)
            ),
            Check("domains are given for each sample", partial(data_set.check_domains, self.data_set)),
            Check("it is the same when it is built again", self.check_repeatable),
            *self.stream_checks(),
        ]

    def check_repeatable(self) -> None:
        """Build the data set again."""
        data_set.check_repeatable(self.data_set, self.build())


_SUITES: Mapping[str, type[_Suite]] = {
    "strategy": _StrategySuite,
    "network": _NetworkSuite,
    "benchmark": _BenchmarkSuite,
    "probe": _ProbeSuite,
    "data_set": _DataSetSuite,
}
