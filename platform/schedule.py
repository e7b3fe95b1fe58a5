"""Sweeps on Ray Tune: the only module that imports ray.

Ray places the trials, restarts those whose process died, and reuses workers. What happened is in the ledgers: to resume, the
trials that are not done go to a new Tuner, and each starts from its own newest valid checkpoint.
"""

import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from .assembly import device_of
from .cache import DataFolders
from .config import from_dict, to_dict
from .errors import UserError
from .files import write_text
from .ledger import State, SweepLedger, Trial, TrialLedger, is_sweep, trials_of, write_status
from .loading import read_yaml
from .plan import PlannedTrial, check, plan
from .projector import beside, resolve_mode
from .settings import Data, Experiment

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

    Args:
        config: the experiment.
        folder: a new folder for the sweep (default: ``output/name-time``).
        watch: entered while the trials run (the CLI's progress display).

    Raises:
        UserError: anything that is wrong with the config, its data, the folder or the cluster; nothing was started.
    """
    config = replace(config, data=_absolute(config.data))
    trials = plan(config)
    check(trials)
    resolve_mode(config.wandb.mode)
    folder = default_folder(config) if folder is None else Path(folder).absolute()
    text = yaml.safe_dump(to_dict(config), sort_keys=False)
    with (
        watch or nullcontext(),
        _cluster(config),  # first: a cluster that cannot hold the trials is refused before anything is written
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
        config = from_dict(read_yaml(folder / "experiment.yaml"))
        with watch or nullcontext(), _cluster(config), SweepLedger.open(folder):
            return _run(config, folder)
    (trial,) = trials_of(folder)
    if trial.status().status != "done":
        from .trial import run

        config = from_dict(read_yaml(folder / "config.yaml"))
        with watch or nullcontext(), beside(folder, config):
            run(config, folder, identity=trial.identity)
    return SweepResult(folder, [trial])


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


def _run(config: Experiment, folder: Path) -> SweepResult:
    """Give the trials that are not done to Ray, with the projector beside them; say of each how it ended."""
    open_trials = [trial for trial in trials_of(folder) if trial.status().status != "done"]
    if open_trials:
        _check_shared(folder)
        with beside(folder, config):
            _tune(config, folder, open_trials)
        _settle(open_trials)
    return SweepResult(folder, trials_of(folder))


class _cluster:
    """Ray, for the time of a sweep: the cluster that is there, or a local one bound to loopback."""

    def __init__(self, config: Experiment) -> None:
        self.config = config
        self._ours = False

    def __enter__(self) -> Self:
        import ray

        if not ray.is_initialized():
            address = self.config.ray.address or os.environ.get("RAY_ADDRESS")
            if not address:
                device_of(self.config)  # on this machine alone, a missing GPU is known before Ray starts
            _connect(address)
            self._ours = True
        with ExitStack() as undo:
            undo.callback(self.__exit__, None, None, None)
            _check_cluster(self.config)
            undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import ray

        if self._ours:
            ray.shutdown()


def _connect(address: str | None) -> None:
    """Join a cluster, or start a local one without a dashboard; Ray's chatter stays in its own logs."""
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        if address:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        else:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    except (ConnectionError, ValueError) as error:
        raise UserError(f"ray.address={address}: no Ray cluster can be reached there: {error}") from None


def _check_cluster(config: Experiment) -> None:
    """Refuse a trial that no node could ever hold."""
    import ray

    there = ray.cluster_resources()
    for key, name, wanted in (("cpus", "CPU", config.resources.cpus), ("gpus", "GPU", config.resources.gpus)):
        most = max((node["Resources"].get(name, 0.0) for node in ray.nodes() if node["Alive"]), default=0.0)
        if wanted > most:
            raise UserError(
                f"resources.{key}={wanted:g}: no node of the cluster has as many ({name}: {most:g} at most, "
                f"{there.get(name, 0.0):g} in all); lower it."
            )


def _check_shared(folder: Path) -> None:
    """Each node must see the sweep's folder: a marker written here is read there."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2:
        return
    marker = folder / ".marker"
    write_text(marker, str(os.getpid()))
    look: Any = ray.remote(num_cpus=0)(lambda path, text: os.path.exists(path) and open(path).read() == text)
    for node in nodes:
        here = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
        if not ray.get(look.options(scheduling_strategy=here).remote(str(marker), str(os.getpid()))):
            raise UserError(
                f"output={folder}: node {node['NodeManagerHostname']} does not see this folder; put it on a file system that "
                f"all nodes share."
            )


def _tune(config: Experiment, folder: Path, trials: Sequence[Trial]) -> None:
    """One Tuner over the trials' folders. Only a process that died is restarted: what a trial raises is its result."""
    from ray import tune

    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # the ledger is the record
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    wanted: dict[str, float] = {"cpu": config.resources.cpus, "gpu": config.resources.gpus}
    tuner = tune.Tuner(
        tune.with_resources(_trainable, wanted),
        param_space={
            "folder": tune.grid_search([str(trial.folder) for trial in trials]),
            "path": [os.getcwd(), *sys.path],
        },
        tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=config.ray.max_concurrent),
        run_config=tune.RunConfig(
            name=f"tune-{int(time.time())}",
            storage_path=str(folder / ".ray"),
            failure_config=tune.FailureConfig(max_failures=config.ray.max_failures),
            verbose=0,
        ),
    )
    tuner.fit()


def _trainable(settings: Mapping[str, Any]) -> None:
    """What a Ray worker does with one trial."""
    from ray import tune

    for path in settings["path"]:  # so that the user's own modules are found here too
        if path not in sys.path:
            sys.path.append(path)
    folder = Path(settings["folder"])
    with _contained(folder):
        from .trial import run

        run(from_dict(read_yaml(folder / "config.yaml")), folder, identity=Trial(folder).identity, report=tune.report)


class _contained:
    """Keeps a trial's exception in its ledger, where it is a result: Ray would run it again, to the same end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        _mark(self.folder, "failed", f"{type(error).__name__}: {error}")
        return True


def _mark(folder: Path, status: State, error: str | None) -> None:
    """Set a trial's state, unless it has already come to an end of its own."""
    before = Trial(folder).status()
    if before.status not in ("done", "failed"):
        write_status(folder, status, before.experience, error)


def _settle(trials: Sequence[Trial]) -> None:
    """Trials that were cut off say so."""
    for trial in trials:
        if trial.status().status == "running":
            _mark(trial.folder, "stopped", None)
