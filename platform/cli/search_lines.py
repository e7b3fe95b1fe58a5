"""What the terminal shows of a sweep's searches: how they choose, at the start; a line for each choice, at the end."""

from collections.abc import Iterator, Sequence

from ..config.schema import Experiment
from ..config.search import ASHA, LOOKS_AT, FirstExperiences, protocol_of, rungs, search_settings
from ..ledger.documents import MAX_EXPERIENCES
from ..reporting.search_results import COLOURS, SearchResult, protocol_text, value_text
from .terminal import Part

_MAX_RUNGS = 5  # named at the start, where the stream's length is not known


def start_lines(experiment: Experiment) -> Iterator[tuple[Part, ...]]:
    """Yield how a sweep's search compares, stops and chooses, before it starts; nothing for a sweep without one."""
    settings = search_settings(experiment)
    if settings is None:
        return
    objectives = " and ".join(each.key for each in settings.objectives)
    yield (
        "search by ",
        (objectives, "bold"),
        "; the chosen configurations are trained again, and only these are reported",
    )
    if isinstance(settings.scheduler, ASHA):
        known = settings.protocol.k if isinstance(settings.protocol, FirstExperiences) else None
        levels = rungs(settings.scheduler, known or MAX_EXPERIENCES)
        named = ", ".join(map(str, levels[:_MAX_RUNGS])) + (", ..." if len(levels) > _MAX_RUNGS else "")
        yield (f"asha compares trials by {settings.compared.key} after experiences {named} of {known or 'the stream'}",)
    text = protocol_text(protocol_of(settings))
    default = "" if experiment.sweep.protocol else " (the default; set sweep.protocol for another)"
    yield "protocol ", (text, _style(settings.protocol_name)), f"{default}: {LOOKS_AT[settings.protocol_name]}"


def search_lines(searches: Sequence[SearchResult]) -> Iterator[tuple[Part, ...]]:
    """Yield a line for each search, then one for each protocol with what its choices have looked at, in its colour."""
    for search in searches:
        states = ((state, search.with_state(state)) for state in ("complete", "stopped early", "failed", "running"))
        counts = ", ".join(f"{number} {state}" for state, number in states if number)
        where = f" on {search.stream}: {len(search.configurations)} configurations ({counts}); "
        yield "search of ", (search.variant, "bold"), where, _chosen(search)
        if search.closed:
            yield (f"  {search.closed}",)
        for text in search.rung_texts:
            yield (f"  {text}",)
    for text, protocol, looks_at in dict.fromkeys(
        (each.protocol_text, each.protocol, each.looks_at) for each in searches
    ):
        yield "protocol ", (text, _style(protocol)), f": {looks_at}"


def _style(protocol: str) -> str:
    return f"bold {COLOURS.get(protocol, '')}".strip()


def _chosen(search: SearchResult) -> str:
    if search.best is None:
        return "none is complete, so none is reported" if search.is_over else "not chosen yet"
    point = ", ".join(f"{key}={value_text(value)}" for key, value in search.best.point.items())
    values = ", ".join(f"{key} {value:.4f}" for key, value in search.best.values.items())
    return f"chosen: {point} ({values})"
