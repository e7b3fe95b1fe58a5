"""Refuse a search of values that the protocol cuts away: their trials are equal, so a choice among them means nothing."""

from collections.abc import Sequence

from ..config.search import FirstExperiences
from ..errors import UserError
from ..visible_text import shortened
from .combinations import Combination
from .plan import PlannedTrial, of_each_seed
from .search_plan import SearchPlan
from .search_space import Point, identity


def check_differences(
    searching: SearchPlan, part: Combination, points: Sequence[Point], trials: Sequence[PlannedTrial]
) -> None:
    """Refuse a key of the space two of whose values give the same search trial, or the same reported one, by the protocol.

    Args:
        searching: the sweep's plan.
        part: the variant on the stream.
        points: the first one, and others that differ from it in one key.
        trials: the search trial of each.

    Raises:
        UserError: the protocol cuts away what two values differ in.
    """
    protocol = searching.settings.protocol
    first, rest = "its stream is set by the protocol, whatever stream_part says", ""
    if isinstance(protocol, FirstExperiences):
        first = f"it has only the first {protocol.k} experiences (sweep.protocol.first_experiences.k={protocol.k})"
        if protocol.evaluate == "rest":
            rest = f"it leaves out the first {protocol.k} experiences (sweep.protocol.first_experiences.evaluate=rest)"
    _check_trials("search", first, part, points, trials)
    if rest:
        reported = [searching.reported_trials(part, point, 0, 0)[0] for point in points]
        _check_trials("reported", rest, part, points, reported)


def _check_trials(
    role: str, reason: str, part: Combination, points: Sequence[Point], trials: Sequence[PlannedTrial]
) -> None:
    texts = [repr(trial.config) for trial in trials]
    for key in points[0]:
        same: dict[str, int] = {}
        for number, point in enumerate(points):
            if number and identity(point[key]) == identity(points[0][key]):
                continue  # it differs in another key
            other = same.setdefault(texts[number], number)
            if other != number and _config(part, points[other]) != _config(part, point):
                values = " and ".join(shortened(repr(each[key]), 80) for each in (points[other], point))
                raise UserError(
                    f"sweep.space.{key}: its values {values} give the same {role} trial: {reason}. A choice between them would "
                    f"mean nothing: leave the key out, or set another sweep.protocol."
                )


def _config(part: Combination, point: Point) -> str:
    """Return the config at a point as a text, with the whole stream."""
    config, _ = part.at(point)
    ((_, _, resolved),) = of_each_seed(config, [0])
    return repr(resolved.experiment)
