"""Suggest the points of a search, one after the other: from a list (random, grid), or by Optuna (TPE, NSGA-II).

A suggestion depends on the search's seed, its number and the earlier points with their outcomes, never on the process: a search
that was killed gets the same suggestions again, from what its journal holds.
"""

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from ..config.schema import Settings, Sweep
from ..config.search import NSGA2, TPE, GridPoints, SearchSettings
from ..errors import UserError, comma_separated, nearest
from ..visible_text import shortened
from .search_space import Point, Space, domain_kind, identity, num_points, search_points, step_value, steps

_MAX_GRID = 10_000  # points of a grid, and values of a key: a list of all of them is made
State = Literal["running", "complete", "pruned", "failed", "repeated"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a configuration.

    Attributes:
        state: "running" until it has ended; "repeated": an earlier point, which does not run again.
        values: of each objective, if it is complete.
        so_far: experience -> the first objective, where it was measured.
    """

    state: State
    values: tuple[float, ...] = ()
    so_far: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A point, and what Optuna keeps with it: plain data for the journal."""

    point: Point
    attributes: dict[str, Any] = field(default_factory=dict)


class Suggestions(Protocol):
    """A source of points."""

    def ask(self) -> Suggestion | None:
        """Return the next point; None: there are no more."""

    def add(self, suggestion: Suggestion, outcome: Outcome) -> None:
        """Add a suggestion of an earlier process, or a result of an earlier search, in their order."""

    def tell(self, number: int, outcome: Outcome) -> None:
        """Say what became of suggestion `number` (from 0, of those that were asked or added)."""


def suggestions_for(
    settings: SearchSettings, sweep: Sweep, added: Space, name: str, first_points: Sequence[Point]
) -> Suggestions:
    """Return the source of points for one stream and variant.

    Args:
        settings: the search's.
        sweep: its space, samples and space_seed.
        added: the domains of the stream and variant.
        name: of stream and variant: the seed depends on it.
        first_points: those to begin with.
    """
    space = {**sweep.space, **added}
    if isinstance(settings.algorithm, TPE | NSGA2):
        from ..seeding import derive  # here: it imports torch, and Ray starts meanwhile

        _check_first_points(len(first_points), settings.samples, f"sweep.samples={settings.samples}")
        return OptunaSuggestions(space, settings, derive(sweep.space_seed, "search", name), first_points)
    is_grid = isinstance(settings.algorithm, GridPoints)
    if is_grid:
        sweep, added = replace(sweep, space=_as_grid(sweep.space), samples=1), _as_grid(added)
        space = {**sweep.space, **added}
    grids = {key: domain for key, domain in space.items() if domain_kind(domain)[0] == "grid"}
    _check_grid(grids)
    points = search_points(sweep, added)
    reason = "all combinations of its values"
    if not is_grid and len(points) >= sweep.samples:
        reason = f"sweep.samples={sweep.samples}" + (" for each point of the grid" if grids else "")
    _check_first_points(len(first_points), len(points), reason)
    # keys that a point to begin with leaves out are those of the drawn point in whose place it stands
    first = [{**points[number], **point} for number, point in enumerate(first_points)]
    in_order = {identity(point): point for point in (*first, *points)}
    return PointList(list(in_order.values())[: len(points)], list(grids), num_first=len(first))


def _check_first_points(num_first: int, num_points: int, reason: str) -> None:
    if num_first > num_points:
        raise UserError(
            f"sweep.points_to_evaluate: has {num_first} points, and the search {num_points} ({reason}): some would not run."
        )


def _check_grid(grids: Space) -> None:
    """Refuse a grid with too many points, before they are made."""
    if num_points(grids) > _MAX_GRID:
        sizes = " x ".join(f"{num_points({key: domain}):.0f} of {key}" for key, domain in grids.items())
        raise UserError(
            f"sweep.space: the grid of a search has at most {_MAX_GRID} points, and this one has {num_points(grids):.0f} "
            f"({sizes}): give it fewer values, or use search: random or tpe with choice, uniform or randint."
        )


def _as_grid(space: Space) -> dict[str, Settings]:
    """Return a space in which every domain is a grid of its values."""
    grids: dict[str, Settings] = {}
    for key, domain in space.items():
        kind, values = domain_kind(domain)
        if kind in ("quniform", "randint") and num_points({key: domain}) > _MAX_GRID:
            raise UserError(
                f"sweep.space.{key}.{kind}={list(values)}: search: grid has at most {_MAX_GRID} values of a key."
            )
        if kind in ("uniform", "loguniform"):
            raise UserError(f"sweep.space.{key}.{kind}: search: grid needs values: write grid: [...].")
        if kind == "randint":
            values = range(*values)
        elif kind == "quniform":
            values = [step_value(values, number) for number in range(steps(values) + 1)]
        grids[key] = {"grid": list(values)}
    return grids


def points_for(settings: SearchSettings, space: Space) -> list[Point]:
    """Return the points to begin with whose keys a space has.

    Raises:
        UserError: a value is not in its domain.
    """
    fitting = []
    for number, point in enumerate(settings.points):
        if point.keys() <= space.keys():
            for key, value in point.items():
                if not _contains(space[key], value):
                    raise UserError(
                        f"sweep.points_to_evaluate[{number}].{key}={shortened(repr(value), 80)}: is not in its domain, "
                        f"{shortened(repr(dict(space[key])), 80)}."
                    )
            fitting.append(dict(point))
    return fitting


def check_points(settings: SearchSettings, spaces: Sequence[Space]) -> None:
    """Refuse a point to begin with that fits no variant's space."""
    for number, point in enumerate(settings.points):
        if not point:
            raise UserError(f"sweep.points_to_evaluate[{number}]={{}}: names no key of a space.")
        if point in settings.points[:number]:
            raise UserError(f"sweep.points_to_evaluate[{number}]={shortened(repr(dict(point)), 80)}: each point once.")
        if not any(point.keys() <= space.keys() for space in spaces):
            known = {key for space in spaces for key in space}
            unknown = [key for key in point if key not in known]
            key = unknown[0] if unknown else next(iter(point), "")
            raise UserError(
                f"sweep.points_to_evaluate[{number}].{key}: no variant's space has {'this key' if unknown else 'these keys'}."
                f"{nearest(key, known)} Known: {comma_separated(known) or 'none'}."
            )


def check_suggested(source: Path, point: Point, space: Space) -> None:
    """Refuse a point of the file `source` that is not in a space: the file, or the config, is not what it was."""
    if point.keys() != space.keys():
        raise UserError(
            f"{source}: a point has the keys {shortened(comma_separated(point) or 'none', 80)}, not the space's."
        )
    for key, value in point.items():
        if not _contains(space[key], value):
            raise UserError(
                f"{source}: {key}={shortened(repr(value), 80)}: is not in its domain, {shortened(repr(dict(space[key])), 80)}."
            )


class PointList:
    """Points from a list, which outcomes do not change.

    Points that were drawn for fewer `samples` may not be in the list that is drawn for more: each takes the place of a point that
    is left, so that no more run than the list has.
    """

    def __init__(self, points: Sequence[Point], grid_keys: Sequence[str] = (), num_first: int = 0) -> None:
        """Take the points.

        Args:
            points: in order.
            grid_keys: keys whose values are the same in points that can stand for each other.
            num_first: points at the start in whose place no other stands.
        """
        self._points = {identity(point): point for point in points}
        self._grid_keys = grid_keys
        self._kept = set(list(self._points)[:num_first])
        self._others: list[Point] = []  # that have run, but are not in the list

    def __len__(self) -> int:
        """Return how many points are left."""
        return len(self._points)

    def ask(self) -> Suggestion | None:
        """Return the next point; None after the last one."""
        while self._others:
            self._give_place(self._others.pop())
        return Suggestion(self._points.pop(next(iter(self._points)))) if self._points else None

    def add(self, suggestion: Suggestion, outcome: Outcome) -> None:
        """Leave out a point that an earlier process has run."""
        if self._points.pop(identity(suggestion.point), None) is None:
            self._others.append(suggestion.point)

    def _give_place(self, other: Point) -> None:
        """Leave out the last point of the same grid point."""
        for key, point in reversed(self._points.items()):
            if key not in self._kept and all(
                identity(point[name]) == identity(other[name]) for name in self._grid_keys
            ):
                del self._points[key]
                return

    def tell(self, number: int, outcome: Outcome) -> None:
        """Outcomes change nothing."""


class OptunaSuggestions:
    """Points by Optuna's samplers, asked and told."""

    def __init__(self, space: Space, settings: SearchSettings, seed: int, first_points: Sequence[Point]) -> None:
        import optuna

        optuna.logging.set_verbosity(logging.WARNING)
        self._optuna = optuna
        self._space, self._algorithm, self._seed, self._first = space, settings.algorithm, seed, list(first_points)
        self._distributions = {key: self._distribution(domain) for key, domain in space.items()}
        directions = [objective.direction for objective in settings.objectives]
        self._several = len(directions) > 1
        self._study = optuna.create_study(directions=directions)
        self._numbers: list[
            int
        ] = []  # suggestion -> number in Optuna's study, which results of earlier searches are in too
        self._study_attributes: dict[str, Any] = {}
        self._size = num_points(space)
        self._seen: set[Any] = set()

    def ask(self) -> Suggestion | None:
        """Return the next point, which may repeat an earlier one; None if all points of the space were suggested."""
        if len(self._seen) >= self._size:
            return None
        number = len(self._numbers)
        self._study.sampler = self._sampler(number)
        if self._first:
            self._study.enqueue_trial({key: self._coded(key, value) for key, value in self._first[0].items()})
        trial = self._study.ask(self._distributions)
        self._numbers.append(trial.number)
        point = {key: self._decoded(key, trial.params[key]) for key in self._space}
        self._see(point)
        storage, study_id = self._study._storage, self._study._study_id
        after = storage.get_study_system_attrs(study_id)
        changed = {key: value for key, value in after.items() if self._study_attributes.get(key) != value}
        self._study_attributes = dict(after)
        attributes = {"trial": dict(storage.get_trial_system_attrs(trial._trial_id)), "study": changed}
        return Suggestion(point, {key: value for key, value in attributes.items() if value})

    def add(self, suggestion: Suggestion, outcome: Outcome) -> None:
        """Add a suggestion with its outcome, as it was in the process that made it."""
        self._add(suggestion, outcome)
        self._numbers.append(len(self._study.get_trials(deepcopy=False)) - 1)
        self._see({key: suggestion.point[key] for key in self._space})
        for key, value in suggestion.attributes.get("study", {}).items():
            self._study._storage.set_study_system_attr(self._study._study_id, key, value)
            self._study_attributes[key] = value

    def _see(self, point: Point) -> None:
        """Note a suggested point; one of those to begin with is then done."""
        self._seen.add(identity(point))
        done = [first for first in self._first if all(identity(point[key]) == identity(first[key]) for key in first)]
        if done:
            self._first.remove(done[0])

    def add_earlier(self, point: Point, outcome: Outcome) -> bool:
        """Add a result of an earlier search; return False if its point is not in this space."""
        if point.keys() != self._space.keys() or not all(_contains(self._space[key], point[key]) for key in point):
            return False
        self._add(Suggestion(point, {"trial": self._generation()}), outcome)
        return True

    def _generation(self) -> dict[str, int]:
        """Return what puts an earlier result into NSGA-II's latest generation: without one it would never be a parent."""
        if not isinstance(self._algorithm, NSGA2):
            return {}
        key = self._optuna.samplers.NSGAIISampler._get_generation_key()
        trials = self._study.get_trials(deepcopy=False)
        return {key: max((trial.system_attrs.get(key, 0) for trial in trials), default=0)}

    def _add(self, suggestion: Suggestion, outcome: Outcome) -> None:
        state = self._state(outcome)
        trial = self._optuna.trial.create_trial(
            state=state,
            params={key: self._coded(key, suggestion.point[key]) for key in self._space},
            distributions=self._distributions,
            values=list(outcome.values) if state == self._optuna.trial.TrialState.COMPLETE else None,
            intermediate_values={} if self._several else dict(outcome.so_far),
            system_attrs=suggestion.attributes.get("trial", {}),
        )
        self._study.add_trial(trial)

    def tell(self, number: int, outcome: Outcome) -> None:
        """Say what became of suggestion `number`."""
        own = self._study.get_trials(deepcopy=False)[self._numbers[number]]
        if not self._several:
            for experience, value in outcome.so_far.items():
                self._study._storage.set_trial_intermediate_value(own._trial_id, experience, value)
        state = self._state(outcome)
        complete = state == self._optuna.trial.TrialState.COMPLETE
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._study.tell(own.number, list(outcome.values) if complete else None, state=state)

    def _state(self, outcome: Outcome) -> Any:
        states = self._optuna.trial.TrialState
        return {
            "running": states.RUNNING,
            "complete": states.COMPLETE,
            "pruned": states.PRUNED,
            "failed": states.FAIL,
            "repeated": states.FAIL,
        }[outcome.state]

    def _sampler(self, number: int) -> Any:
        """Return a new sampler for suggestion `number`: its draws do not depend on the process that makes it."""
        from ..seeding import derive  # here: it imports torch

        seed = derive(self._seed, number) % 2**32
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # constant_liar is marked experimental
            if isinstance(self._algorithm, NSGA2):
                return self._optuna.samplers.NSGAIISampler(seed=seed, population_size=self._algorithm.population)
            assert isinstance(self._algorithm, TPE)
            return self._optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=self._algorithm.startup, constant_liar=True
            )

    def _distribution(self, domain: Settings) -> Any:
        kind, values = domain_kind(domain)
        distributions = self._optuna.distributions
        if kind in ("choice", "grid"):
            return distributions.CategoricalDistribution(tuple(range(len(values))))
        if kind == "randint":
            return distributions.IntDistribution(values[0], values[1] - 1)
        if kind == "quniform":
            return distributions.IntDistribution(0, steps(values))
        return distributions.FloatDistribution(float(values[0]), float(values[1]), log=kind == "loguniform")

    def _coded(self, key: str, value: Any) -> Any:
        """Return a value as Optuna has it: of a list or of steps, its number."""
        kind, values = domain_kind(self._space[key])
        if kind in ("choice", "grid"):
            return next(number for number, each in enumerate(values) if identity(each) == identity(value))
        if kind == "quniform":
            return round((value - values[0]) / values[2])
        return int(value) if kind == "randint" else float(value)

    def _decoded(self, key: str, coded: Any) -> Any:
        kind, values = domain_kind(self._space[key])
        if kind in ("choice", "grid"):
            return values[int(coded)]
        return step_value(values, int(coded)) if kind == "quniform" else coded


def _contains(domain: Settings, value: Any) -> bool:
    """Return whether a domain has a value."""
    kind, values = domain_kind(domain)
    if kind in ("choice", "grid"):
        return any(identity(each) == identity(value) for each in values)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    if kind == "randint":
        return isinstance(value, int) and values[0] <= value < values[1]
    if kind == "quniform":
        number = (value - values[0]) / values[2]
        return bool(0 <= round(number) <= steps(values) and abs(number - round(number)) < 1e-6)
    return bool(values[0] <= value <= values[1])
