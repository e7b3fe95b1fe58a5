"""Add seeds, variants, streams, points or samples to a sweep that has run: only what is missing runs.

The journal gets one line with the new experiment and the new trials, so a process that is killed here has added all or nothing.
"""

from pathlib import Path
from typing import Any

from ..config.load import load_config, plain_data, to_dict
from ..config.schema import Experiment, Sweep
from ..config.search import NSGA2, TPE
from ..errors import UserError
from ..ledger.journal import append_to_journal, read_journal
from ..ledger.reader import is_sweep, run_config, trials_of
from ..ledger.writer import with_folder
from ..visible_text import shortened
from .combinations import combinations
from .earlier_searches import known_results
from .plan import PlannedTrial, check_trials, plan
from .search_checks import check_search
from .search_plan import SearchPlan, plan_search
from .trial_folders import names_of

_FREE = ("ray", "wandb", "tensorboard", "checkpoint")  # they change no result


def extended(folder: Path, overrides: list[str]) -> tuple[Experiment, list[PlannedTrial]]:
    """Return a sweep's experiment with overrides, and the trials that it then has in addition; nothing is written.

    Trials of a search are not among them: it adds them while it runs.

    Raises:
        UserError: the folder is no sweep's, or the overrides would change what has run.
    """
    if not is_sweep(folder):
        raise UserError(f"{folder}: is no sweep's folder: a single trial has nothing to add to.")
    if not overrides:
        raise UserError("retain add: says nothing to add: for example sweep.seeds=[0,1,2,3,4].")
    data = run_config(folder)
    old, new = load_config(data), load_config(data, overrides)
    if plain_data(old.sweep) == plain_data(new.sweep) and _top(old) == _top(new):
        raise UserError(f"retain add {shortened(' '.join(overrides), 80)}: adds nothing: the sweep has all of it.")
    _check_top(old, new)
    _check_sweep(old.sweep, new.sweep)
    _check_kept(old, new)
    search = plan_search(new)
    if search is None:
        added = _missing(plan(old), plan(new))
        check_trials(added)
    else:
        check_search(search, known_results(read_journal(folder)))
        _check_points(old.sweep, new.sweep, search)
        before = plan_search(old)
        added = _missing(before.fixed_trials() if before else [], search.fixed_trials())
    number = len(trials_of(folder))
    return new, [trial.numbered(number + position) for position, trial in enumerate(added)]


def write_extension(folder: Path, experiment: Experiment, trials: list[PlannedTrial]) -> None:
    """Write an extension to the journal; the sweep's folder must be locked by this process."""
    identities = [with_folder(trial.identity) for trial in trials]
    append_to_journal(folder, "extended", {"experiment": to_dict(experiment), "trials": identities})


def _missing(old: list[PlannedTrial], new: list[PlannedTrial]) -> list[PlannedTrial]:
    """Return the new trials that are not among the old ones; UserError if an old one is not among the new ones."""
    names = {_result_settings(trial) for trial in new}
    for trial in old:
        if _result_settings(trial) not in names:
            raise UserError(
                f"retain add: the trial {trial.identity['id']} has run and would no longer be in the sweep, or would differ: "
                f"only add to what there is, or start a new sweep."
            )
    known, used = {_result_settings(trial) for trial in old}, {names_of(trial.identity) for trial in old}
    added = [trial for trial in new if _result_settings(trial) not in known]
    for trial in added:
        if names_of(trial.identity) in used:
            raise UserError(
                f"retain add: there is a trial of {trial.identity['stream']} / {trial.identity['variant']} / seed "
                f"{trial.identity['seed']} with other settings: give the variant another name."
            )
    return added


def _result_settings(trial: PlannedTrial) -> str:
    """Return a text of the settings of a trial that its result depends on."""
    return repr({key: value for key, value in plain_data(trial.config).items() if key not in _FREE})


def _check_kept(old: Experiment, new: Experiment) -> None:
    """Refuse names that replace those that a sweep without any has given to its stream or variant."""
    kept = {(part.stream, part.variant) for part in combinations(new)}
    for part in combinations(old):
        if (part.stream, part.variant) not in kept:
            key = "streams" if part.stream not in {stream for stream, _ in kept} else "variants"
            name = part.stream if key == "streams" else part.variant
            raise UserError(
                f"retain add: sweep.{key}: has no '{name}', under whose name trials have run: add sweep.{key}.{name}={{}} too."
            )


def _check_points(old: Sweep, new: Sweep, search: SearchPlan) -> None:
    """Refuse points to begin with for which there are no further samples."""
    added = sum(point not in old.points_to_evaluate for point in new.points_to_evaluate)
    if added > new.samples - old.samples and isinstance(search.settings.algorithm, TPE | NSGA2):
        raise UserError(
            f"retain add: sweep.points_to_evaluate: has {added} more points, which count as samples: set sweep.samples to "
            f"{old.samples + added} or more."
        )


def _check_top(old: Experiment, new: Experiment) -> None:
    """Refuse changes outside of the sweep's section."""
    before, after = _top(old), _top(new)
    for key in before:
        if before[key] != after[key]:
            raise UserError(
                f"retain add: {key}: would change the trials that have run. Add a variant with it: "
                f"sweep.variants.NAME.{key}=..., or start a new sweep."
            )


def _top(experiment: Experiment) -> dict[str, Any]:
    """Return what results depend on, without the sweep's section."""
    plain = plain_data(experiment)
    return {key: value for key, value in plain.items() if key not in ("sweep", "origin", *_FREE)}


def _check_sweep(old: Sweep, new: Sweep) -> None:
    """Refuse changes of the sweep's section that do not only add to it."""
    before, after = plain_data(old), plain_data(new)
    if old.objective is not None and before["space"] != after["space"]:
        raise UserError(
            "retain add: sweep.space: a search's space cannot be changed after the start: start a new sweep."
        )
    for key, value in before.items():
        if value != after[key] and key not in ("time_limit", "space"):  # of points that have run, _missing asks
            problem = _problem(key, value, after[key])
            if problem:
                raise UserError(f"retain add: sweep.{key}={shortened(repr(after[key]), 80)}: {problem}.")


def _problem(key: str, before: Any, after: Any) -> str:
    """Return why a changed key of the sweep's section is refused; an empty text if it only adds."""
    if key in ("variants", "streams"):
        changed = [name for name, settings in before.items() if after.get(name) != settings]
        return f"{changed[0]} has run with other settings: give the new one another name" if changed else ""
    if key == "seeds":
        return f"must keep those that have run: {before}" if any(each not in after for each in before) else ""
    if key in ("search_seeds", "points_to_evaluate", "from"):  # what was compared and suggested depends on their order
        begins = list(after)[: len(before)] == list(before)
        return "" if begins else f"must begin with those that the search has: {before}"
    if key == "samples":
        return f"must be at least {before}, as many as have run" if after < before else ""
    return f"cannot be changed after the start (it was {before!r}): start a new sweep"
