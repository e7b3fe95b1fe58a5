"""Run and resume sweeps: plan the trials, run them on Ray (ray_cluster, ray_tune, ray_worker), keep the results in ledgers.

Ray places the trials, restarts those whose process died, and reuses workers. Ledgers hold the results. To resume a sweep, its
unfinished trials go to a new Tuner; each resumes from its newest valid checkpoint.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from socket import gethostname
from typing import Any

from ..config.load import as_experiment, from_dict, load_config, to_dict
from ..config.schema import Data, Experiment
from ..config.yaml_files import dump_yaml
from ..data.cache import DataFolders
from ..disk_errors import reraise_disk_errors, unwritable_folder_error
from ..errors import UserError
from ..ledger.reader import Trial, is_sweep, run_config, trials_of, unfinished_trials
from ..ledger.writer import SweepLedger, TrialLedger, mark_for_repair, write_status
from ..reporting.projector import projector_process
from ..reporting.wandb_account import check_wandb
from ..run_folders import new_folder, outside_run_folders
from ..trial.stop_request import StopRequest
from .plan import PlannedTrial, check_trials, plan
from .ray_cluster import RayCluster, check_shared_folder
from .ray_health import ClusterLostError, run_watched
from .ray_tune import SweepStopper, run_tuner, without_ray_sigterm_handler
from .ray_worker import SWEEP_STOP_FILE, set_status_unless_final

Watch = AbstractContextManager[Any]  # a progress display


@dataclass(frozen=True, slots=True)
class SweepResult:
    """A sweep's folder and its trials."""

    folder: Path
    trials: list[Trial]

    def with_status(self, status: str) -> list[Trial]:
        """Return the trials in a state ("done", "failed", ...)."""
        return [trial for trial in self.trials if trial.status().status == status]


def sweep(
    config: Experiment | Mapping[Any, Any], folder: Path | str | None = None, *, watch: Watch | None = None
) -> SweepResult:
    """Run all trials of an experiment on Ray.

    In the main thread, SIGTERM and the first Ctrl-C let the running trials write a checkpoint and end. `resume` continues.

    Args:
        config: the experiment, or a dict or DictConfig of one.
        folder: a new folder for the sweep (default: ``output/name-time``).
        watch: a context that is entered while the trials run (the CLI's progress display).

    Raises:
        UserError: the config, its data, the folder or the cluster is wrong, and nothing was started; or the disk became full.
        Stopped: SIGTERM arrived (a SystemExit).
        KeyboardInterrupt: Ctrl-C.
    """
    config = as_experiment(config)
    trials = _planned(config)
    check_trials(trials)
    if not any(keys[0] == "data" for keys, *_ in config.origin.interpolations):  # each trial resolves those
        config = replace(config, data=_absolute(config.data))
    check_wandb(config.wandb)
    text = dump_yaml(to_dict(config))
    with (
        new_folder(folder, config.output, config.name) as folder,
        reraise_disk_errors(folder),
        watch or nullcontext(),
        RayCluster(config),  # first: a cluster that is too small is refused before anything is written
        SweepLedger.create(folder, text, config.name, [trial.identity for trial in trials]),
    ):
        for trial in trials:
            write_pending_trial(folder / "trials" / trial.identity["id"], trial)
        return _run(config, folder)


def resume(folder: Path | str, *, watch: Watch | None = None) -> SweepResult:
    """Resume a sweep or a single trial. Trials that are done stay as they are, unless their files are damaged.

    Raises:
        UserError: the folder is neither a sweep's nor a trial's, or another process is writing to it.
    """
    folder = Path(folder).absolute()
    if is_sweep(folder):
        config = load_config(run_config(folder))
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

        config = from_dict(trial.config())  # first: if this raises, nothing was changed
        if damage is not None:
            mark_for_repair(trial, damage)
        with watch or nullcontext(), projector_process(folder, config):
            run(config, folder, identity=trial.identity)
    return SweepResult(folder, trials)


def _check_address(config: Experiment, folder: Path) -> None:
    """Refuse to join a remote cluster that only the run's folder names.

    A cluster can run code in every process that joins it, and the folder may come from somebody else.
    """
    address = config.ray.address
    host = (address or "").removeprefix("ray://").rpartition(":")[0]
    is_local = address in (None, "auto", "local") or host in ("localhost", "127.0.0.1")
    if not is_local and address != os.environ.get("RAY_ADDRESS"):
        raise UserError(
            f"{folder / 'experiment.yaml'}: ray.address={address}: set RAY_ADDRESS={address} too, if you trust that cluster."
        )


def _planned(config: Experiment) -> list[PlannedTrial]:
    """Plan the trials, with absolute data folders."""
    return [trial.with_data(_absolute(trial.config.data)) for trial in plan(config)]


def _absolute(data: Data) -> Data:
    """Resolve the data folders here: a worker's environment and working folder may differ."""
    folders = DataFolders.of(data.root, data.cache)
    own_cache = data.cache or os.environ.get("RETAIN_CACHE")
    return Data(root=str(folders.root) if folders.root else None, cache=str(folders.cache) if own_cache else None)


def write_pending_trial(folder: Path, trial: PlannedTrial) -> None:
    """Write the folder of a trial that has not started: its config and identity."""
    TrialLedger.create(folder, dump_yaml(to_dict(trial.config)), trial.identity).close()


def write_missing_trials(config: Experiment, folder: Path) -> None:
    """Write the trial folders that are missing because the sweep was killed while it wrote them."""

    def is_written(trial: Trial) -> bool:
        return all((trial.folder / name).exists() for name in ("config.yaml", "trial.json"))

    missing = [trial for trial in trials_of(folder) if trial.status().status == "pending" and not is_written(trial)]
    if missing:
        planned, listed = plan(config), trials_of(folder)
        if len(planned) != len(listed):
            raise UserError(
                f"{folder}: another version of retain planned {len(listed)} trials, this one {len(planned)}, so the "
                f"{len(missing)} trials without a folder are not known. Start a new sweep, or resume with that version."
            )
        for trial in missing:
            # match by the number in the plan: older versions put other keys into the id and the overrides
            number = int(trial.id.partition("-")[0])
            identity = {key: trial.identity[key] for key in planned[number].identity}
            write_pending_trial(trial.folder, replace(planned[number], identity=identity))


def _run(config: Experiment, folder: Path) -> SweepResult:
    """Run the unfinished trials on Ray, with a projector process if the config asks for W&B or TensorBoard."""
    write_missing_trials(config, folder)
    unfinished = unfinished_trials(trials_of(folder))
    for trial, damage in unfinished:
        if damage is not None and trial.folder.exists():
            mark_for_repair(trial, damage)
        if trial.status().status == "failed":  # so that a new failure is recorded
            write_status(trial.folder, "pending", trial.status().experience, None)
    trials = [trial for trial, _ in unfinished]
    if trials:
        run_watched(lambda: check_shared_folder(folder))
        with projector_process(folder, config), _sweep_log(folder, len(trials)):
            _tune(config, folder, trials)
    return SweepResult(folder, trials_of(folder))


@contextmanager
def _sweep_log(folder: Path, num_trials: int) -> Iterator[None]:
    """Write to sweep.log how the trials start and end. A process that is killed, or that Ray ends, cannot say it later."""

    def write(text: str) -> None:
        with suppress(OSError), (folder / "sweep.log").open("a", encoding="utf-8") as log:
            log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} process {os.getpid()} on {gethostname()}: {text}\n")

    write(f"runs {num_trials} trials. If no line follows, continue with: retain resume {folder}")
    try:
        yield
    except BaseException as error:
        write(f"ended: {type(error).__name__} {error}")
        raise
    write("ended")


def _tune(config: Experiment, folder: Path, trials: Sequence[Trial]) -> None:
    """Run the trials. SIGTERM, Ctrl-C and a full disk let the running ones write a checkpoint, then end the sweep."""
    (folder / SWEEP_STOP_FILE).unlink(missing_ok=True)
    with without_ray_sigterm_handler(), StopRequest() as stop_request:
        stopper = SweepStopper(folder, trials, stop_request)
        try:
            errors = run_watched(lambda: run_tuner(config, folder, trials, stopper))
            for trial in trials:
                if trial.folder.name in errors:
                    set_status_unless_final(trial.folder, "failed", errors[trial.folder.name])
        except ClusterLostError as error:
            stopper.stop_without_ray()
            advice = f"Checkpoints and completed trials are kept. Continue with: retain resume {folder}"
            raise ClusterLostError(f"{error}. {advice}") from error.__cause__
        finally:
            _mark_interrupted(trials)
            with suppress(OSError):
                (folder / SWEEP_STOP_FILE).unlink(missing_ok=True)
        if stop_request.requested():
            stop_request.raise_stop()
    if stopper.full is not None:
        raise unwritable_folder_error(folder, stopper.full)


def _mark_interrupted(trials: Sequence[Trial]) -> None:
    """Set trials that are still "running" in their ledger to "stopped"."""
    for trial in trials:
        if trial.status().status == "running":
            with suppress(OSError):  # on a full disk it stays "running", which resumes just as well
                set_status_unless_final(trial.folder, "stopped", None)
