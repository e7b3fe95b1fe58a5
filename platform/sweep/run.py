"""Run and resume sweeps: plan the trials, run them on Ray (ray_cluster, ray_pool, ray_worker), keep the results in ledgers.

Ray starts, and its workers import torch, while the trials are planned and checked; importing this module imports neither. To
resume a sweep, its unfinished trials run; each resumes from its newest valid checkpoint.
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
from ..config.search import search_settings
from ..config.yaml_files import dump_yaml
from ..disk_errors import reraise_disk_errors, unwritable_folder_error, unwritable_reason
from ..errors import UserError
from ..ledger.journal import current_choices, read_journal
from ..ledger.reader import Trial, is_sweep, run_config, trials_of, unfinished_trials
from ..ledger.writer import SweepLedger, mark_for_repair, write_status
from ..reporting.projector import projector_process
from ..reporting.search_results import SearchResult, searches_of
from ..reporting.wandb_account import check_wandb
from ..run_folders import new_folder, outside_run_folders
from ..trial.stop_request import StopRequest
from .extend import extended, write_extension
from .plan import PlannedTrial, check_trials, plan
from .ray_cluster import RayInBackground, check_shared_folder
from .ray_health import ClusterLostError, run_watched
from .ray_pool import Workers, run_pool
from .ray_tune import SweepStopper
from .ray_worker import DISK_FULL, SWEEP_STOP_FILE, set_status_unless_final
from .search import Search, is_search_trial
from .search_checks import check_search
from .search_on_ray import run_search
from .search_plan import SearchPlan, plan_search
from .signals import default_sigterm
from .trial_folders import FolderWriter, write_missing_trials, write_pending_trial

Watch = AbstractContextManager[Any]  # a progress display


@dataclass(frozen=True, slots=True)
class SweepResult:
    """A sweep's folder and its trials."""

    folder: Path
    trials: list[Trial]

    @property
    def reported(self) -> list[Trial]:
        """Return the trials whose results are reported: all, without those of a search."""
        return [trial for trial in self.trials if trial.role == "reported"]

    @property
    def searches(self) -> list[SearchResult]:
        """Return the searches, with every configuration; none without `sweep.objective`."""
        return searches_of(self.folder)

    @property
    def chosen(self) -> dict[tuple[str, str], Mapping[str, Any]]:
        """Return (stream, variant) -> the chosen point of the space, of the searches that have chosen."""
        best = {(each.stream, each.variant): each.best for each in self.searches}
        return {key: each.point for key, each in best.items() if each is not None}

    def with_status(self, status: str) -> list[Trial]:
        """Return the trials in a state ("done", "failed", ...)."""
        return [trial for trial in self.trials if trial.status().status == status]


def sweep(
    config: Experiment | Mapping[Any, Any], folder: Path | str | None = None, *, watch: Watch | None = None
) -> SweepResult:
    """Run all trials of an experiment on Ray.

    `retain stop` and, in the main thread, SIGTERM and the first Ctrl-C let the running trials write a checkpoint and end.
    `resume` continues.

    Args:
        config: the experiment, or a dict or DictConfig of one.
        folder: a new folder for the sweep (default: ``output/name-time``).
        watch: a context that is entered while the trials run (the CLI's progress display).

    Raises:
        UserError: the config, its data, the folder or the cluster is wrong, and nothing was started; or the disk became full.
        Stopped: SIGTERM arrived, or `retain stop` was called (a SystemExit).
        KeyboardInterrupt: Ctrl-C.
    """
    config = as_experiment(config)
    check_wandb(config.wandb)
    with (
        new_folder(folder, config.output, config.name) as folder,
        reraise_disk_errors(folder),
        RayInBackground(config, _least_trials(config)) as ray,
    ):
        search = plan_search(config)
        if search is None:
            trials = [_with_absolute_data(trial) for trial in plan(config)]
            check_trials(trials)
        else:
            check_search(search)
            trials = [_with_absolute_data(trial) for trial in search.fixed_trials()]
        if not any(keys[0] == "data" for keys, *_ in config.origin.interpolations):  # each trial resolves those
            config = replace(config, data=_absolute(config.data))
        with watch or nullcontext():
            workers = ray.workers()  # first: a cluster that is too small is refused before anything is written
            identities = [trial.identity for trial in trials]
            with (
                SweepLedger.create(folder, dump_yaml(to_dict(config)), config.name, identities),
                FolderWriter(folder, trials) as writer,
            ):
                return _run(config, folder, workers, writer)


def resume(folder: Path | str, *, watch: Watch | None = None, only_failed: bool = False) -> SweepResult:
    """Resume a sweep or a single trial. Trials that are done stay as they are, unless their files are damaged.

    A failed trial of a search is a result, which later suggestions depend on: it runs again only with `only_failed`.

    Args:
        folder: the folder of a sweep or of a trial.
        watch: a context that is entered while the trials run (the CLI's progress display).
        only_failed: run the failed trials again, those of a search too, and no others; a search suggests and chooses nothing.

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
            SweepLedger.open(folder),
            watch or nullcontext(),
            RayInBackground(config, _least_trials(config, folder)) as ray,
        ):
            # of an earlier process, which had ended before it saw the file
            (folder / SWEEP_STOP_FILE).unlink(missing_ok=True)
            workers = ray.workers()
            return _run(config, folder, workers, only_failed=only_failed)
    trials = trials_of(folder)
    for trial, damage in unfinished_trials(trials, only_failed=only_failed):
        from ..trial.run import run

        config = from_dict(trial.config())  # first: if this raises, nothing was changed
        if damage is not None:
            mark_for_repair(trial, damage)
        with watch or nullcontext(), projector_process(folder, config):
            run(config, folder, identity=trial.identity)
    return SweepResult(folder, trials)


def add(folder: Path | str, overrides: Sequence[str], *, watch: Watch | None = None) -> SweepResult:
    """Add seeds, variants, streams, points or samples to a sweep that is finished or stopped, and run what is missing.

    Args:
        folder: the sweep's.
        overrides: ``key=value`` of its `sweep` section.
        watch: a context that is entered while the trials run.

    Raises:
        UserError: the overrides would change what has run, or another process is writing to the folder.
    """
    folder = Path(folder).absolute()
    with SweepLedger.open(folder):
        write_extension(folder, *extended(folder, list(overrides)))
    return resume(folder, watch=watch)


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


def _least_trials(config: Experiment, folder: Path | None = None) -> int:
    """Return how many trials will run at least, for which workers can start; 0 for a search, which has Ray Tune's.

    Args:
        config: the experiment.
        folder: the sweep's, if it is resumed.
    """
    if search_settings(config) is not None:
        return 0
    if folder is not None:
        return sum(trial.status().status != "done" for trial in trials_of(folder))
    sweep = config.sweep
    return len(sweep.seeds) * max(1, len(sweep.streams)) * max(1, len(sweep.variants))


def _with_absolute_data(trial: PlannedTrial) -> PlannedTrial:
    return trial.with_data(_absolute(trial.config.data))


def _absolute(data: Data) -> Data:
    """Resolve the data folders here: a worker's environment and working folder may differ."""
    from ..data.cache import DataFolders  # here: it imports torch, and Ray starts meanwhile

    folders = DataFolders.of(data.root, data.cache)
    own_cache = data.cache or os.environ.get("RETAIN_CACHE")
    return Data(root=str(folders.root) if folders.root else None, cache=str(folders.cache) if own_cache else None)


def _run(
    config: Experiment, folder: Path, workers: Workers, writer: FolderWriter | None = None, *, only_failed: bool = False
) -> SweepResult:
    """Run the unfinished trials on Ray, with a projector process if the config asks for W&B or TensorBoard.

    Args:
        config: the experiment.
        folder: the sweep's.
        workers: run the trials of a sweep without a search.
        writer: writes the folders of a new sweep's trials; None: the sweep is resumed.
        only_failed: run the failed trials, and no others.
    """
    search_plan = plan_search(config)
    trials = _unfinished(config, folder, search_plan, only_failed) if writer is None else writer.trials
    if search_plan is not None and writer is not None:
        writer.wait()
    only = [trial.id for trial in trials] if only_failed else None
    search = None if search_plan is None else Search(folder, search_plan, _write_pending_search_trial, only)
    if trials or (search is not None and search.is_open):
        run_watched(lambda: check_shared_folder(folder))
        with projector_process(folder, config), _sweep_log(folder, len(trials)):
            _run_on_ray(config, folder, trials, _Pool(workers, writer) if search is None else search)
    return SweepResult(folder, trials_of(folder))


def _unfinished(config: Experiment, folder: Path, search_plan: SearchPlan | None, only_failed: bool) -> list[Trial]:
    """Return the trials of a resumed sweep that are to run, and prepare their folders."""
    if search_plan is None:
        write_missing_trials(config, folder)
    unfinished = unfinished_trials(trials_of(folder), only_failed=only_failed)
    for trial, damage in unfinished:
        if damage is not None and trial.folder.exists():
            mark_for_repair(trial, damage)
        if trial.status().status == "failed" and not is_search_trial(trial):  # a new failure is recorded
            write_status(trial.folder, "pending", trial.status().experience, None)
    return [trial for trial, _ in unfinished]


def _write_pending_search_trial(folder: Path, trial: PlannedTrial) -> None:
    write_pending_trial(folder, _with_absolute_data(trial))


def has_open_search(folder: Path) -> bool:
    """Return whether a sweep's search has not chosen yet for every stream and variant."""
    search_plan = plan_search(load_config(run_config(folder))) if is_sweep(folder) else None
    return search_plan is not None and len(current_choices(read_journal(folder))) < len(search_plan.searched)


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


@dataclass(frozen=True, slots=True)
class _Pool:
    """The workers of a sweep without a search, and what writes its trials' folders (None: they exist)."""

    workers: Workers
    writer: FolderWriter | None

    def run(self, config: Experiment, trials: Sequence[Trial], stopper: SweepStopper) -> dict[str, str]:
        """Run trials; return why some were given up, by folder name."""

        def is_written(trial: Trial) -> bool:
            try:
                return self.writer is None or self.writer.is_written(trial)
            except OSError as error:
                reason = unwritable_reason(error)
                if reason is None:
                    raise
                stopper.on_result({DISK_FULL: reason, "folder": str(trial.folder)})
                return False

        return run_pool(self.workers, config, trials, stopper, is_written)


def _run_on_ray(config: Experiment, folder: Path, trials: Sequence[Trial], runner: Search | _Pool) -> None:
    """Run the trials. SIGTERM, Ctrl-C, the stop file and a full disk let running ones write a checkpoint, and end the sweep."""
    with default_sigterm(), StopRequest(stop_file=folder / SWEEP_STOP_FILE) as stop_request:
        stopper = SweepStopper(folder, trials, stop_request)
        try:
            if isinstance(runner, _Pool):
                errors = run_watched(lambda: runner.run(config, trials, stopper))
            else:
                errors = run_watched(lambda: run_search(config, folder, runner, stopper))
            for trial in stopper.trials:
                if trial.folder.name in errors:
                    set_status_unless_final(trial.folder, "failed", errors[trial.folder.name])
            stop_request.requested()  # the trials may have seen the stop file, and ended, before the driver
        except ClusterLostError as error:
            stopper.stop_without_ray()
            advice = f"Checkpoints and completed trials are kept. Continue with: retain resume {folder}"
            raise ClusterLostError(f"{error}. {advice}") from error.__cause__
        finally:
            _mark_interrupted(stopper.trials)
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
