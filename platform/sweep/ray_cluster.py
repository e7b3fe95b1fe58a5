"""The Ray cluster of a sweep: the one that is there, or a local one that nobody but this user on this machine can reach."""

import logging
import os
import secrets
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
from ..trial.builder import device_of

_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # Ray's switch for it: "0" keeps every port on 127.0.0.1, on any system


class RayCluster:
    """A context: Ray, for the time of a sweep; left as it was found."""

    def __init__(self, config: Experiment) -> None:
        self.config = config
        self._ours = False

    def __enter__(self) -> Self:
        """Connect or start; UserError for a cluster that cannot be reached or could never hold a trial."""
        import ray

        if not ray.is_initialized():
            address = self.config.ray.address or os.environ.get("RAY_ADDRESS")
            if not address:
                device_of(self.config)  # on this machine alone, a missing GPU is known before Ray starts
            _connect(address)
            self._ours = True
        with ExitStack() as undo:
            undo.callback(self.__exit__, None, None, None)
            _check(self.config)
            undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave; a local one ends."""
        import ray

        if self._ours:
            ray.shutdown()


def _connect(address: str | None) -> None:
    """Join a cluster, or start a local one without a dashboard; Ray's chatter stays in its own logs."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    _no_uv_run()
    if not address:
        _start()
        return
    import ray
    from ray.exceptions import AuthenticationError

    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError, AuthenticationError) as error:
        raise UserError(
            f"ray.address={address}: no Ray cluster can be joined there: {str(error).strip()} (One that wants a token "
            f"takes it from RAY_AUTH_TOKEN or ~/.ray/auth_token, with RAY_AUTH_MODE=token.)"
        ) from None


def _no_uv_run() -> None:
    """Workers are started with this Python.

    Ray would start them by the driver's `uv run ...` and pack up the working folder for it; where uv was called by a
    relative path, they would never come up.
    """
    if "RAY_ENABLE_UV_RUN_RUNTIME_ENV" not in os.environ:
        from ray._private import ray_constants

        ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = False


def _start() -> None:
    """A local cluster, on loopback, with a token."""
    with _loopback():
        import ray

        _token()
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
        except (OSError, RuntimeError) as error:  # a RuntimeError where its processes could not write
            where = os.environ.get("RAY_TMPDIR") or gettempdir()
            free = disk_usage(where).free / 2**20
            raise UserError(
                f"Ray cannot start with its files in {where} ({free:.1f} MB are free; RAY_TMPDIR=PATH names another "
                f"folder): {error}"
            ) from error


@contextmanager
def _loopback() -> Iterator[None]:
    """Within: a Ray that is started listens on 127.0.0.1 only. Its own default are all of the machine's interfaces."""
    before = os.environ.get(_LOOPBACK)
    os.environ[_LOOPBACK] = "0"  # for the processes that Ray starts
    from ray._private import ray_constants

    cluster, ray_constants.ENABLE_RAY_CLUSTER = (
        ray_constants.ENABLE_RAY_CLUSTER,
        False,
    )  # it may have been imported before
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = cluster
        if before is None:
            del os.environ[_LOOPBACK]
        else:
            os.environ[_LOOPBACK] = before


def _token() -> None:
    """Keep Ray's token where only this user can read it: Ray itself would let the whole machine, and needs a home to write to."""
    if any(name in os.environ for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
        return
    path = Path.home() / ".ray" / "auth_token"
    try:
        if path.exists():
            path.chmod(0o600)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    except FileExistsError:  # another sweep was quicker
        pass
    except OSError:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # for this process and those that it starts


def _check(config: Experiment) -> None:
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


def check_shared_folder(folder: Path) -> None:
    """Each node must see the sweep's folder: a marker written here is read there; UserError otherwise."""
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
