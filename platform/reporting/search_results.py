"""Read the searches of a sweep's folder: the configurations, what became of them, and which one is reported."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config.load import load_config
from ..config.search import ASHA, LOOKS_AT, Objective, SearchSettings, rungs, search_settings
from ..config.yaml_files import flow_yaml
from ..errors import UserError
from ..ledger.journal import CLOSING_REASONS, current_choices, read_journal
from ..ledger.pruned_record import pruned_after
from ..ledger.reader import Trial, is_sweep, run_config, trials_of
from ..ledger.trial_values import final_values, values_so_far

COLOURS = {"oracle": "red", "end_of_stream": "yellow"}  # of protocols that look at what a learner cannot have
_STATES = {"done": "complete", "pruned": "stopped early", "failed": "failed"}


@dataclass(frozen=True, slots=True)
class SearchedConfiguration:
    """One configuration of a search.

    Attributes:
        number: from 0.
        point: dotted key -> value.
        state: "complete", "stopped early", "failed" or "running".
        values: objective -> mean over the search seeds that are done; {} if none is.
        trials: its trials.
        reason: why it was stopped or failed, or "".
    """

    number: int
    point: Mapping[str, Any]
    state: str
    values: Mapping[str, float]
    trials: tuple[Trial, ...]
    reason: str = ""

    def text_of(self, key: str) -> str:
        """Return the value of a key of its point as a short text; "-" if it has none."""
        return value_text(self.point[key]) if key in self.point else "-"

    @property
    def state_text(self) -> str:
        """Return the state with the reason, which says of a configuration that was stopped early by itself what it is."""
        if not self.reason or self.reason.startswith(self.state):
            return self.reason or self.state
        return f"{self.state}: {self.reason}"


def protocol_text(protocol: Mapping[str, Any]) -> str:
    """Return a protocol, as a trial's identity has it, as a short text."""
    own = ", ".join(f"{key}={value}" for key, value in protocol.items() if key != "name")
    return f"{protocol['name']} ({own})" if own else str(protocol["name"])


def value_text(value: Any) -> str:
    """Return a value of a point as a short text: four digits of a float, else YAML on one line."""
    return f"{value:.4g}" if isinstance(value, float) else flow_yaml(value)


@dataclass(frozen=True, slots=True)
class Rung:
    """What ASHA has compared after an experience.

    Attributes:
        experience: after which, from 1.
        reached: trials that were compared.
        stopped: trials that it stopped there.
        cutoff: value of the compared metric that a further trial would have to reach.
    """

    experience: int
    reached: int
    stopped: int
    cutoff: float


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The search of one variant on one stream.

    Attributes:
        stream: the stream's name.
        variant: the variant's name.
        objectives: what it was searched by.
        protocol: the protocol's name.
        settings: the protocol's settings.
        configurations: in the order in which they were suggested.
        chosen: the number of the one that is reported; None: not chosen yet, or none is complete.
        is_over: whether it has chosen; what `retain add` adds lets it choose again.
        sweep: the name of the sweep's folder.
        compared: the metric that its scheduler compares.
        rungs: what ASHA has compared, the first one first; () without it.
        closed: why it suggests no more before it has had all of its samples, or "".
    """

    stream: str
    variant: str
    objectives: tuple[Objective, ...]
    protocol: str
    settings: Mapping[str, Any]
    configurations: tuple[SearchedConfiguration, ...]
    chosen: int | None
    is_over: bool
    sweep: str = ""
    compared: str = ""
    rungs: tuple[Rung, ...] = ()
    closed: str = ""

    @property
    def rung_texts(self) -> list[str]:
        """Return what ASHA has compared, a sentence for each rung."""
        return [
            f"rung after experience {rung.experience}: {rung.reached} trials compared, {rung.stopped} stopped; cutoff "
            f"{self.compared} {rung.cutoff:.4f}"
            for rung in self.rungs
        ]

    @property
    def protocol_text(self) -> str:
        """Return the protocol with its settings: "first_experiences (k=3, evaluate=whole)"."""
        return protocol_text({"name": self.protocol, **self.settings})

    @property
    def keys(self) -> list[str]:
        """Return the keys of the space."""
        return list(dict.fromkeys(key for each in self.configurations for key in each.point))

    @property
    def looks_at(self) -> str:
        """Return in a sentence what the choice was made by."""
        return LOOKS_AT[self.protocol]

    def with_state(self, state: str) -> int:
        """Return how many configurations are in a state."""
        return sum(each.state == state for each in self.configurations)

    @property
    def best(self) -> SearchedConfiguration | None:
        """Return the chosen configuration."""
        return None if self.chosen is None else self.configurations[self.chosen]


@dataclass(slots=True)
class _Entries:
    """The journal's lines of one search."""

    points: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    worse: set[int] = field(default_factory=set)
    choice: Mapping[str, Any] | None = None
    closed: str = ""


def searches_of(folder: Path) -> list[SearchResult]:
    """Return the searches of a sweep's folder; none of a sweep without an objective, or of a trial's folder.

    Raises:
        UserError: the folder's config or journal cannot be read.
    """
    if not is_sweep(folder):
        return []
    entries = _entries(read_journal(folder))
    if not entries:
        return []
    settings = search_settings(load_config(run_config(folder)))
    if settings is None:
        raise UserError(f"{folder}: its journal has a search, its experiment.yaml none")
    trials: dict[tuple[str, str], dict[int, list[Trial]]] = {}
    for trial in trials_of(folder):
        if trial.role == "search":
            key = (trial.stream, str(trial.identity["searched"]))
            trials.setdefault(key, {}).setdefault(int(trial.identity["configuration"]), []).append(trial)
    return [_search(*key, own, trials.get(key, {}), settings, folder.resolve().name) for key, own in entries.items()]


def _entries(journal: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], _Entries]:
    """Return the lines of each search, by stream and variant."""
    entries: dict[tuple[str, str], _Entries] = {}
    for entry in journal:
        if entry["kind"] not in ("suggested", "worse", "closed", "chosen"):
            continue
        own = entries.setdefault((entry["stream"], entry["variant"]), _Entries())
        if entry["kind"] == "suggested":
            own.points[entry["number"]] = entry["point"]
            own.closed = ""  # `retain add` has opened it again
        elif entry["kind"] == "worse":
            own.worse.add(entry["number"])
        elif entry["kind"] == "closed":
            own.closed = CLOSING_REASONS[entry["reason"]]
    for key, choice in current_choices(journal).items():
        entries[key].choice = choice
    return entries


def _search(
    stream: str,
    variant: str,
    own: _Entries,
    trials: Mapping[int, Sequence[Trial]],
    settings: SearchSettings,
    sweep: str,
) -> SearchResult:
    configurations = tuple(
        _configuration(number, own, trials.get(number, ()), settings) for number in sorted(own.points)
    )
    protocol = {name: value for each in trials.values() for name, value in each[0].identity["protocol"].items()}
    return SearchResult(
        stream,
        variant,
        settings.objectives,
        settings.protocol_name,
        {key: value for key, value in protocol.items() if key != "name"},
        configurations,
        None if own.choice is None else own.choice["number"],
        own.choice is not None,
        sweep,
        settings.compared.key,
        tuple(_rungs([trial for each in trials.values() for trial in each], settings)),
        own.closed,
    )


def _rungs(trials: Sequence[Trial], settings: SearchSettings) -> Iterator[Rung]:
    """Yield what ASHA has compared: trials with the first search seed, by the formula of Ray Tune's class."""
    if not isinstance(settings.scheduler, ASHA):
        return
    import numpy as np  # here: `retain status` and `retain resume` start without it

    # of each trial: experience -> value, and the experience after which it was stopped
    compared: list[tuple[dict[int, float], int | None]] = []
    length = 0
    for trial in trials:
        if trial.seed != settings.seeds[0]:
            continue
        with suppress(UserError):  # a damaged file: the configuration is shown as failed
            length = max(length, int((trial.read("matrix") or {}).get("num_experiences", 0)))
            stopped = pruned_after(trial.folder)
            last = math.inf if stopped is None else stopped
            found = values_so_far(trial, settings.compared)
            compared.append(
                ({key: value for key, value in found.items() if key <= last and math.isfinite(value)}, stopped)
            )
    for experience in rungs(settings.scheduler, length):
        reached = [values[experience] for values, _ in compared if experience in values]
        if reached:
            share = 1 / settings.scheduler.reduction_factor
            best_first = settings.compared.direction == "maximize"
            cutoff = float(np.percentile(reached, 100 * (1 - share if best_first else share)))
            yield Rung(experience, len(reached), sum(stopped == experience for _, stopped in compared), cutoff)


def _configuration(
    number: int, own: _Entries, trials: Sequence[Trial], settings: SearchSettings
) -> SearchedConfiguration:
    """Return a configuration; one with a damaged file, or an objective that is not defined, has failed, with the reason."""
    statuses = [trial.status() for trial in trials]
    states = {status.status for status in statuses}
    state = next((_STATES[each] for each in ("failed", "pruned") if each in states), "running")
    reason = next((status.error for status in statuses if status.error), None) or ""
    if states == {"done"} and (len(trials) == len(settings.seeds) or number in own.worse):
        state = "complete"
    done = [trial for trial, status in zip(trials, statuses, strict=True) if status.status == "done"]
    values = {}
    try:
        columns = list(zip(*(final_values(trial, settings.objectives) for trial in done), strict=True))
        values = {
            objective.key: math.fsum(column) / len(column)
            for objective, column in zip(settings.objectives, columns, strict=False)
        }
    except UserError as error:
        state, reason = "failed", str(error)
    undefined = [key for key, value in values.items() if not math.isfinite(value)]
    if undefined:
        state, reason = "failed", f"{undefined[0]} is not defined for it"
    finite = {key: value for key, value in values.items() if key not in undefined}
    return SearchedConfiguration(number, own.points[number], state, finite, tuple(trials), reason)
