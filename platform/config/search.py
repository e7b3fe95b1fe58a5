"""The settings of a search: how points are suggested, stopped early and chosen, and what the search may look at.

The YAML names each part as ``name`` or ``{name: settings}``; `search_settings` reads them and refuses what does not fit together.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import Gt

from ..errors import UserError, comma_separated, nearest
from ..metrics import DIRECTIONS
from .load import build_config, key_name
from .schema import Experiment, Sweep, seconds
from .settings import Finite, PositiveInt, settings

Direction = Literal["maximize", "minimize"]
BALANCED = "balanced"
LEAST_SEEDS_TO_PRUNE = (
    5  # of 5 seeds the test sees at most 4, whose p can be 1/16; of 3 it is at least 1/8: see sweep/seed_pruning.py
)
T = TypeVar("T")


@settings
class RandomPoints:
    """Independent random draws, the same for every variant; `grid` domains are run in full."""


@settings
class GridPoints:
    """Every combination of the values of `grid` and `choice` domains."""


@settings
class TPE:
    """Tree-structured Parzen estimator (Bergstra 2011), by Optuna; the first `startup` points are random."""

    startup: PositiveInt = 10


@settings
class NSGA2:
    """NSGA-II (Deb 2002), by Optuna: a genetic algorithm for several objectives."""

    population: Annotated[int, Gt(1)] = 20


@settings
class ASHA:
    """Asynchronous successive halving (Li 2018), by Ray Tune; time is counted in experiences.

    Attributes:
        grace_period: experiences before a trial can be stopped: the first rung.
        reduction_factor: each rung is at as many times the experiences of the one before; 1 in so many trials goes on.
        metric: to compare by; null: the objective.
    """

    grace_period: PositiveInt = 1
    reduction_factor: Annotated[float, Gt(1), Finite] = 2.0
    metric: str | Mapping[str, str] | None = None


@settings
class MedianStopping:
    """Median stopping (Golovin 2017), by Ray Tune: stops a trial whose best value is worse than the median of running means.

    Attributes:
        grace_period: experiences before a trial can be stopped.
        min_trials: other trials that must have come as far.
        metric: to compare by; null: the objective.
    """

    grace_period: PositiveInt = 1
    min_trials: PositiveInt = 3
    metric: str | Mapping[str, str] | None = None


@settings
class FirstExperiences:
    """Search on the first `k` experiences, without their test samples (Chaudhry 2019, A-GEM; Lee 2024, 2404.06466).

    evaluate: what the chosen configuration is trained and evaluated on: the "whole" stream, or the "rest" after the first k.
    """

    k: PositiveInt = 3
    evaluate: Literal["whole", "rest"] = "whole"


@settings
class EndOfStream:
    """Search on the whole stream, by validation samples of all experiences: it looks at the future."""


@settings
class Transfer:
    """Search on the sweep's other stream, evaluate on the stream `to` (Cha and Cho 2025, 2403.09066)."""

    to: str


@settings
class Oracle:
    """Search on the whole stream by test accuracy: it looks at the future and at the test samples."""


Algorithm = RandomPoints | GridPoints | TPE | NSGA2
Scheduler = ASHA | MedianStopping
Protocol = FirstExperiences | EndOfStream | Transfer | Oracle
ALGORITHMS: dict[str, type[Any]] = {"random": RandomPoints, "grid": GridPoints, "tpe": TPE, "nsga2": NSGA2}
SCHEDULERS: dict[str, type[Any]] = {"asha": ASHA, "median": MedianStopping}
PROTOCOLS: dict[str, type[Any]] = {
    "first_experiences": FirstExperiences,
    "end_of_stream": EndOfStream,
    "transfer": Transfer,
    "oracle": Oracle,
}
LOOKS_AT: dict[str, str] = {  # what a reader of the results must know
    "first_experiences": "chosen on the first experiences only, by their validation samples",
    "end_of_stream": "chosen after the whole stream, by validation samples of all experiences: it looks at the future",
    "transfer": "chosen on another stream",
    "oracle": "chosen by accuracy on the test samples: too good, not a result that can be had in use",
}


@dataclass(frozen=True, slots=True)
class Objective:
    """A metric of a trial's report and which way is better."""

    key: str
    direction: Direction

    @property
    def sign(self) -> float:
        """Return 1.0 if higher is better, else -1.0."""
        return 1.0 if self.direction == "maximize" else -1.0


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """Everything about a search.

    Attributes:
        objectives: what to search by.
        choose: the number of the objective that chooses from the Pareto front; None: "balanced", or there is only one.
        algorithm: how points are suggested.
        scheduler: how poor configurations are stopped; None: not at all.
        compared: the metric that the scheduler compares.
        protocol: what the search may look at.
        protocol_name: its name in the YAML.
        samples: configurations for each stream and variant.
        seeds: of the search's trials.
        seeds_first: with how many of them every configuration runs.
        prune_seeds: whether Wilcoxon's test ends a configuration's seeds.
        points: those to begin with.
        time_limit: seconds of the search; None: none.
        warm_start: folders of earlier searches.
    """

    objectives: tuple[Objective, ...]
    choose: int | None
    algorithm: Algorithm
    scheduler: Scheduler | None
    compared: Objective
    protocol: Protocol
    protocol_name: str
    samples: int
    seeds: tuple[int, ...]
    seeds_first: int
    prune_seeds: bool
    points: tuple[Mapping[str, Any], ...]
    time_limit: float | None
    warm_start: tuple[str, ...]


_ONLY_WITH_OBJECTIVE = (
    "search", "choose", "scheduler", "protocol", "points_to_evaluate", "time_limit", "from_", "prune_seeds", "search_seeds",
    "seeds_first",
)  # fmt: skip


def search_settings(experiment: Experiment) -> SearchSettings | None:
    """Return the settings of an experiment's search; None without an objective.

    Raises:
        UserError: a name or a setting is unknown, or the settings do not fit together.
    """
    sweep = experiment.sweep
    name, algorithm = _named("sweep.search", sweep.search, ALGORITHMS)
    if sweep.objective is None:
        _refuse_unused(sweep)
        return None
    protocol_name, protocol = _named("sweep.protocol", sweep.protocol or "first_experiences", PROTOCOLS)
    written = sweep.objective if isinstance(sweep.objective, tuple) else (sweep.objective,)
    objectives = tuple(_objective("sweep.objective", each) for each in written)
    if not objectives:
        raise UserError("sweep.objective=[]: must name at least one metric.")
    if len({each.key for each in objectives}) < len(objectives):
        raise UserError(f"sweep.objective={[each.key for each in objectives]}: each metric once.")
    for each in objectives:
        _check_looks("sweep.objective", each, protocol_name)
    scheduler, compared = _scheduler(sweep, objectives, protocol_name)
    if name == "nsga2" and scheduler is not None:
        raise UserError("sweep.scheduler: nsga2 needs the results of whole trials; use tpe or random with a scheduler.")
    if sweep.from_ and not isinstance(algorithm, TPE | NSGA2):
        raise UserError(f"sweep.from={list(sweep.from_)}: only search: tpe and nsga2 learn from earlier results.")
    _check_seeds(sweep, objectives)
    return SearchSettings(
        objectives=objectives,
        choose=_choose(sweep.choose, objectives),
        algorithm=algorithm,
        scheduler=scheduler,
        compared=compared,
        protocol=protocol,
        protocol_name=protocol_name,
        samples=sweep.samples,
        seeds=sweep.search_seeds,
        seeds_first=sweep.seeds_first,
        prune_seeds=sweep.prune_seeds is not None,
        points=sweep.points_to_evaluate,
        time_limit=None if sweep.time_limit is None else seconds("sweep.time_limit", sweep.time_limit),
        warm_start=sweep.from_,
    )


def _check_seeds(sweep: Sweep, objectives: tuple[Objective, ...]) -> None:
    """Refuse seeds of the search that do not fit together."""
    if overlap := set(sweep.seeds) & set(sweep.search_seeds):
        raise UserError(
            f"sweep.search_seeds={list(sweep.search_seeds)}: must not hold {min(overlap)}, a seed of the reported trials "
            f"(sweep.seeds): a choice would be reported with the luck that it was chosen for."
        )
    if sweep.seeds_first > len(sweep.search_seeds):
        raise UserError(
            f"sweep.seeds_first={sweep.seeds_first}: there are {len(sweep.search_seeds)} of sweep.search_seeds."
        )
    if sweep.prune_seeds and len(sweep.search_seeds) < LEAST_SEEDS_TO_PRUNE:
        raise UserError(
            f"sweep.prune_seeds={sweep.prune_seeds}: needs at least {LEAST_SEEDS_TO_PRUNE} of sweep.search_seeds, which has "
            f"{len(sweep.search_seeds)}: the test compares before the last seed has run, and with fewer than "
            f"{LEAST_SEEDS_TO_PRUNE - 1} pairs Wilcoxon's one-sided p cannot go below .1, so no seed would be saved."
        )
    if sweep.prune_seeds and sweep.seeds_first == len(sweep.search_seeds):
        raise UserError(
            f"sweep.seeds_first={sweep.seeds_first}: must be below the number of sweep.search_seeds with sweep.prune_seeds: all "
            f"seeds of a configuration would have started before the test."
        )
    if sweep.prune_seeds and len(objectives) > 1:
        raise UserError(f"sweep.prune_seeds={sweep.prune_seeds}: needs a single objective.")


def _refuse_unused(sweep: Sweep) -> None:
    """Refuse settings that only a search has."""
    unused = [key for key in _ONLY_WITH_OBJECTIVE if getattr(sweep, key) != getattr(Sweep(), key)]
    if unused:
        value = getattr(sweep, unused[0])
        raise UserError(
            f"sweep.{key_name(unused[0])}={list(value) if isinstance(value, tuple) else value!r}: is not used without "
            f"sweep.objective, such as objective: validation.average_accuracy."
        )


def _named(key: str, value: Any, known: Mapping[str, type[T]]) -> tuple[str, T]:
    """Read ``name`` or ``{name: settings}``; return the name and the settings."""
    if isinstance(value, str):
        value = {value: {}}
    if not isinstance(value, Mapping) or len(value) != 1:
        raise UserError(
            f"{key}={value!r}: must be one of {comma_separated(known)}, or a mapping of one to its settings."
        )
    name, content = next(iter(value.items()))
    if name not in known:
        raise UserError(f"{key}={name!r}: must be one of {comma_separated(known)}.{nearest(str(name), known)}")
    if not isinstance(content, Mapping | None):
        keys = [field.name for field in fields(known[name])]  # type: ignore[arg-type]
        raise UserError(
            f"{key}.{name}={content!r}: must be a mapping of {comma_separated(keys) or 'nothing'} to values."
        )
    return name, build_config(known[name], content or {}, f"{key}.{name}")


def measured_keys() -> list[str]:
    """Return the metrics that every trial reports after each experience, with their prefixes."""
    views = ("", "task_aware.")
    return [f"{part}{view}{name}" for part in ("", "validation.") for view in views for name in DIRECTIONS]


FINAL_KEYS = (
    "seconds",
    "samples",
)  # of a trial's summary only: the time of training and evaluation, the samples trained on


def _objective(path: str, value: Any) -> Objective:
    """Read ``metric``, whose direction is known, or ``{maximize: KEY}``, ``{minimize: KEY}``."""
    directions = ("maximize", "minimize")
    if isinstance(value, Mapping):
        direction, key = next(iter(value.items()), (None, None))
        if len(value) != 1 or direction not in directions or not isinstance(key, str):
            raise UserError(f"{path}={dict(value)!r}: must be a metric, {{maximize: KEY}} or {{minimize: KEY}}.")
    else:
        direction, key = None, str(value)
    if key not in (*measured_keys(), *FINAL_KEYS):
        known = comma_separated([*DIRECTIONS, *FINAL_KEYS])
        raise UserError(
            f"{path}={key}: nothing measures it.{nearest(key, [*measured_keys(), *FINAL_KEYS])} Known: {known}; the former also "
            f"with the prefixes validation., task_aware. and validation.task_aware."
        )
    if direction is None:
        if key in FINAL_KEYS:
            raise UserError(f"{path}={key}: say which way is better: {{minimize: {key}}} or {{maximize: {key}}}.")
        direction = DIRECTIONS[key.rpartition(".")[2]]
    return Objective(key, direction)


def _check_looks(path: str, objective: Objective, protocol: str) -> None:
    """Refuse an objective on test samples outside of the oracle, and one on validation samples with it."""
    if objective.key in FINAL_KEYS:
        return
    on_validation = objective.key.startswith("validation.")
    if protocol != "oracle" and not on_validation:
        raise UserError(
            f"{path}={objective.key}: is measured on test samples, which protocol {protocol} must not see: use "
            f"validation.{objective.key}, or protocol: oracle."
        )
    if protocol == "oracle" and on_validation:
        raise UserError(
            f"{path}={objective.key}: the oracle chooses by test samples: use {objective.key.removeprefix('validation.')}, or "
            f"protocol: end_of_stream."
        )


def _scheduler(sweep: Sweep, objectives: tuple[Objective, ...], protocol: str) -> tuple[Scheduler | None, Objective]:
    """Return the scheduler and the metric that it compares."""
    if sweep.scheduler is None:
        return None, objectives[0]
    name, scheduler = _named("sweep.scheduler", sweep.scheduler, SCHEDULERS)
    path = f"sweep.scheduler.{name}.metric"
    if scheduler.metric is None and len(objectives) > 1:
        raise UserError(f"{path}: is missing: with several objectives, say which metric stops trials.")
    compared = objectives[0] if scheduler.metric is None else _objective(path, scheduler.metric)
    _check_looks(path, compared, protocol)
    if compared.key in FINAL_KEYS:
        raise UserError(f"{path}={compared.key}: is known only at the end of a trial: name a metric of accuracy.")
    return scheduler, compared


def _choose(choose: str | None, objectives: tuple[Objective, ...]) -> int | None:
    """Return the number of the objective that chooses from the front."""
    keys = [each.key for each in objectives]
    if len(objectives) == 1:
        if choose is not None:
            raise UserError(f"sweep.choose={choose}: is not used with a single objective.")
        return 0
    if choose is None:
        raise UserError(
            f"sweep.choose: is missing: with several objectives there is no single best point: choose by one of "
            f"{comma_separated(keys)}, or {BALANCED} (nearest to the best value of each, all scaled to [0, 1])."
        )
    if choose != BALANCED and choose not in keys:
        raise UserError(
            f"sweep.choose={choose}: must be {BALANCED} or one of the objectives, {comma_separated(keys)}."
            f"{nearest(choose, [*keys, BALANCED])}"
        )
    return None if choose == BALANCED else keys.index(choose)


def rungs(scheduler: Scheduler | None, length: int) -> list[int]:
    """Return the experiences after which ASHA compares trials that have `length` of them; none after the last one."""
    if not isinstance(scheduler, ASHA):
        return []
    found, at = [], float(scheduler.grace_period)
    while math.ceil(at) < length:
        found.append(math.ceil(at))
        at *= scheduler.reduction_factor
    return list(dict.fromkeys(found))


def protocol_of(settings: SearchSettings) -> dict[str, Any]:
    """Return the protocol as plain data, for a trial's identity: its name and settings."""
    own = {field.name: getattr(settings.protocol, field.name) for field in fields(settings.protocol)}
    return {"name": settings.protocol_name, **own}


def as_number(value: Any) -> float:
    """Return a metric of a report as a float; NaN where it is not defined (null)."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
