"""Notice that Ray has died under a sweep: Ray itself waits for ever, or ends the process after a minute without a word."""

import atexit
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from ..errors import UserError

_POLL = 0.5  # seconds between two looks at the processes of a local cluster
_ASK = 5.0  # seconds between two questions to the GCS (Ray's server of cluster metadata)
_SILENCE = 40.0  # seconds without an answer of the GCS; Ray ends the process after 60
_CONNECT = 10.0  # seconds to connect to an address, and again to hear from it
_LEAVE = 5.0  # seconds for Ray to disconnect from a cluster that has died
_T = TypeVar("_T")
_HTTP2_SETTINGS = 4  # type of the frame that a gRPC server sends first
_ADVICE = (
    "It must be the HOST:PORT of a cluster that runs (`ray start --head` prints it); unset RAY_ADDRESS, or set "
    "ray.address=local, to start a local one."
)


class ClusterLostError(UserError):
    """Ray has died: the driver can place no trial any more."""


class ClusterWatch:
    """Watches the Ray that this process has started or joined: `lost` says whether it has died, and how."""

    def __init__(self) -> None:
        import ray
        from ray._private import worker

        self._node: Any = worker._global_node  # None with Ray Client
        self._id = ray.get_runtime_context().get_node_id()
        self._answered, self._reported_dead = time.monotonic(), False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True, name="retain-ray-watch")

    def __enter__(self) -> "ClusterWatch":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join(_POLL)  # if the GCS is dead, the question waits as long as this process lives

    def _ask(self) -> None:
        import ray

        while not self._stop.wait(_ASK):
            own = [node for node in ray.nodes() if node["NodeID"] == self._id]
            self._answered, self._reported_dead = time.monotonic(), bool(own) and not own[0]["Alive"]

    @property
    def logs(self) -> str:
        """Return where Ray's logs are on this machine."""
        return f" (its logs: {self._node.get_logs_dir_path()})" if self._node is not None else ""

    def lost(self) -> str | None:
        """Return what has died, in words; None while Ray lives."""
        started = self._node.all_processes if self._node is not None else {}
        for kind in ("gcs_server", "raylet"):
            for info in started.get(kind, []):
                if (code := info.process.poll()) is not None:
                    return f"its process {kind} ended {_ending(code)}"
        if self._reported_dead:
            return "its raylet on this machine has died"
        silence = time.monotonic() - self._answered
        return f"its GCS has not answered for {silence:.0f} s" if silence > _SILENCE else None


def _ending(code: int) -> str:
    if code >= 0:
        return f"with code {code}"
    return f"by {signal.Signals(-code).name}" + (" (out of memory?)" if code == -signal.SIGKILL else "")


def run_watched(work: Callable[[], _T]) -> _T:
    """Run `work` in a thread, and leave it there if the cluster dies: nothing returns from Ray's calls then.

    `work` returns its failures; if it has none, its result is empty.

    Raises:
        ClusterLostError: Ray has died.
        Exception: what `work` raises.
    """

    def check(watch: ClusterWatch, cause: BaseException | None = None) -> None:
        if reason := watch.lost():
            raise ClusterLostError(f"Ray has died under the sweep: {reason}{watch.logs}") from cause

    result: list[_T] = []
    errors: list[BaseException] = []
    ended = threading.Event()

    def call() -> None:
        try:
            result.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            errors.append(error)
        finally:
            ended.set()

    with ClusterWatch() as watch:
        threading.Thread(target=call, daemon=True, name="retain-tune").start()
        while not ended.wait(_POLL):
            check(watch)
        if errors or result[0]:  # a result that is not empty names what has failed, perhaps because Ray has died
            check(watch, errors[0] if errors else None)
    if errors:
        raise errors[0]
    return result[0]


def leave_dead_cluster() -> None:
    """End the processes that are left of a local cluster that has died, and disconnect from it without waiting for it."""
    import ray
    from ray._private import worker

    node: Any = worker._global_node
    if node is not None:
        node.kill_all_processes(check_alive=False, allow_graceful=False)
    leaving = threading.Thread(target=ray.shutdown, daemon=True, name="retain-ray-shutdown")
    leaving.start()
    leaving.join(_LEAVE)
    if leaving.is_alive():  # what Ray has registered for the end of this process would wait too
        atexit.unregister(worker.shutdown)
        sys.excepthook = worker.normal_excepthook


def check_reachable(address: str) -> None:
    """Check that a cluster answers at an address, in seconds: ray.init tries it for a quarter of an hour.

    Args:
        address: host:port, "auto" or ray://host:port.

    Raises:
        UserError: nothing listens there, or something else than Ray.
    """
    from ray._private import services

    try:
        client = address.startswith("ray://")
        resolved = address.removeprefix("ray://") if client else services.canonicalize_bootstrap_address_or_die(address)
        host, _, port = resolved.rpartition(":")
        where = (host.strip("[]"), int(port))
    except (ConnectionError, ValueError) as error:
        raise UserError(f"ray.address={address}: {str(error).strip()} {_ADVICE}") from None
    try:
        with socket.create_connection(where, timeout=_CONNECT) as connection:
            connection.settimeout(_CONNECT)
            # with TLS the client speaks first; otherwise a gRPC server begins with a frame of settings
            tls = os.environ.get("RAY_USE_TLS", "0") == "1"
            is_ray = tls or connection.makefile("rb").read(9)[3:4] == bytes([_HTTP2_SETTINGS])
    except (OSError, OverflowError, UnicodeError) as error:
        raise UserError(f"ray.address={address}: no Ray cluster answers at {resolved}: {error}. {_ADVICE}") from None
    if not is_ray:
        raise UserError(f"ray.address={address}: what answers at {resolved} is no Ray cluster. {_ADVICE}")
