"""What a worker of Ray's does with one trial: run it, stop it when that is asked for, and write into its ledger how it ended."""

import gc
import os
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from ..config.load import from_dict
from ..config.schema import seconds
from ..disk_errors import unwritable_reason
from ..ledger.reader import State, Trial, status_of
from ..ledger.writer import InUseError, write_status
from ..trial.stop_request import Stopped

STOP_FILE = ".stop"  # while a sweep's folder has a file of this name, its trials write a checkpoint and end
DISK_FULL = "retain_disk"  # reported to the driver: why nothing can be written any more
GRACE_SECONDS = 20.0  # seconds that trials have for it
_leaving = threading.Event()  # this process is to end
_trial = threading.Lock()  # held while a trial runs in this process
Report = Callable[[dict[str, Any]], None]


def run_trial(settings: Mapping[str, Any], report: Report) -> None:
    """Run the trial of a folder, or what is left of it.

    Args:
        settings: the trial's `folder`, the `sweep`'s, and the `path` that modules are looked for in.
        report: takes the metrics after each experience, or {FULL: reason} when the disk is full.
    """
    os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", "60")  # a slow end of one trial must not fail the next
    for path in settings["path"]:  # so that the user's own modules are found here too
        if path not in sys.path:
            sys.path.append(path)
    folder, stop = Path(settings["folder"]), Path(settings["sweep"]) / STOP_FILE
    with _trial, failures_to_ledger(folder, report):
        _wait_for_the_one_before(folder)
        if stop.exists():
            raise Stopped
        from ..trial.run import run

        _collect()
        config = from_dict(Trial(folder).config())
        timeout = None if config.ray.hang_timeout is None else seconds("ray.hang_timeout", config.ray.hang_timeout)
        run(
            config,
            folder,
            identity=Trial(folder).identity,
            report=report,
            stopped=lambda: _leaving.is_set() or stop.exists(),
            timeout=timeout,
        )


def _collect() -> None:
    """Free what earlier trials hold in cycles, as learner and plugins do: Python counts objects, not the bytes of tensors.

    What is there before the second trial stays out of later collections, so that each takes milliseconds.
    """
    gc.collect()
    if not gc.get_freeze_count() and "avalanche" in sys.modules:
        gc.freeze()


def _wait_for_the_one_before(folder: Path) -> None:
    """A process that was told to end may still be writing its last checkpoint when Ray starts the trial again elsewhere."""
    with suppress(Timeout):  # the ledger itself will say who has it
        FileLock(folder / ".lock", thread_local=False).acquire(timeout=1.5 * GRACE_SECONDS).lock.release()


class CheckpointOnSigterm:
    """Mixed into Tune's actor: a worker that gets SIGTERM (a machine that is taken away) lets its trial write a checkpoint.

    Ray's handler raises SystemExit in the main thread, which waits in `step` for what the trial's thread reports.
    """

    def step(self) -> Any:
        """Wait for the trial's next report."""
        try:
            return super().step()  # type: ignore[misc]
        except SystemExit:
            _leaving.set()
            if _trial.acquire(timeout=GRACE_SECONDS):
                _trial.release()
            raise


class failures_to_ledger:
    """Keeps a trial's exception in its ledger, where it is a result: Ray would run it again, to the same end."""

    def __init__(self, folder: Path, report: Report) -> None:
        self.folder, self.report = folder, report

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, Stopped):
            if status_of(self.folder).status == "running":  # killed, and not begun again
                set_status_unless_final(self.folder, "stopped", None)
            return True
        if not isinstance(error, Exception) or isinstance(error, InUseError):
            return False  # the latter: its writer lives, and says how it ends; Ray tries again
        reason = unwritable_reason(error)
        if reason is None:
            set_status_unless_final(self.folder, "failed", f"{type(error).__name__}: {error}")
        else:  # no fault of the trial's, which can go on once there is room
            with suppress(OSError):
                set_status_unless_final(self.folder, "stopped", reason, over=True)
            self.report({DISK_FULL: reason, "folder": str(self.folder)})
        return True


def set_status_unless_final(folder: Path, status: State, error: str | None, *, over: bool = False) -> None:
    """Set a trial's state, unless it has already come to an end of its own (`over`: even if it says that it failed)."""
    before = status_of(folder)
    if before.status != "done" and (over or before.status != "failed"):
        write_status(folder, status, before.experience, error)
