"""Plan a sweep that searches: which variants are searched on which streams, with which part of the data, and what is reported.

A search trial sees only what its protocol allows: the config's `stream_part` cuts its stream. The reported trials are others.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..config.load import from_dict, plain_data, to_dict
from ..config.schema import Experiment, StreamPart
from ..config.search import (
    FirstExperiences,
    GridPoints,
    Oracle,
    SearchSettings,
    Transfer,
    protocol_of,
    search_settings,
)
from ..config.settings import per_experience
from ..config.yaml_overrides import merge
from ..errors import UserError, comma_separated, nearest
from ..run_folders import folder_name
from ..trial.resolve import ResolvedExperiment, resolve_experiment
from .combinations import Combination, combinations, naming_trial
from .plan import PlannedTrial, of_each_seed, resolved_overrides
from .search_space import Point, check_space, num_points
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
        """Return the reported trials of variants without a space."""
        trials: list[PlannedTrial] = []
        for (stream, variant), part in self.reported.items():
            if not part.domains():
                with naming_trial(stream, variant):
                    trials += self._reported(part, {}, {}, first_number + len(trials))
        return trials

    def reported_trials(
        self, part: Combination, point: Point, configuration: int, first_number: int
    ) -> list[PlannedTrial]:
        """Return the reported trials of a study's chosen configuration, on every stream that is reported for it."""
        trials: list[PlannedTrial] = []
        for (stream, variant), reported in self.reported.items():
            if variant == part.variant and (stream == part.stream or isinstance(self.settings.protocol, Transfer)):
                more = {"configuration": configuration, "protocol": protocol_of(self.settings)}
                trials += self._reported(reported, point, more, first_number + len(trials))
        return trials

    def _reported(
        self, part: Combination, point: Point, more: dict[str, Any], first_number: int
    ) -> Iterator[PlannedTrial]:
        config, overrides = part.at(point)
        protocol = self.settings.protocol
        if isinstance(protocol, FirstExperiences) and protocol.evaluate == "rest":
            config = _with_part(config, after=protocol.k)
        for number, (seed, plain, resolved) in enumerate(of_each_seed(config, self.experiment.sweep.seeds)):
            name = folder_name(f"{first_number + number:03d}-{part.stream}-{part.variant}-seed{seed}")
            yield PlannedTrial(
                _fitted(resolved),
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
            ((_, plain, resolved),) = of_each_seed(self._searched_config(config), [seed])
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
            return PlannedTrial(_fitted(resolved), identity)

    def _searched_config(self, config: dict[str, Any]) -> dict[str, Any]:
        protocol = self.settings.protocol
        if isinstance(protocol, Oracle):
            return config
        if isinstance(protocol, FirstExperiences):
            config = _with_part(config, first=protocol.k)
        return _with_part(config, test="validation")

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
    experiment = _sampled(experiment, settings)
    parts = {(part.stream, part.variant): part for part in combinations(experiment)}
    reported, searched_streams = dict(parts), [stream for stream, _ in parts]
    if isinstance(settings.protocol, Transfer):
        streams = list(dict.fromkeys(searched_streams))
        if settings.protocol.to not in streams:
            raise UserError(
                f"sweep.protocol.transfer.to={settings.protocol.to}: is no stream.{nearest(settings.protocol.to, streams)} "
                f"Here: {comma_separated(streams)}."
            )
        if len(streams) != 2:
            raise UserError(
                f"sweep.protocol.transfer: needs two streams, to search on one and evaluate on the other; sweep.streams has "
                f"{len(streams)}."
            )
        reported = {key: part for key, part in parts.items() if key[0] == settings.protocol.to}
    searched = tuple(
        part
        for (stream, variant), part in parts.items()
        if part.domains() and (not isinstance(settings.protocol, Transfer) or stream != settings.protocol.to)
    )
    if not searched:
        raise UserError("sweep.objective: nothing to search: neither the sweep nor a variant or stream has a space.")
    for part in searched:
        with naming_trial(part.stream, part.variant):
            check_space(part.domains())
    check_points(settings, [part.domains() for part in searched])
    return SearchPlan(experiment, settings, searched, reported)


def _sampled(experiment: Experiment, settings: SearchSettings) -> Experiment:
    """Return the experiment with enough `samples` for its list of random points: one point is no search."""
    if not isinstance(settings.algorithm, GridPoints) and settings.samples == 1:
        raise UserError("sweep.samples=1: a search needs more: set it to the number of configurations, such as 20.")
    return experiment


def _with_part(config: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return a config whose stream is cut further than the user's `stream_part` cuts it."""
    own: dict[str, Any] = {**plain_data(StreamPart()), **(config.get("stream_part") or {})}
    if "first" in changes:
        cut = own["after"] + changes["first"]
        own["first"] = cut if own["first"] is None else min(cut, own["first"])
    own["after"] += changes.get("after", 0)
    own["test"] = changes.get("test", own["test"])
    return merge(config, {"stream_part": own})


def _fitted(resolved: ResolvedExperiment) -> ResolvedExperiment:
    """Cut lists with one value per experience down to the experiences of the trial's part of the stream."""
    part = resolved.experiment.stream_part
    if part.first is None and part.after == 0:
        return resolved
    kept = slice(part.after, part.first)
    plain = to_dict(resolved.experiment)
    before = repr(plain)
    _cut(plain["training"], resolved.experiment.training, kept)
    _cut(plain["training"]["optimizer"], resolved.experiment.training.optimizer, kept)
    for strategy in resolved.strategies:
        _cut(plain["strategies"][strategy.name], strategy.config, kept)
    return resolved if repr(plain) == before else resolve_experiment(from_dict(plain))


def _cut(plain: dict[str, Any], config: Any, kept: slice) -> None:
    for key in per_experience(config):
        if isinstance(plain.get(key), list):
            plain[key] = plain[key][kept] or plain[key][-1:]
