"""Run a search on Ray Tune: its `Searcher` and `TrialScheduler` ask `Search` what to run and what to stop."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config.dotted_paths import module_path
from ..config.schema import Experiment
from .ray_tune import SweepStopper, give_up_reason, set_tune_environment, silent_callback, trainable, tune_storage
from .search import Search


def run_search(config: Experiment, folder: Path, search: Search, stopper: SweepStopper) -> dict[str, str]:
    """Run the trials that a search hands out, until it is finished.

    Args:
        config: the experiment.
        folder: the sweep's.
        search: what to run.
        stopper: ends the sweep early.

    Returns:
        Trial folder name -> why Ray gave the trial up.
    """
    from ray import tune

    link = _Link(search, config.ray.max_failures + 1)

    class Stopper(tune.Stopper):
        def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
            return stopper.on_result(result)

        def stop_all(self) -> bool:
            return stopper.should_stop()

    set_tune_environment()
    with tune_storage() as storage:
        tuner = tune.Tuner(
            trainable(config),
            tune_config=tune.TuneConfig(
                search_alg=_searcher(link, folder, stopper),
                scheduler=_scheduler(link),
                num_samples=-1,  # until the searcher has finished
                reuse_actors=True,
                max_concurrent_trials=config.ray.max_concurrent,
                trial_dirname_creator=lambda trial: Path(trial.config["folder"]).name,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=storage,
                failure_config=tune.FailureConfig(max_failures=config.ray.max_failures),
                stop=Stopper(),
                callbacks=[silent_callback()],
                verbose=0,
            ),
        )
        tuner.fit()
    return link.errors


@dataclass
class _Link:
    """What the searcher and the scheduler share.

    Attributes:
        search: what to run.
        times: how often Ray starts a trial, at most.
        running: Tune's id of a trial -> ours.
        errors: our id -> why Ray gave the trial up.
    """

    search: Search
    times: int
    running: dict[str, str] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)


def _searcher(link: _Link, folder: Path, stopper: SweepStopper) -> Any:
    """Return the searcher that hands out the search's trials."""
    from ray.tune.search import Searcher

    class NextTrial(Searcher):
        def suggest(self, trial_id: str) -> Any:
            trial = None if stopper.is_stopping else link.search.next_trial()
            if trial is None:
                return Searcher.FINISHED if stopper.is_stopping or link.search.is_finished else None
            link.running[trial_id] = trial.id
            stopper.watch(trial)
            return {"folder": str(trial.folder), "sweep": str(folder), "path": module_path(sys.path)}

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            name = link.running.pop(trial_id)
            link.search.ended(name, link.errors.get(name))

        def save(self, checkpoint_path: str) -> None:
            """The search's state is in its journal."""

        def restore(self, checkpoint_path: str) -> None:
            """The search's state is in its journal."""

    return NextTrial()


def _scheduler(link: _Link) -> Any:
    """Return the scheduler that stops the trials that the search's own stops."""
    from ray.tune.schedulers import FIFOScheduler, TrialScheduler

    class EarlyStopping(FIFOScheduler):
        def on_trial_result(self, controller: Any, trial: Any, result: Mapping[str, Any]) -> str:
            name = link.running.get(trial.trial_id)
            stops = name is not None and "experience" in result and link.search.on_report(name, result)
            return str(TrialScheduler.STOP if stops else TrialScheduler.CONTINUE)

        def on_trial_error(self, controller: Any, trial: Any) -> None:
            if trial.trial_id in link.running:
                link.errors[link.running[trial.trial_id]] = give_up_reason(trial.get_error(), link.times)

    scheduler: Any = EarlyStopping
    return scheduler()
