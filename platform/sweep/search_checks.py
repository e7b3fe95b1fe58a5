"""Check a search before anything starts: every value of its spaces, its streams, protocol, scheduler and earlier results."""

import logging
import math
from collections.abc import Collection, Iterator, Sequence

from ..config.load import plain_data
from ..config.schema import Experiment
from ..config.search import ASHA, FirstExperiences, GridPoints, Objective, RandomPoints
from ..errors import UserError
from ..metrics import summary
from .combinations import Combination, naming_trial, replaced_values
from .earlier_searches import check_earlier_searches
from .plan import PlannedTrial, check_overrides, check_sweep_wide, check_trials, equal_names, of_each_seed, plan
from .search_differences import check_differences
from .search_plan import SearchPlan, plan_search
from .search_space import Point, corner_points, num_points, search_points, shortage
from .suggestions import suggestions_for

_log = logging.getLogger(__name__)


def check_search(searching: SearchPlan, known: Collection[tuple[str, str, str]] = ()) -> None:
    """Check every study and reported trial before anything starts: its settings, values, stream and strategies.

    What is allowed but does less than it says is logged as a warning.

    Args:
        searching: the plan.
        known: (folder, stream, variant) of the earlier results that the sweep's journal has.

    Raises:
        UserError: a value of a space is refused or changes no trial, the stream is too short, it has no validation samples, or
            an override of the command line changes no trial.
    """
    check_earlier_searches(searching, known)
    fixed = searching.fixed_trials()
    sampled: list[PlannedTrial] = []
    searches: list[tuple[str, str]] = []  # the name of each, and what it searches
    streams: set[str] = set()
    for part in searching.searched:
        with naming_trial(part.stream, part.variant):
            suggestions_for(searching.settings, part.sweep, part.added, "", searching.first_points(part))
            points = corner_points(part.domains())
        trials = [searching.search_trial(part, point, 0, searching.settings.seeds[0], 0) for point in points]
        with naming_trial(part.stream, part.variant):
            for point, trial in zip(points, trials, strict=True):
                stream = repr((trial.config.benchmark, trial.config.stream_part))
                if stream not in streams:
                    _check_length(searching, _num_experiences(part, point))
                    streams.add(stream)
            check_differences(searching, part, points, trials)
        sampled += [*trials, *searching.reported_trials(part, points[0], 0, 0)]
        searches.append((f"({part.stream}, {part.variant})", repr((trials[0].config, dict(part.domains())))))
    _check_origin(searching, [*fixed, *sampled])
    check_trials([*fixed, *sampled])
    names = [(f"({each.identity['stream']}, {each.identity['variant']})", repr(each.config)) for each in fixed]
    sweep = searching.experiment.sweep
    for note in filter(None, dict.fromkeys([*_shortages(searching), equal_names([*names, *searches])])):
        _log.warning("%s", note)
    for note in replaced_values(sweep):
        _log.warning("%s", note)


def _check_origin(searching: SearchPlan, trials: Sequence[PlannedTrial]) -> None:
    """Refuse overrides and interpolations of the whole sweep that the streams, variants or spaces make useless or different."""
    experiment = searching.experiment
    configs = []
    for part in [*searching.searched, *searching.reported.values()]:
        keys = {key for study in [part, *searching.studies_of(part)] for key in study.domains()}
        configs += [{**part.without_values([*keys]), "seed": seed} for seed in experiment.sweep.seeds]
    check_overrides(experiment, configs)
    if experiment.origin.interpolations:
        shared = plain_data(experiment)
        for trial in trials:
            check_sweep_wide(plain_data(trial.config), shared, experiment.origin)


def _shortages(searching: SearchPlan) -> Iterator[str]:
    """Yield why fewer configurations run than `samples`, or why it is not used."""
    settings = searching.settings
    for part in searching.searched:
        size = num_points(part.domains())
        if isinstance(settings.algorithm, GridPoints):
            if settings.samples != 1:
                yield f"sweep.samples={settings.samples}: search: grid does not use it: it runs every point of the space"
        elif isinstance(settings.algorithm, RandomPoints):
            yield shortage(part.sweep, part.added, search_points(part.sweep, part.added))
        elif size < settings.samples:
            yield f"sweep.samples={settings.samples}: the space has only {size:.0f} different points; each runs once"


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
    for objective in searching.settings.objectives:
        if length < _least_experiences(objective):
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
    compared, least = searching.settings.compared, _least_experiences(searching.settings.compared)
    if isinstance(scheduler, ASHA) and scheduler.grace_period < least:
        raise UserError(
            f"sweep.scheduler.asha.grace_period={scheduler.grace_period}: must be at least {least}: {compared.key} is not "
            f"defined before experience {least}, so asha would compare the values of later experiences at its first rung."
        )


def _least_experiences(objective: Objective) -> int:
    """Return after how many experiences a metric is defined."""
    name = objective.key.rpartition(".")[2]
    one = summary([[0.0], [0.0]], [1])
    return 2 if name in one and math.isnan(one[name]) else 1
