"""Plan a sweep that searches: which variants are searched on which streams, with which part of the data, and what is reported.

A search trial sees only what its protocol allows: the config's `stream_part` cuts its stream. The reported trials are others.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..config.schema import Experiment, Sweep
from ..config.search import (
    FirstExperiences,
    GridPoints,
    Oracle,
    SearchSettings,
    Transfer,
    protocol_of,
    search_settings,
)
from ..errors import UserError, comma_separated, nearest
from ..run_folders import folder_name
from ..trial.resolve import ResolvedExperiment
from .combinations import Combination, combinations, naming_trial
from .plan import PlannedTrial, of_each_seed, resolved_overrides
from .search_space import Point, check_search_space, num_points
from .stream_cut import cut_stream
from .suggestions import PointList, check_points, points_for, suggestions_for


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """What a sweep with a search runs.

    Attributes:
        experiment: the experiment.
        settings: the search's.
        searched: the variants with a space, on the streams that the protocol searches.
        reported: (stream, variant) -> the variant on a stream that is reported.
    """

    experiment: Experiment
    settings: SearchSettings
    searched: tuple[Combination, ...]
    reported: Mapping[tuple[str, str], Combination]

    def first_points(self, part: Combination) -> list[Point]:
        """Return the points that a study begins with."""
        return points_for(self.settings, part.domains())

    def fixed_trials(self, first_number: int = 0) -> list[PlannedTrial]:
        """Return the reported trials of variants that are not searched."""
        trials: list[PlannedTrial] = []
        for part in self.reported.values():
            if not self.studies_of(part):
                with naming_trial(part.stream, part.variant):
                    trials += self._reported(part, {}, {}, first_number + len(trials))
        return trials

    def studies_of(self, part: Combination) -> list[Combination]:
        """Return the searched variants whose choice is reported for a variant on a stream: one, or none."""
        return [study for study in self.searched if self._reports(study, part)]

    def _reports(self, study: Combination, part: Combination) -> bool:
        """Return whether the choice of a study is reported by a variant on a stream."""
        is_there = study.stream == part.stream or isinstance(self.settings.protocol, Transfer)
        return is_there and study.variant == part.variant

    def reported_trials(
        self, part: Combination, point: Point, configuration: int, first_number: int
    ) -> list[PlannedTrial]:
        """Return the reported trials of a study's chosen configuration, on every stream that is reported for it."""
        trials: list[PlannedTrial] = []
        for reported in self.reported.values():
            if self._reports(part, reported):
                more = {"configuration": configuration, "protocol": protocol_of(self.settings)}
                trials += self._reported(reported, point, more, first_number + len(trials))
        return trials

    def _reported(
        self, part: Combination, point: Point, more: dict[str, Any], first_number: int
    ) -> Iterator[PlannedTrial]:
        config, overrides = part.at(point)
        protocol = self.settings.protocol
        after = protocol.k if isinstance(protocol, FirstExperiences) and protocol.evaluate == "rest" else 0
        for number, (seed, plain, resolved) in enumerate(of_each_seed(config, self.experiment.sweep.seeds)):
            name = folder_name(f"{first_number + number:03d}-{part.stream}-{part.variant}-seed{seed}")
            yield PlannedTrial(
                cut_stream(resolved, after=after),
                {
                    "id": name,
                    "variant": part.variant,
                    "stream": part.stream,
                    "seed": seed,
                    "overrides": resolved_overrides(overrides, plain),
                    **more,
                },
            )

    def search_trial(self, part: Combination, point: Point, configuration: int, seed: int, number: int) -> PlannedTrial:
        """Return one search trial of a configuration.

        Args:
            part: the variant on the stream.
            point: the configuration's.
            configuration: its number in the study.
            seed: a search seed.
            number: of the trial in the sweep, for its id.
        """
        with naming_trial(part.stream, f"{part.variant}, search"):
            config, overrides = part.at(point)
            ((_, plain, resolved),) = of_each_seed(config, [seed])
            name = f"{part.variant} search {configuration}"
            identity = {
                "id": folder_name(f"{number:03d}-{part.stream}-{part.variant}-search{configuration}-seed{seed}"),
                "variant": name,
                "stream": part.stream,
                "seed": seed,
                "overrides": resolved_overrides(overrides, plain),
                "role": "search",
                "searched": part.variant,
                "configuration": configuration,
                "protocol": protocol_of(self.settings),
            }
            return PlannedTrial(self._cut(resolved), identity)

    def _cut(self, resolved: ResolvedExperiment) -> ResolvedExperiment:
        """Cut the stream of a search trial down to what the protocol allows."""
        protocol = self.settings.protocol
        if isinstance(protocol, Oracle):
            return resolved
        first = protocol.k if isinstance(protocol, FirstExperiences) else None
        return cut_stream(resolved, first=first, test="validation")

    def num_configurations(self, part: Combination) -> int:
        """Return how many configurations a study has at most."""
        source = suggestions_for(self.settings, part.sweep, part.added, "", self.first_points(part))
        return (
            len(source)
            if isinstance(source, PointList)
            else int(min(self.settings.samples, num_points(part.domains())))
        )

    def length(self, num_experiences: int) -> int:
        """Return how many experiences a search trial has, of a stream with `num_experiences`."""
        protocol = self.settings.protocol
        return protocol.k if isinstance(protocol, FirstExperiences) else num_experiences


def plan_search(experiment: Experiment) -> SearchPlan | None:
    """Return the plan of a sweep with an objective; None without one.

    Raises:
        UserError: the settings of the search do not fit together, or to the streams and variants.
    """
    settings = search_settings(experiment)
    if settings is None:
        return None
    if not isinstance(settings.algorithm, GridPoints) and settings.samples == 1:
        raise UserError("sweep.samples=1: a search needs more: set it to the number of configurations, such as 20.")
    parts = {(part.stream, part.variant): part for part in combinations(experiment)}
    reported, searched = parts, [part for part in parts.values() if part.domains()]
    if isinstance(settings.protocol, Transfer):
        target = settings.protocol.to
        _check_streams(target, list(dict.fromkeys(stream for stream, _ in parts)))
        reported = {key: part for key, part in parts.items() if key[0] == target}
        searched = [part for part in searched if part.stream != target]
        _check_target(experiment.sweep, target, parts)
    if not searched:
        raise UserError("sweep.objective: nothing to search: neither the sweep nor a variant or stream has a space.")
    for part in searched:
        with naming_trial(part.stream, part.variant):
            check_search_space(part.domains())
    check_points(settings, [part.domains() for part in searched])
    return SearchPlan(experiment, settings, tuple(searched), reported)


def _check_streams(target: str, streams: Sequence[str]) -> None:
    """Refuse `transfer` to a stream that is not there, or without another one to search on."""
    if target not in streams:
        raise UserError(
            f"sweep.protocol.transfer.to={target}: is no stream.{nearest(target, streams)} "
            f"Here: {comma_separated(streams)}."
        )
    if len(streams) != 2:
        raise UserError(
            f"sweep.protocol.transfer: needs two streams, to search on one and evaluate on the other; sweep.streams has "
            f"{len(streams)}."
        )


def _check_target(sweep: Sweep, target: str, parts: Mapping[tuple[str, str], Combination]) -> None:
    """Refuse a space of the stream that `transfer` evaluates on which is not that of the search: nothing would use it."""
    own = sweep.streams[target].get("space", {})
    for (stream, variant), part in parts.items():
        if stream != target:
            space, of_target = part.domains(), parts[target, variant].domains()
            differing = [key for key in of_target if key not in space]
            differing += [key for key in own if key in space and space[key] != of_target.get(key)]
            if differing:
                key = differing[0]
                where = f"streams.{target}.space.{key}" if key in own else f"space.{key}"
                raise UserError(
                    f"sweep ({target}, {variant}): sweep.{where}: differs from the space on {stream}, where protocol "
                    f"transfer searches; {target} only evaluates the choice. Give both streams the same domain (in "
                    f"sweep.space or the variant's space), or only {stream} (sweep.streams.{stream}.space)."
                )
