"""Sweeps: planned here, run by Ray (cluster.py, tuning.py), written down in the ledgers.

Ray places the trials, restarts those whose process died, and reuses workers. What happened is in the ledgers: to resume, the
trials that are not done go to a new Tuner, and each starts from its own newest valid checkpoint.
"""

import os
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from ..config.load import from_dict, to_dict
from ..config.schema import Data, Experiment
from ..data.cache import DataFolders
from ..disk_errors import reraise_disk_errors, unwritable_folder_error
from ..errors import UserError
from ..ledger.reader import Trial, is_sweep, run_config, trials_of, unfinished_trials
from ..ledger.writer import SweepLedger, TrialLedger, mark_for_repair, write_status
from ..reporting.projector import projector_process
from ..reporting.wandb_runs import resolve_mode
from ..run_folders import outside_run_folders
from ..trial.stop_request import StopRequest
from .plan import PlannedTrial, check_trials, plan
from .ray_cluster import RayCluster, check_shared_folder
from .ray_tune import SweepStopper, run_tuner, without_ray_sigterm_handler
from .ray_worker import STOP_FILE, set_status_unless_final

Watch = AbstractContextManager[Any]


@dataclass(frozen=True, slots=True)
class SweepResult:
    """A sweep's folder and its trials as they ended."""

    folder: Path
    trials: list[Trial]

    def with_status(self, status: str) -> list[Trial]:
        """The trials in a state ("done", "failed", ...)."""
        return [trial for trial in self.trials if trial.status().status == status]


def sweep(config: Experiment, folder: Path | str | None = None, *, watch: Watch | None = None) -> SweepResult:
    """Run all trials of an experiment on Ray.

    In the main thread, SIGTERM and the first Ctrl-C let the running trials write a checkpoint and end, and `resume` goes on.

    Args:
        config: the experiment.
        folder: a new folder for the sweep (default: ``output/name-time``).
        watch: entered while the trials run (the CLI's progress display).

    Raises:
        UserError: anything that is wrong with the config, its data, the folder or the cluster, and nothing was started; or the
            disk became full.
        Stopped: it got SIGTERM (a SystemExit); KeyboardInterrupt for Ctrl-C.
    """
    config = replace(config, data=_absolute(config.data))
    trials = plan(config)
    check_trials(trials)
    resolve_mode(config.wandb.mode)
    folder = default_folder(config) if folder is None else Path(folder).absolute()
    text = yaml.safe_dump(to_dict(config), sort_keys=False)
    with (
        reraise_disk_errors(folder),
        watch or nullcontext(),
        RayCluster(config),  # first: a cluster that cannot hold the trials is refused before anything is written
        SweepLedger.create(folder, text, config.name, [trial.identity for trial in trials]),
    ):
        for trial in trials:
            _write_pending(folder / "trials" / trial.identity["id"], trial)
        return _run(config, folder)


def resume(folder: Path | str, *, watch: Watch | None = None) -> SweepResult:
    """Go on with a sweep, or with a single trial, that did not finish; what is done stays as it is.

    Raises:
        UserError: the folder is neither, or another process is writing to it.
    """
    folder = Path(folder).absolute()
    if is_sweep(folder):
        config = from_dict(run_config(folder))
        _check_address(config, folder)
        with (
            reraise_disk_errors(folder),
            outside_run_folders(),
            watch or nullcontext(),
            RayCluster(config),
            SweepLedger.open(folder),
        ):
            return _run(config, folder)
    trials = trials_of(folder)
    for trial, damage in unfinished_trials(trials):
        from ..trial.run import run

        config = from_dict(trial.config())  # first: when it is damaged, nothing is changed
        if damage is not None:
            mark_for_repair(trial, damage)
        with watch or nullcontext(), projector_process(folder, config):
            run(config, folder, identity=trial.identity)
    return SweepResult(folder, trials)


def _check_address(config: Experiment, folder: Path) -> None:
    """A cluster runs its code in whoever joins it: one that only a run's folder names, maybe somebody else's, is not joined."""
    address = config.ray.address
    host = (address or "").removeprefix("ray://").rpartition(":")[0]
    here = address in (None, "auto", "local") or host in ("localhost", "127.0.0.1")
    if not here and address != os.environ.get("RAY_ADDRESS"):
        raise UserError(
            f"{folder / 'experiment.yaml'}: ray.address={address}: set RAY_ADDRESS={address} too, if you trust that cluster."
        )


def default_folder(config: Experiment) -> Path:
    """``output/name-time``, absolute."""
    return (Path(config.output).expanduser() / f"{config.name}-{time.strftime('%Y%m%d-%H%M%S')}").absolute()


def _absolute(data: Data) -> Data:
    """Folders as every worker is to see them: their own environment and working folder may be others."""
    folders = DataFolders.of(data.root, data.cache)
    own_cache = data.cache or os.environ.get("RETAIN_CACHE")
    return Data(root=str(folders.root) if folders.root else None, cache=str(folders.cache) if own_cache else None)


def _write_pending(folder: Path, trial: PlannedTrial) -> None:
    """A trial's folder before it starts: what it is, in full."""
    TrialLedger.create(folder, yaml.safe_dump(to_dict(trial.config), sort_keys=False), trial.identity).close()


def _write_missing(config: Experiment, folder: Path) -> None:
    """The folders of trials that a sweep was killed before it had written them."""

    def begun(trial: Trial) -> bool:
        return all((trial.folder / name).exists() for name in ("config.yaml", "trial.json"))

    missing = [trial for trial in trials_of(folder) if trial.status().status == "pending" and not begun(trial)]
    if missing:
        planned = plan(config)
        for trial in missing:
            # by its number in the plan: an older version may have put other keys into the id and the overrides
            number = int(trial.id.partition("-")[0])
            identity = {key: trial.identity[key] for key in planned[number].identity}
            _write_pending(trial.folder, replace(planned[number], identity=identity))


def _run(config: Experiment, folder: Path) -> SweepResult:
    """Give the trials that are not done to Ray, with the projector beside them; say of each how it ended."""
    _write_missing(config, folder)
    found = unfinished_trials(trials_of(folder))
    for trial, damage in found:
        if damage is not None and trial.folder.exists():
            mark_for_repair(trial, damage)
        if trial.status().status == "failed":  # whatever it fails of now is to be told
            write_status(trial.folder, "pending", trial.status().experience, None)
    open_trials = [trial for trial, _ in found]
    if open_trials:
        check_shared_folder(folder)
        with projector_process(folder, config):
            _tune(config, folder, open_trials)
    return SweepResult(folder, trials_of(folder))


def _tune(config: Experiment, folder: Path, trials: Sequence[Trial]) -> None:
    """Run the trials. SIGTERM and Ctrl-C, or a full disk, let the running ones write a checkpoint and end the sweep."""
    (folder / STOP_FILE).unlink(missing_ok=True)
    with without_ray_sigterm_handler(), StopRequest() as stop_request:
        stopper = SweepStopper(folder, trials, stop_request)
        try:
            errors = run_tuner(config, folder, trials, stopper)
            for trial in trials:
                if trial.folder.name in errors:
                    set_status_unless_final(trial.folder, "failed", errors[trial.folder.name])
        finally:
            _settle(trials)
            with suppress(OSError):
                (folder / STOP_FILE).unlink(missing_ok=True)
        if stop_request.requested():
            stop_request.raise_stop()
    if stopper.full is not None:
        raise unwritable_folder_error(folder, stopper.full)


def _settle(trials: Sequence[Trial]) -> None:
    """Trials that were cut off say so."""
    for trial in trials:
        if trial.status().status == "running":
            with suppress(OSError):  # without room it stays "running", which is as good: it is not done
                set_status_unless_final(trial.folder, "stopped", None)
