"""What a sweep would run, and whether a search has something left to run."""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from ..config.schema import Experiment
from .terminal import one_line


def has_open_search(folder: Path) -> bool:
    """Return whether a sweep has a search that has not chosen yet, although none of its trials waits."""
    from ..ledger.reader import is_sweep, run_config

    settings = run_config(folder).get("sweep") if is_sweep(folder) else None
    if not isinstance(settings, Mapping) or settings.get("objective") is None:
        return False
    from ..sweep import run  # it imports torch

    return run.has_open_search(folder)


def print_dry_run(experiment: Experiment, console: Console, started: float | None) -> None:
    """Plan, check and list the trials; print the estimate, unless `started` (the command's start) is None."""
    from ..sweep.estimate import dry_run
    from ..sweep.search_checks import all_trials, check_all
    from .tables import dry_run_table, estimate_lines

    trials = all_trials(experiment)
    if experiment.sweep.objective is not None:
        console.print("A search: as many trials as it runs at most, with examples of its points.", soft_wrap=True)
    table = dry_run_table([trial.identity for trial in trials])
    if started is None:
        check_all(experiment, trials)
        console.print(table)
        console.print(f"{len(trials)} trials. Nothing was started.")
        return
    result = dry_run(experiment, trials, started)
    console.print(table)
    for line in estimate_lines(result, len(trials), experiment.output):
        console.print(one_line(line), soft_wrap=True)
