"""The search of one variant on one stream: its configurations, their trials and outcomes, and the one that is chosen.

A configuration is a point of the space, run with the search seeds. Everything here follows from the journal and from the
trials' folders, so a search that was killed continues as if it had not been.
"""

import logging
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config.search import SearchSettings
from ..ledger.journal import CLOSING_REASONS, append_to_journal
from ..ledger.journal import NAME as JOURNAL
from ..ledger.reader import Trial
from ..ledger.trial_values import final_values, values_so_far
from .choice import chosen_number
from .combinations import Combination
from .search_space import Point, identity
from .seed_pruning import is_worse
from .suggestions import Outcome, PointList, State, Suggestion, check_suggested, suggestions_for

_log = logging.getLogger(__name__)
_MAX_REPEATS = 100  # suggestions in a row that repeat earlier points, after which there are no more


@dataclass(slots=True)
class Configuration:
    """A configuration of a search.

    Attributes:
        number: from 0.
        position: its place among all suggestions, repeats too.
        point: its point of the space.
        state: "running", "complete", "pruned" or "failed".
        started: seed -> the trial.
        values: seed -> value of each objective, of the trials that are done.
        is_worse: whether Wilcoxon's test ended its seeds.
    """

    number: int
    position: int
    point: Point
    state: State = "running"
    started: dict[int, Trial] = field(default_factory=dict)
    values: dict[int, tuple[float, ...]] = field(default_factory=dict)
    is_worse: bool = False

    def means(self) -> tuple[float, ...]:
        """Return the mean of each objective over the seeds that are done."""
        return tuple(statistics.fmean(column) for column in zip(*self.values.values(), strict=True))


class Study:
    """The search of one variant on one stream.

    Attributes:
        part: the variant on the stream.
        settings: the search's.
        configurations: all that were suggested and are no repeats, by number.
        is_over: whether nothing is left to run, or the configuration is chosen.
    """

    def __init__(
        self, folder: Path, part: Combination, settings: SearchSettings, first_points: Sequence[Point]
    ) -> None:
        self.part, self.settings = part, settings
        self.configurations: dict[int, Configuration] = {}
        self.is_over = False
        self._folder = folder
        name = f"{part.stream}/{part.variant}"
        self._source = suggestions_for(settings, part.sweep, part.added, name, first_points)
        self._limit = math.inf if isinstance(self._source, PointList) else settings.samples
        self._num_suggested = 0
        self._num_repeats = 0  # in a row, the latest ones
        self._is_closed = False
        self._running: dict[int, Configuration] = {}
        self._known: set[Any] = set()

    @property
    def key(self) -> tuple[str, str]:
        """Return the stream and the variant."""
        return self.part.stream, self.part.variant

    @property
    def names(self) -> dict[str, str]:
        """Return the stream and the variant, which name it in the journal."""
        return {"stream": self.part.stream, "variant": self.part.variant}

    @property
    def has_unstarted(self) -> bool:
        """Return whether a configuration was suggested without a trial: the process was killed in between."""
        return any(not each.started for each in self._running.values())

    def warm_start(self, results: Iterable[tuple[Point, tuple[float, ...]]]) -> int:
        """Begin with results of an earlier search; return how many have points of this space."""
        add, number = getattr(self._source, "add_earlier", None), len(self.settings.objectives)
        fitting = [(point, values) for point, values in results if len(values) == number]
        return 0 if add is None else sum(add(point, Outcome("complete", values)) for point, values in fitting)

    def restore(self, entries: Sequence[Mapping[str, Any]], trials: Sequence[Trial]) -> None:
        """Take over what the journal has of this study, in its order, and the outcomes of its trials; nothing is written."""
        worse = {entry["number"] for entry in entries if entry["kind"] == "worse"}
        of_number: dict[int, list[Trial]] = {}
        for trial in trials:
            of_number.setdefault(int(trial.identity["configuration"]), []).append(trial)
        for entry in entries:
            suggestion = Suggestion(entry.get("point", {}), entry.get("attributes", {}))
            if entry["kind"] in ("repeated", "suggested"):
                check_suggested(self._folder / JOURNAL, suggestion.point, self.part.domains())
            if entry["kind"] == "repeated":
                self._source.add(suggestion, Outcome("repeated"))
                self._num_suggested += 1
                self._num_repeats += 1
            if entry["kind"] == "earlier":
                self.warm_start((each["point"], tuple(map(float, each["values"]))) for each in entry["results"])
            if entry["kind"] == "closed":  # what `retain add` has added opens it again
                self._is_closed, self._num_repeats = entry["limits"] == self._limits(), 0
            if entry["kind"] == "suggested":
                configuration = self._register(suggestion.point)
                configuration.is_worse = configuration.number in worse
                for trial in of_number.get(configuration.number, ()):
                    configuration.started[trial.seed] = trial
                    self._take(configuration, trial)
                self._settle(configuration)
                self._source.add(suggestion, self._outcome(configuration))

    def decide_seeds(self) -> None:
        """Decide again which configurations are worse, if the process was killed before it could write so."""
        for configuration in list(self._running.values()):
            self._decide_seeds(configuration)

    def next_trial(self, elapsed: float) -> tuple[Configuration, int] | None:
        """Return the configuration and the seed to run next; None: nothing now, or the study is over.

        Args:
            elapsed: seconds that the search has taken so far.
        """
        for configuration in self._running.values():
            seed = self._next_seed(configuration)
            if seed is not None:
                return configuration, seed
        suggested = self._suggest(elapsed) if self._may_suggest(elapsed) else None
        if suggested is not None:
            return suggested, self.settings.seeds[0]
        self.is_over = not self._running
        return None

    def started(self, number: int, trial: Trial) -> None:
        """Note that a configuration's trial was started."""
        self.configurations[number].started[trial.seed] = trial

    def ended(self, trial: Trial) -> None:
        """Take the outcome of a trial; a trial that was only stopped has none yet."""
        configuration = self.configurations[int(trial.identity["configuration"])]
        if configuration.state != "running":
            return
        self._take(configuration, trial)
        self._decide_seeds(configuration)

    def _decide_seeds(self, configuration: Configuration) -> None:
        """End the seeds of a configuration that is worse than the best one, and tell an outcome that it has now."""
        if self.settings.prune_seeds and self._is_worse(configuration):
            append_to_journal(self._folder, "worse", {**self.names, "number": configuration.number})
            configuration.is_worse = True
        self._settle(configuration)
        if configuration.state != "running":
            self._source.tell(configuration.position, self._outcome(configuration))

    def chosen(self) -> Configuration | None:
        """Return the best configuration of those that are complete with all seeds; None if there is none."""
        candidates = {each.number: each.means() for each in self.candidates()}
        number = chosen_number(self.settings, candidates)
        return None if number is None else self.configurations[number]

    def candidates(self) -> list[Configuration]:
        """Return the configurations that are complete with all search seeds."""
        return [each for each in self.configurations.values() if each.state == "complete" and not each.is_worse]

    def _register(self, point: Point) -> Configuration:
        configuration = Configuration(len(self.configurations), self._num_suggested, point)
        self.configurations[configuration.number] = self._running[configuration.number] = configuration
        self._known.add(identity(point))
        self._num_suggested += 1
        self._num_repeats = 0
        return configuration

    def _may_suggest(self, elapsed: float) -> bool:
        """Return whether a configuration may follow; the end by the time limit is written to the journal."""
        has_all = not self._source if isinstance(self._source, PointList) else len(self.configurations) >= self._limit
        if has_all or self._is_closed:
            return False
        if self.settings.time_limit is None or elapsed < self.settings.time_limit:
            return True
        self._close("time_limit", elapsed)
        return False

    def _suggest(self, elapsed: float) -> Configuration | None:
        """Suggest a new configuration and write it to the journal; None if there are no more, which is written too."""
        while self._num_repeats < _MAX_REPEATS:
            suggestion = self._source.ask()
            if suggestion is None:
                self._close("exhausted", elapsed)
                return None
            entry = {"point": suggestion.point, "attributes": suggestion.attributes, "elapsed": elapsed}
            if identity(suggestion.point) not in self._known:
                append_to_journal(
                    self._folder, "suggested", {**self.names, "number": len(self.configurations), **entry}
                )
                return self._register(suggestion.point)
            append_to_journal(self._folder, "repeated", {**self.names, **entry})
            self._source.tell(self._num_suggested, Outcome("repeated"))
            self._num_suggested += 1
            self._num_repeats += 1
        self._close("repeats", elapsed)
        return None

    def _close(self, reason: str, elapsed: float) -> None:
        """Suggest no more: also after a restart, until `retain add` changes what the limits are."""
        append_to_journal(
            self._folder, "closed", {**self.names, "reason": reason, "limits": self._limits(), "elapsed": elapsed}
        )
        self._is_closed, self._num_repeats = True, 0
        text = f"{len(self.configurations)} configurations (sweep.samples={self.settings.samples})"
        _log.warning("search (%s, %s): %s: %s", *self.key, CLOSING_REASONS[reason], text)

    def _limits(self) -> dict[str, Any]:
        """Return what ends the study, as the journal keeps it."""
        settings = self.settings
        return {"samples": settings.samples, "points": len(settings.points), "time_limit": settings.time_limit}

    def _next_seed(self, configuration: Configuration) -> int | None:
        """Return the seed that a configuration needs next: the later seeds wait for the first ones.

        With `prune_seeds` the later ones run one after the other, with a test after each.
        """
        missing = [seed for seed in self.settings.seeds if seed not in configuration.started]
        if not missing or len(configuration.started) < self.settings.seeds_first:
            return missing[0] if missing else None
        awaited = len(configuration.started) if self.settings.prune_seeds else self.settings.seeds_first
        return missing[0] if len(configuration.values) >= awaited else None

    def _take(self, configuration: Configuration, trial: Trial) -> None:
        """Take the outcome of one trial."""
        status = trial.status().status
        if status == "done":
            values = final_values(trial, self.settings.objectives)
            configuration.values[trial.seed] = values
            if not all(math.isfinite(value) for value in values):  # the metric is not defined for this trial
                configuration.state = "failed"
        elif status in ("failed", "pruned"):
            configuration.state = "failed" if status == "failed" else "pruned"

    def _settle(self, configuration: Configuration) -> None:
        """Set the state of a configuration whose trials have ended."""
        if configuration.state == "running" and (
            configuration.is_worse or len(configuration.values) == len(self.settings.seeds)
        ):
            configuration.state = "complete"
        if configuration.state != "running":
            self._running.pop(configuration.number, None)

    def _is_worse(self, configuration: Configuration) -> bool:
        """Return whether the configuration's seeds so far say that it is worse than the best one."""
        if len(configuration.values) in (0, len(self.settings.seeds)):
            return False
        best = self.chosen()
        return best is not None and is_worse(self.settings.objectives[0], configuration.values, best.values)

    def _outcome(self, configuration: Configuration) -> Outcome:
        first = configuration.started.get(self.settings.seeds[0])
        so_far = {} if first is None else values_so_far(first, self.settings.objectives[0])
        defined = {experience: value for experience, value in so_far.items() if math.isfinite(value)}
        values = configuration.means() if configuration.state == "complete" else ()
        return Outcome(configuration.state, values, defined if configuration.state == "pruned" else {})
