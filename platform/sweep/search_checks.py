"""Check a search before anything starts: every value of its spaces, its streams, protocol, scheduler and earlier results."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ..config.schema import Experiment
from ..config.search import ASHA, FirstExperiences
from ..errors import UserError
from ..metrics import summary
from .combinations import Combination, naming_trial
from .earlier_searches import check_earlier_searches
from .plan import PlannedTrial, check_trials, of_each_seed, plan
from .search_plan import SearchPlan, plan_search
from .search_space import Point, Space, domain_kind, step_value, steps
from .suggestions import suggestions_for


def check_search(searching: SearchPlan, known: Collection[tuple[str, str, str]] = ()) -> None:
    """Check every study and reported trial before anything starts: its settings, values, stream and strategies.

    Args:
        searching: the plan.
        known: (folder, stream, variant) of the earlier results that the sweep's journal has.

    Raises:
        UserError: a value of a space is refused, the stream is too short, or it has no validation samples.
    """
    check_earlier_searches(searching.settings, [(each.stream, each.variant) for each in searching.searched], known)
    fixed = searching.fixed_trials()
    sampled: list[PlannedTrial] = []
    lengths: dict[str, int] = {}
    for part in searching.searched:
        with naming_trial(part.stream, part.variant):
            suggestions_for(searching.settings, part.sweep, part.added, "", searching.first_points(part))
            points = corner_points(part.domains())
            if part.stream not in lengths:
                lengths[part.stream] = _num_experiences(part, points[0])
                _check_length(searching, lengths[part.stream])
        sampled += [searching.search_trial(part, point, 0, searching.settings.seeds[0], 0) for point in points]
        sampled += searching.reported_trials(part, points[0], 0, 0)
    check_trials([*fixed, *sampled])


def check_all(experiment: Experiment, trials: Sequence[PlannedTrial]) -> None:
    """Check the trials of `all_trials`, and the search of a sweep that has one; raises as `check_search`."""
    searching = plan_search(experiment)
    if searching is None:
        check_trials(trials)
    else:
        check_search(searching)


def all_trials(experiment: Experiment) -> list[PlannedTrial]:
    """Return all trials of a sweep; of one with a search as many as it runs at most, with examples of its points."""
    searching = plan_search(experiment)
    if searching is None:
        return plan(experiment)
    trials = searching.fixed_trials()
    for part in searching.searched:
        corners = corner_points(part.domains())
        for number in range(searching.num_configurations(part)):
            for seed in searching.settings.seeds:
                point = corners[number % len(corners)]
                trials.append(searching.search_trial(part, point, number, seed, len(trials)))
        trials += searching.reported_trials(part, corners[0], 0, len(trials))
    return trials


def corner_points(space: Space) -> list[Point]:
    """Return points in which each value of a list, and both ends of a range, occur at least once."""
    values = {key: _corners(domain) for key, domain in space.items()}
    base = {key: each[0] for key, each in values.items()}
    return [base, *({**base, key: value} for key, each in values.items() for value in each[1:])]


def _corners(domain: Mapping[str, Any]) -> list[Any]:
    kind, values = domain_kind(domain)
    if kind in ("choice", "grid"):
        return list(values)
    if kind == "quniform":
        return [step_value(values, 0), step_value(values, steps(values))]
    return [values[0], values[1] - 1] if kind == "randint" else [float(values[0]), float(values[1])]


def _num_experiences(part: Combination, point: Point) -> int:
    """Return the length of a part's stream, as the user's config has it."""
    from ..trial.builder import build_trial  # here: it imports torch, and Ray starts meanwhile

    config, _ = part.at(point)
    ((_, _, resolved),) = of_each_seed(config, [0])

    return len(build_trial(resolved, planning=True).stream.experiences)


def _check_length(searching: SearchPlan, num_experiences: int) -> None:
    """Refuse a protocol or a scheduler for which the stream is too short."""
    protocol, scheduler = searching.settings.protocol, searching.settings.scheduler
    if isinstance(protocol, FirstExperiences) and protocol.k >= num_experiences:
        raise UserError(
            f"sweep.protocol.first_experiences.k={protocol.k}: must be below {num_experiences}, the experiences of the stream; "
            f"to search on the whole stream, say so: protocol: end_of_stream."
        )
    length = searching.length(num_experiences)
    undefined = {name for name, value in summary([[0.0], [0.0]], [1]).items() if value != value}
    for objective in searching.settings.objectives:
        if length == 1 and objective.key.rpartition(".")[2] in undefined:
            raise UserError(
                f"sweep.objective={objective.key}: is not defined for a single experience, which a search trial has."
            )
    if scheduler is None:
        return
    name = "asha" if isinstance(scheduler, ASHA) else "median"
    if scheduler.grace_period >= length:
        raise UserError(
            f"sweep.scheduler.{name}.grace_period={scheduler.grace_period}: must be below {length}, the experiences of a search "
            f"trial: nothing could be stopped early."
        )
