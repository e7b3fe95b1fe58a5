"""Run trials in a Ray worker: run or resume one, stop it on request, record in its ledger how it ended."""

import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import FileLock, Timeout

from ..config.load import from_dict
from ..config.schema import seconds
from ..disk_errors import unwritable_reason
from ..ledger.pruned_record import pruned_in
from ..ledger.reader import StatusName, Trial, status_of
from ..ledger.writer import InUseError, write_status
from ..trial.stop_request import STOP_FILE, Stopped

SWEEP_STOP_FILE = STOP_FILE  # while a sweep's folder has a file of this name, its trials write a checkpoint and end
DISK_FULL = "retain_disk"  # key of a report to the driver: why nothing can be written any more
GRACE_SECONDS = 20.0  # time for a running trial to write its last checkpoint
_sigterm_received = threading.Event()
_trial_running = threading.Lock()  # held while a trial runs in this process
_frozen = False  # whether `collect_garbage` has frozen what then existed
Report = Callable[[dict[str, Any]], None]


def run_trial(settings: Mapping[str, Any], report: Report) -> None:
    """Run a folder's trial, or resume it.

    Args:
        settings: `folder`: the trial's; `sweep`: the sweep's folder; `path`: the driver's module search path.
        report: called with the metrics after each experience, or with {DISK_FULL: reason, "folder": the trial's}.
    """
    os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", "60")  # a slow end of one trial must not fail the next
    # the user's modules must be importable here too; Ray has put the working directory first, which would hide others
    sys.path[:] = [*(path for path in sys.path if path and path not in settings["path"]), *settings["path"]]
    folder, stop = Path(settings["folder"]), Path(settings["sweep"]) / SWEEP_STOP_FILE
    with _trial_running, failures_to_ledger(folder, report):
        wait_for_process(folder, 1.5 * GRACE_SECONDS)
        if stop.exists():
            raise Stopped
        from ..trial.run import run

        collect_garbage()
        config = from_dict(Trial(folder).config())
        timeout = None if config.ray.hang_timeout is None else seconds("ray.hang_timeout", config.ray.hang_timeout)
        run(
            config,
            folder,
            identity=Trial(folder).identity,
            report=report,
            stopped=lambda: _sigterm_received.is_set() or stop.exists(),
            timeout=timeout,
        )


def collect_garbage() -> None:
    """Free reference cycles of earlier trials, such as those of learner and plugins.

    Python starts a collection by the number of objects, not by the bytes of their tensors. The first call freezes all
    objects that then exist, so that later collections take milliseconds.
    """
    global _frozen  # asking gc.get_freeze_count walks over all of them
    gc.collect()
    if not _frozen and "torch" in sys.modules:
        _frozen = True
        gc.freeze()


def wait_for_process(folder: Path, timeout: float) -> None:
    """Wait for the trial's lock, at most `timeout` seconds: a process that was told to end may still write a checkpoint."""
    with suppress(Timeout):  # opening the ledger then raises InUseError
        FileLock(folder / ".lock", thread_local=False).acquire(timeout=timeout).lock.release()


class Worker:
    """An actor of `ray_pool`: a process that runs one trial after another.

    On SIGTERM (a machine that is taken away), the trial writes a checkpoint first. Then, or if it needs more than
    `GRACE_SECONDS`, the process ends.
    """

    def __init__(self) -> None:
        """Import what every trial needs, while the driver checks the trials."""
        from ..trial import run  # noqa: F401

        self._exit: Any = signal.signal(signal.SIGTERM, self._on_sigterm)  # Ray's handler

    def ready(self) -> None:
        """Return once the worker has started."""

    def run(self, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """Run a trial as `run_trial` does; return its report of a full disk, or None."""
        reports: list[dict[str, Any]] = []
        run_trial(settings, lambda report: reports.append(report) if DISK_FULL in report else None)
        if _sigterm_received.is_set():
            sys.exit(1)
        return reports[-1] if reports else None

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        if not _trial_running.locked():
            self._exit(number, frame)
        _sigterm_received.set()
        late = threading.Timer(GRACE_SECONDS, os._exit, [1])
        late.daemon = True
        late.start()


class CheckpointOnSigterm:
    """A mixin for Tune's actor: on SIGTERM (a machine that is taken away), let the trial write a checkpoint first.

    Ray's handler raises SystemExit in the main thread, which waits in `step` for the reports of the trial's thread.
    """

    def step(self) -> Any:
        """Wait for the trial's next report."""
        try:
            return super().step()  # type: ignore[misc]
        except SystemExit:
            _sigterm_received.set()
            if _trial_running.acquire(timeout=GRACE_SECONDS):
                _trial_running.release()
            raise


@contextmanager
def failures_to_ledger(folder: Path, report: Report) -> Iterator[None]:
    """A context that records a trial's exception in its ledger and swallows it: Ray would only run the trial again.

    A trial that finds the disk full is "stopped", not "failed": it can be resumed once there is room. `report` then gets
    the reason. InUseError is raised on: another process writes the ledger, and Ray tries again.
    """
    try:
        yield
    except Stopped:
        if status_of(folder).status == "running":  # its last process was killed, and this one had not started it yet
            set_status_unless_final(folder, "stopped", None)
    except SystemExit:  # Tune ends the trial: the sweep stops, or a search's scheduler has decided
        if (reason := pruned_in(folder)) is not None:
            set_status_unless_final(folder, "pruned", reason)
        raise
    except InUseError:
        raise
    except Exception as error:  # noqa: BLE001 - any exception of a trial is its result
        reason = unwritable_reason(error)
        if reason is None:
            set_status_unless_final(folder, "failed", f"{type(error).__name__}: {error}")
        else:
            with suppress(OSError):
                set_status_unless_final(folder, "stopped", reason, even_if_failed=True)
            report({DISK_FULL: reason, "folder": str(folder)})


def set_status_unless_final(
    folder: Path, status: StatusName, error: str | None, *, even_if_failed: bool = False
) -> None:
    """Set a trial's state unless it is "done", or "failed" without `even_if_failed`."""
    before = status_of(folder)
    if before.status != "done" and (even_if_failed or before.status != "failed"):
        write_status(folder, status, before.experience, error)
