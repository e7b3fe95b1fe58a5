"""Begin a search with the results of earlier ones (`sweep.from`), which the journal keeps: their folders are read once."""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config.load import load_config
from ..config.search import SearchSettings
from ..errors import UserError
from ..ledger.journal import append_to_journal, read_journal
from ..ledger.reader import is_sweep, run_config, trials_of
from ..visible_text import shortened
from .search_plan import plan_search
from .search_space import Point
from .study import Study

_log = logging.getLogger(__name__)
Result = tuple[Point, tuple[float, ...]]  # a point and its value of each objective


def add_earlier_results(
    folder: Path, settings: SearchSettings, studies: Iterable[Study], entries: Sequence[Mapping[str, Any]]
) -> None:
    """Give the studies of a sweep the results of folders in `from` that its journal does not have yet.

    Args:
        folder: the sweep's.
        settings: the search's.
        studies: of the sweep, restored: those results that the journal has are theirs already.
        entries: the lines of its journal.
    """
    known = known_results(entries)
    for name in settings.warm_start:
        for study in studies:
            key = (study.part.stream, study.part.variant)
            if (name, *key) in known:
                continue
            results = earlier_results(Path(name), study.part.variant, settings)
            lines = [{"point": point, "values": values} for point, values in results]
            append_to_journal(folder, "earlier", {"folder": name, **study.names, "results": lines})
            taken = study.warm_start(results)
            _log.warning("sweep.from: %d of %d results of %s for %s on %s", taken, len(results), name, *reversed(key))


def known_results(entries: Iterable[Mapping[str, Any]]) -> set[tuple[str, str, str]]:
    """Return (folder, stream, variant) of the earlier results that a journal has."""
    return {(entry["folder"], entry["stream"], entry["variant"]) for entry in entries if entry["kind"] == "earlier"}


def earlier_results(folder: Path, variant: str, settings: SearchSettings) -> list[Result]:
    """Return (point, values of the objectives) of the complete configurations of an earlier search's variant.

    Raises:
        UserError: the folder is no sweep's, or its search had other objectives.
    """
    where = f"sweep.from={shortened(str(folder), 80)}"
    if not is_sweep(folder):
        raise UserError(f"{where}: is no folder of a sweep.")
    plan = plan_search(load_config(run_config(folder)))
    if plan is None:
        raise UserError(f"{where}: its sweep has no search (no sweep.objective).")
    theirs = [each.key for each in plan.settings.objectives]
    if theirs != [each.key for each in settings.objectives]:
        raise UserError(f"{where}: it searched by {', '.join(theirs)}.")
    entries, trials = read_journal(folder), [trial for trial in trials_of(folder) if trial.role == "search"]
    results: list[Result] = []
    for part in plan.searched:
        if part.variant == variant:
            study = Study(folder, part, plan.settings, plan.first_points(part))
            key = (part.stream, part.variant)
            study.restore(
                [entry for entry in entries if (entry.get("stream"), entry.get("variant")) == key],
                [trial for trial in trials if (trial.stream, trial.identity["searched"]) == key],
            )
            results += [(each.point, each.means()) for each in study.candidates()]
    return results


def check_earlier_searches(
    settings: SearchSettings, parts: Iterable[tuple[str, str]], known: Collection[tuple[str, str, str]] = ()
) -> None:
    """Refuse folders of `sweep.from` that have no such search, or none of any of the variants.

    Args:
        settings: the search's.
        parts: (stream, variant) of what is searched.
        known: (folder, stream, variant) of results that the sweep's journal has: these are not read again.
    """
    parts = list(parts)
    read = {name for name, *_ in known}
    for name in settings.warm_start:
        missing = dict.fromkeys(variant for stream, variant in parts if (name, stream, variant) not in known)
        found = [earlier_results(Path(name), variant, settings) for variant in missing]
        if name not in read and not any(found):
            raise UserError(f"sweep.from={shortened(name, 80)}: has no result of a variant that is searched here.")
