"""Begin a search with the results of earlier ones (`sweep.from`), which the journal keeps: their folders are read once."""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config.load import load_config
from ..config.search import FirstExperiences, Oracle, SearchSettings, Transfer
from ..errors import UserError, comma_separated
from ..ledger.journal import append_to_journal, read_journal
from ..ledger.reader import is_sweep, run_config, trials_of
from ..visible_text import shortened
from .combinations import Combination
from .plan import of_each_seed
from .search_plan import SearchPlan, plan_search
from .search_space import Point, corner_points
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
            if (name, *study.key) in known:
                continue
            results = earlier_results(Path(name), study.part, settings)
            lines = [{"point": point, "values": values} for point, values in results]
            append_to_journal(folder, "earlier", {"folder": name, **study.names, "results": lines})
            taken = study.warm_start(results)
            text = "sweep.from: %d of %d results of %s for %s on %s are in its space"
            _log.warning(text, taken, len(results), name, *reversed(study.key))


def known_results(entries: Iterable[Mapping[str, Any]]) -> set[tuple[str, str, str]]:
    """Return (folder, stream, variant) of the earlier results that a journal has."""
    return {(entry["folder"], entry["stream"], entry["variant"]) for entry in entries if entry["kind"] == "earlier"}


def earlier_results(folder: Path, part: Combination, settings: SearchSettings) -> list[Result]:
    """Return (point, values of the objectives) of the complete configurations of an earlier search of a variant on a stream.

    Raises:
        UserError: the folder is no sweep's, its search had other objectives, or it has looked at what this one must not see.
    """
    where = f"sweep.from={shortened(str(folder), 80)}"
    plan = _earlier_plan(where, folder)
    theirs = [each.key for each in plan.settings.objectives]
    if theirs != [each.key for each in settings.objectives]:
        raise UserError(f"{where}: it searched by {', '.join(theirs)}.")
    _check_protocol(where, plan.settings, settings)
    entries, trials = read_journal(folder), [trial for trial in trials_of(folder) if trial.role == "search"]
    results: list[Result] = []
    for earlier in plan.searched:
        if (earlier.stream, earlier.variant) == (part.stream, part.variant):
            if isinstance(settings.protocol, FirstExperiences) and _data(earlier) != _data(part):
                raise UserError(
                    f"{where}: its {part.stream} has other settings of the benchmark or of stream_part, so its first experiences "
                    f"may be later ones here, which protocol first_experiences must not see."
                )
            study = Study(folder, earlier, plan.settings, plan.first_points(earlier))
            key = (earlier.stream, earlier.variant)
            study.restore(
                [entry for entry in entries if (entry.get("stream"), entry.get("variant")) == key],
                [trial for trial in trials if (trial.stream, trial.identity["searched"]) == key],
            )
            results += [(each.point, each.means()) for each in study.candidates()]
    return results


def _earlier_plan(where: str, folder: Path) -> SearchPlan:
    if not is_sweep(folder):
        raise UserError(f"{where}: is no folder of a sweep.")
    plan = plan_search(load_config(run_config(folder)))
    if plan is None:
        raise UserError(f"{where}: its sweep has no search (no sweep.objective).")
    return plan


def _check_protocol(where: str, theirs: SearchSettings, ours: SearchSettings) -> None:
    """Refuse results of a protocol that looks at more than this search may."""
    must_not = f"which protocol {ours.protocol_name} must not see"
    if isinstance(theirs.protocol, Oracle) and not isinstance(ours.protocol, Oracle):
        raise UserError(f"{where}: its protocol is oracle: its results are of test samples, {must_not}.")
    if isinstance(ours.protocol, FirstExperiences):
        if not isinstance(theirs.protocol, FirstExperiences):
            raise UserError(
                f"{where}: its protocol is {theirs.protocol_name}: its results are of all experiences, {must_not} after "
                f"the first {ours.protocol.k}."
            )
        if theirs.protocol.k > ours.protocol.k:
            raise UserError(
                f"{where}: its sweep.protocol.first_experiences.k={theirs.protocol.k}: must be at most {ours.protocol.k}: "
                f"its results are of later experiences too, {must_not}."
            )


def _data(part: Combination) -> tuple[Any, Any]:
    """Return the benchmark and the part of its stream, with all defaults."""
    config, _ = part.at(corner_points(part.domains())[0])
    ((_, _, resolved),) = of_each_seed(config, [0])
    return resolved.experiment.benchmark, resolved.experiment.stream_part


def check_earlier_searches(searching: SearchPlan, known: Collection[tuple[str, str, str]] = ()) -> None:
    """Refuse folders of `sweep.from` with no result of a variant on the stream of the same name, or that looked at too much.

    Args:
        searching: the plan.
        known: (folder, stream, variant) of results that the sweep's journal has: these are not read again.
    """
    protocol = searching.settings.protocol
    read = {name for name, *_ in known}
    for name in searching.settings.warm_start:
        missing = [part for part in searching.searched if (name, part.stream, part.variant) not in known]
        if not missing:
            continue
        where = f"sweep.from={shortened(name, 80)}"
        if isinstance(protocol, Transfer):
            targets = [_data(part)[0] for part in searching.reported.values()]
            for part in _earlier_plan(where, Path(name)).searched:
                if part.stream in {each.stream for each in searching.searched} and _data(part)[0] in targets:
                    raise UserError(
                        f"{where}: its {part.stream} is the benchmark of {protocol.to}, which protocol transfer must not see."
                    )
        if not any([earlier_results(Path(name), part, searching.settings) for part in missing]) and name not in read:
            ours, theirs = (
                comma_separated([f"{part.variant} on {part.stream}" for part in plan.searched])
                for plan in (searching, _earlier_plan(where, Path(name)))
            )
            raise UserError(
                f"{where}: has no result of a variant that is searched here on a stream of the same name: it searched {theirs}; "
                f"here: {ours}."
            )
