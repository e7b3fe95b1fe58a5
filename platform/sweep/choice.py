"""Choose a configuration: the best one, or a point of the Pareto front of several objectives."""

import math
from collections.abc import Mapping

from ..config.search import SearchSettings


def chosen_number(settings: SearchSettings, values: Mapping[int, tuple[float, ...]]) -> int | None:
    """Return the configuration to report: the best one, or that chosen from the Pareto front; of equal ones the first.

    Args:
        settings: the search's.
        values: number of a configuration -> its value of each objective, as means over the search seeds.
    """
    finite = {number: each for number, each in values.items() if all(math.isfinite(value) for value in each)}
    if not finite:
        return None
    gains = {
        number: tuple(value * objective.sign for value, objective in zip(each, settings.objectives, strict=True))
        for number, each in finite.items()
    }
    front = pareto_front(gains)
    if settings.choose is not None:
        return max(sorted(front), key=lambda number: gains[number][settings.choose or 0])
    columns = list(zip(*(gains[number] for number in front), strict=True))
    low, high = [min(column) for column in columns], [max(column) for column in columns]

    def distance(number: int) -> float:
        spans = ((high[i] - gains[number][i]) / ((high[i] - low[i]) or 1.0) for i in range(len(columns)))
        return math.fsum(span**2 for span in spans)

    return min(sorted(front), key=distance)


def pareto_front(gains: Mapping[int, tuple[float, ...]]) -> list[int]:
    """Return the numbers of the points that no other point dominates; higher is better in each objective."""

    def dominated(number: int) -> bool:
        own = gains[number]
        return any(
            other != own and all(theirs >= mine for theirs, mine in zip(other, own, strict=True))
            for other in gains.values()
        )

    return [number for number in gains if not dominated(number)]
