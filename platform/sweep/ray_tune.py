"""What a search needs to run its trials on Ray Tune (`search_on_ray`), and what ends a sweep early."""

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import disk_usage
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

from ..config.schema import Experiment
from ..errors import UserError
from ..ledger.reader import Trial
from ..trial.stop_request import StopRequest
from .ray_worker import DISK_FULL, GRACE_SECONDS, SWEEP_STOP_FILE, CheckpointOnSigterm, run_trial, wait_for_process


def silent_callback() -> Any:
    """Return a callback that stands in for Tune's own output on the terminal."""
    from ray.tune.progress_reporter import TrialProgressCallback

    class Silent(TrialProgressCallback):
        def on_trial_result(self, *args: Any, **kwargs: Any) -> None:
            pass

        on_trial_error = on_trial_complete = on_trial_result

    return Silent()


def set_tune_environment() -> None:
    """Turn off Tune's loggers, output and Ctrl-C handler."""
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # results are in the ledgers
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # it would end the trials without a checkpoint
    os.environ["TUNE_PRINT_ALL_TRIAL_ERRORS"] = "0"  # Ray's tracebacks; the ledger has the error
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)


def trainable(config: Experiment) -> Any:
    """Return Tune's actor: it runs `run_trial` in a thread and writes a checkpoint on SIGTERM."""
    from ray import tune
    from ray.tune.trainable import wrap_function

    def trial(settings: Mapping[str, Any]) -> None:
        run_trial(settings, tune.report)

    actor = type("Trial", (CheckpointOnSigterm, wrap_function(trial)), {})
    return tune.with_resources(actor, {"cpu": config.resources.cpus, "gpu": config.resources.gpus})


@contextmanager
def tune_storage() -> Iterator[str]:
    """A temporary folder for Tune's files: nothing reads them later, and a full disk under the ledgers must not end Tune."""
    try:
        with TemporaryDirectory(prefix="retain-tune-", ignore_cleanup_errors=True) as folder:
            yield folder
    except (OSError, EOFError) as error:
        raise UserError(
            f"{gettempdir()}: Ray Tune cannot write its files there ({type(error).__name__}: {error}; "
            f"{disk_usage(gettempdir()).free / 2**20:.0f} MB are free). Make room, or set TMPDIR to another folder."
        ) from error


class SweepStopper:
    """Decides when a sweep ends early: after a stop request, or when a trial reports a full disk.

    It then asks the running trials to write a checkpoint, and ends the sweep when none is running any more or after
    `GRACE_SECONDS`.
    """

    def __init__(self, folder: Path, trials: Sequence[Trial], stop_request: StopRequest) -> None:
        self.folder, self.trials, self.stop_request = folder, list(trials), stop_request
        self._ids = {trial.id for trial in trials}
        self.full: str | None = None  # why nothing can be written
        self._unwritable: set[str] = set()  # folders of trials that have ended but may have been unable to record it
        self._deadline: float | None = None
        self._ray_is_lost = False

    def watch(self, trial: Trial) -> None:
        """Add a trial that a search has begun."""
        if trial.id not in self._ids:
            self._ids.add(trial.id)
            self.trials.append(trial)

    def on_result(self, result: Mapping[str, Any]) -> bool:
        """Note a trial's report of a full disk; always False, since no report ends its trial."""
        if DISK_FULL in result:
            self.full = result[DISK_FULL]
            self._unwritable.add(result["folder"])
        return False

    @property
    def is_stopping(self) -> bool:
        """Return whether the sweep is to end, so that no further trial is to be begun."""
        return self._deadline is not None or self.full is not None or self.stop_request.requested()

    def should_stop(self) -> bool:
        """Return whether to end the sweep now; called about ten times a second."""
        if self._ray_is_lost:
            return True
        if self.full is None and not self.stop_request.requested():
            return False
        if self._deadline is None:
            self._ask_trials()
        awaited = (trial for trial in self.trials if str(trial.folder) not in self._unwritable)
        return self._time_left() < 0 or all(trial.status().status != "running" for trial in awaited)

    def stop_without_ray(self) -> None:
        """End the sweep after Ray has died: give trials whose processes still live the time to write a checkpoint."""
        self._ray_is_lost = True
        self._ask_trials()
        for trial in self.trials:
            if trial.status().status == "running":
                wait_for_process(trial.folder, max(0.0, self._time_left()))

    def _ask_trials(self) -> None:
        """Ask the running trials to stop."""
        self._deadline = time.monotonic() + GRACE_SECONDS
        self.stop_request.ignore_stop_file()
        with suppress(OSError):
            (self.folder / SWEEP_STOP_FILE).touch()

    def _time_left(self) -> float:
        return (self._deadline or 0.0) - time.monotonic()


def give_up_reason(error: BaseException, times: int) -> str:
    """Say why Ray gave a trial up, without Ray's terms."""
    from ray.exceptions import RayActorError

    if isinstance(error, RayActorError) and "creation task" not in str(error):
        how_often = "once" if times == 1 else f"{times} times"
        return (
            f"its process ended {how_often} without a Python error: killed (out of memory?) or hung (ray.hang_timeout); "
            f"see trial.log"
        )
    return f"its process could not run it: {type(error).__name__}: {str(error).strip().splitlines()[-1]}"
