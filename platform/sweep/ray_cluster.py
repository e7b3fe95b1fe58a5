"""Connect to a Ray cluster, or start a local one that only this user on this machine can reach, while other work is done."""

import logging
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from shutil import disk_usage
from tempfile import gettempdir
from types import TracebackType
from typing import Any, Self

from ..config.schema import Experiment
from ..errors import UserError
from ..files import write_text
from .ray_health import ClusterLostError, check_reachable, leave_dead_cluster
from .ray_pool import Workers
from .signals import exit_on_sigterm

_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # "0" keeps every port of Ray on 127.0.0.1, on any system


class RayCluster:
    """A context with Ray connected or started. A Ray that was already initialised stays as it is."""

    def __init__(self, config: Experiment) -> None:
        self.config = config
        self._ours = False

    def __enter__(self) -> Self:
        """Connect to the cluster, or start a local one.

        Raises:
            UserError: the cluster cannot be reached, or no node is large enough for a trial.
        """
        import ray

        if not ray.is_initialized():
            address = self.config.ray.address or os.environ.get("RAY_ADDRESS")
            if not address and self.config.resources.gpus:
                from ..trial.builder import device_of  # here: it imports torch

                device_of(self.config.resources)  # without a cluster, a missing GPU is reported before Ray starts
            _connect(address)
            self._ours = True
        with ExitStack() as undo:
            undo.callback(self.__exit__, None, None, None)
            _check(self.config)
            undo.pop_all()
        return self

    @property
    def is_local(self) -> bool:
        """Return whether this object has started a local Ray: nobody else uses it."""
        import ray

        node: Any = ray._private.worker._global_node
        return self._ours and node is not None and bool(node.is_head())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect; a local Ray that was started here is shut down."""
        import ray

        if self._ours and isinstance(error, ClusterLostError):
            leave_dead_cluster()
        elif self._ours:
            ray.shutdown()


class RayInBackground:
    """A context in which Ray starts, or is joined, in a thread: `workers` waits for it.

    One thread does all of it and lives as long as Ray: Linux ends the processes that Ray has started when the thread that started
    them ends. In the main thread, SIGTERM raises SystemExit, as with ray.init there.
    """

    def __init__(self, config: Experiment, num_trials: int) -> None:
        """Make a context that is not entered yet.

        Args:
            config: the experiment.
            num_trials: for how many trials workers are started at once; they import torch while the caller checks the trials.
        """
        self._config, self._num_trials = config, num_trials
        self._workers: Workers | None = None
        self._error: BaseException | None = None
        self._cause: BaseException | None = None  # the exception that ends the block
        self._started, self._leave = threading.Event(), threading.Event()
        self._stack = ExitStack()
        self._thread = threading.Thread(target=self._live, daemon=True, name="retain-ray")

    def workers(self) -> Workers:
        """Wait until Ray has started; return its workers.

        Raises:
            UserError: the cluster cannot be reached, or no node is large enough for a trial.
        """
        self._started.wait()
        if self._error is not None:
            raise self._error
        assert self._workers is not None
        return self._workers

    def _live(self) -> None:
        """Start Ray, wait for the end of the block, and leave Ray."""
        try:
            with RayCluster(self._config) as cluster:
                self._workers = Workers(self._config, can_grow=not cluster.is_local)
                if not self._leave.is_set():  # the caller has not failed meanwhile
                    self._workers.start(self._num_trials)
                self._started.set()
                self._leave.wait()
                if isinstance(self._cause, ClusterLostError):
                    raise self._cause
        except BaseException as error:  # noqa: BLE001 - raised by `workers` in the caller's thread
            self._error = error
        finally:
            self._started.set()

    def __enter__(self) -> Self:
        """Start the thread."""
        wait_for_ray_to_end()
        self._stack.enter_context(exit_on_sigterm())
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave Ray, and wait until it has ended, unless in `ray_ends_meanwhile`."""
        self._cause = error
        self._leave.set()
        _ending.append(self._thread)
        with self._stack:
            if not _end_meanwhile:
                wait_for_ray_to_end()


_ending: list[threading.Thread] = []  # threads in which Ray ends
_end_meanwhile: list[bool] = []  # not empty: the caller does not wait for Ray's end


def wait_for_ray_to_end() -> None:
    """Wait until the Ray that earlier blocks have used has ended."""
    while _ending:
        _ending[-1].join()
        _ending.pop()


@contextmanager
def ray_ends_meanwhile() -> Iterator[None]:
    """A context in which a sweep does not wait until Ray's processes have ended; the end of the context does."""
    _end_meanwhile.append(True)
    try:
        yield
    finally:
        _end_meanwhile.pop()
        wait_for_ray_to_end()


def _connect(address: str | None) -> None:
    """Join a cluster, or start a local one. Ray's messages go to its logs, not to the terminal."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    _no_uv_run()
    if not address or address == "local":
        _start()
        return
    check_reachable(address)
    import ray
    from ray.exceptions import AuthenticationError

    try:
        ray.init(address=address, job_config=_job_config(), log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError, AuthenticationError) as error:
        raise UserError(
            f"ray.address={address}: no Ray cluster can be joined there: {str(error).strip()} (A cluster with a token "
            f"takes it from RAY_AUTH_TOKEN or ~/.ray/auth_token, with RAY_AUTH_MODE=token.)"
        ) from None


def _job_config() -> Any:
    """Return a job that does not put the driver's working directory first on its workers' module search path, as Ray would.

    A user's script there, such as ``gzip.py``, would hide Python's own; `run_trial` puts the directory last. None leaves it
    to Ray: in a job that `ray job submit` has prepared.
    """
    from ray.job_config import JobConfig

    return None if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ else JobConfig(_client_job=True)


def _no_uv_run() -> None:
    """Make Ray start workers with this Python.

    Otherwise Ray repeats the driver's `uv run ...` for each worker and uploads the working folder. If uv was called by a
    relative path, the workers never start.
    """
    if "RAY_ENABLE_UV_RUN_RUNTIME_ENV" not in os.environ:
        from ray._private import ray_constants

        ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = False


def _start() -> None:
    """Start a local cluster: loopback only, no dashboard, with a token."""
    with _loopback():
        import ray

        _token()
        try:
            ray.init(
                address="local",  # not the cluster that the last `ray start` on this machine has noted
                job_config=_job_config(),
                log_to_driver=False,
                logging_level=logging.ERROR,
                include_dashboard=False,
            )
        except (OSError, RuntimeError) as error:  # RuntimeError: Ray's processes could not write their files
            temporary = os.environ.get("RAY_TMPDIR") or gettempdir()
            free = disk_usage(temporary).free / 2**20
            raise UserError(
                f"Ray cannot start with its files in {temporary} ({free:.1f} MB are free; RAY_TMPDIR=PATH names another "
                f"folder): {error}"
            ) from error


@contextmanager
def _loopback() -> Iterator[None]:
    """A context in which a new Ray listens on 127.0.0.1 only. By default, Ray listens on all network interfaces."""
    before = os.environ.get(_LOOPBACK)
    os.environ[_LOOPBACK] = "0"  # for the processes that Ray starts
    from ray._private import ray_constants

    # ray_constants may have been imported before, with the other value of the environment variable
    cluster, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = cluster
        if before is None:
            del os.environ[_LOOPBACK]
        else:
            os.environ[_LOOPBACK] = before


def _token() -> None:
    """Write Ray's token so that only this user can read it.

    Ray's file would be readable by every user of the machine. Where the home folder is not writable, the token is passed to
    this process and its children as an environment variable.
    """
    if any(name in os.environ for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
        return
    path = Path.home() / ".ray" / "auth_token"
    try:
        if path.exists():
            path.chmod(0o600)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(secrets.token_hex(32))
    except FileExistsError:  # another sweep has just written it
        pass
    except OSError:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _check(config: Experiment) -> None:
    """Raise UserError if a trial needs more than the largest node has."""
    import ray

    total = ray.cluster_resources()
    for key, name, needed in (("cpus", "CPU", config.resources.cpus), ("gpus", "GPU", config.resources.gpus)):
        most = max((node["Resources"].get(name, 0.0) for node in ray.nodes() if node["Alive"]), default=0.0)
        if needed > most:
            raise UserError(
                f"resources.{key}={needed:g}: no node of the cluster has as many ({name}: {most:g} at most, "
                f"{total.get(name, 0.0):g} in all); lower it."
            )


def check_shared_folder(folder: Path) -> None:
    """Check that every node sees the sweep's folder: write a marker file here, read it on each node.

    Raises:
        UserError: a node does not see it.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2:
        return
    marker = folder / ".marker"
    write_text(marker, str(os.getpid()))
    sees_marker: Any = ray.remote(num_cpus=0)(
        lambda path, text: os.path.exists(path) and open(path, encoding="utf-8").read() == text
    )
    for node in nodes:
        on_node = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
        if not ray.get(sees_marker.options(scheduling_strategy=on_node).remote(str(marker), str(os.getpid()))):
            raise UserError(
                f"output={folder}: node {node['NodeManagerHostname']} does not see this folder; put it on a file system that "
                f"all nodes share."
            )
