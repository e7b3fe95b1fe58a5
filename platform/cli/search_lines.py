"""What the terminal shows of a sweep's searches: a line for each choice, and which protocol they follow."""

from collections.abc import Iterator, Sequence

from ..reporting.search_results import COLOURS, SearchResult, value_text
from .terminal import Part


def search_lines(searches: Sequence[SearchResult]) -> Iterator[tuple[Part, ...]]:
    """Yield a line for each search, then one for each protocol with what its choices have looked at, in its colour."""
    for search in searches:
        states = ((state, search.with_state(state)) for state in ("complete", "stopped early", "failed", "running"))
        counts = ", ".join(f"{number} {state}" for state, number in states if number)
        where = f" on {search.stream}: {len(search.configurations)} configurations ({counts}); "
        yield "search of ", (search.variant, "bold"), where, _chosen(search)
    for text, protocol, looks_at in dict.fromkeys(
        (each.protocol_text, each.protocol, each.looks_at) for each in searches
    ):
        yield "protocol ", (text, f"bold {COLOURS.get(protocol, '')}".strip()), f": {looks_at}"


def _chosen(search: SearchResult) -> str:
    if search.best is None:
        return "none is complete, so none is reported" if search.is_over else "not chosen yet"
    point = ", ".join(f"{key}={value_text(value)}" for key, value in search.best.point.items())
    values = ", ".join(f"{key} {value:.4f}" for key, value in search.best.values.items())
    return f"chosen: {point} ({values})"
