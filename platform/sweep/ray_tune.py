"""Run trials on Ray Tune, which places them and restarts a trial whose process died. The ledgers hold the results."""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import disk_usage
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

from ..config.dotted_paths import module_path
from ..config.schema import Experiment
from ..errors import UserError
from ..ledger.reader import Trial
from ..trial.stop_request import StopRequest
from .ray_worker import DISK_FULL, GRACE_SECONDS, SWEEP_STOP_FILE, CheckpointOnSigterm, run_trial, wait_for_process


def run_tuner(config: Experiment, folder: Path, trials: Sequence[Trial], stopper: "SweepStopper") -> dict[str, str]:
    """Run one Tuner over the trials' folders.

    Only a trial whose process died is restarted. An exception in a trial is its result: the trial has failed.

    Returns:
        Trial folder name -> why Ray gave the trial up.
    """
    from ray import tune
    from ray.tune.progress_reporter import TrialProgressCallback

    class Stopper(tune.Stopper):
        def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
            return stopper.on_result(result)

        def stop_all(self) -> bool:
            return stopper.should_stop()

    class Silent(TrialProgressCallback):
        def on_trial_result(self, *args: Any, **kwargs: Any) -> None:
            pass

        on_trial_error = on_trial_complete = on_trial_result

    _set_tune_environment()
    with _tune_storage() as storage:
        tuner = tune.Tuner(
            _trainable(config),
            param_space={
                "folder": tune.grid_search([str(trial.folder) for trial in trials]),
                "sweep": str(folder),
                "path": module_path(sys.path),
            },
            tune_config=tune.TuneConfig(
                reuse_actors=True,
                max_concurrent_trials=config.ray.max_concurrent,
                trial_dirname_creator=lambda trial: Path(trial.config["folder"]).name,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=storage,
                failure_config=tune.FailureConfig(max_failures=config.ray.max_failures),
                stop=Stopper(),
                callbacks=[Silent()],
                verbose=0,
            ),
        )
        results = tuner.fit()
        ended = [results[number] for number in range(len(results))]
    times = config.ray.max_failures + 1
    return {Path(result.path).name: _reason(result.error, times) for result in ended if result.error is not None}


def _set_tune_environment() -> None:
    """Turn off Tune's loggers, output and Ctrl-C handler."""
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # results are in the ledgers
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # it would end the trials without a checkpoint
    os.environ["TUNE_PRINT_ALL_TRIAL_ERRORS"] = "0"  # Ray's tracebacks; the ledger has the error
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)


def _trainable(config: Experiment) -> Any:
    """Return Tune's actor: it runs `run_trial` in a thread and writes a checkpoint on SIGTERM."""
    from ray import tune
    from ray.tune.trainable import wrap_function

    def trial(settings: Mapping[str, Any]) -> None:
        run_trial(settings, tune.report)

    actor = type("Trial", (CheckpointOnSigterm, wrap_function(trial)), {})
    return tune.with_resources(actor, {"cpu": config.resources.cpus, "gpu": config.resources.gpus})


@contextmanager
def _tune_storage() -> Iterator[str]:
    """A temporary folder for Tune's files: nothing reads them later, and a full disk under the ledgers must not end Tune."""
    try:
        with TemporaryDirectory(prefix="retain-tune-", ignore_cleanup_errors=True) as folder:
            yield folder
    except (OSError, EOFError) as error:
        raise UserError(
            f"{gettempdir()}: Ray Tune cannot write its files there ({type(error).__name__}: {error}; "
            f"{disk_usage(gettempdir()).free / 2**20:.0f} MB are free). Make room, or set TMPDIR to another folder."
        ) from error


@contextmanager
def without_ray_sigterm_handler() -> Iterator[None]:
    """A context with the default SIGTERM handler instead of ray.init's handler, which is restored afterwards."""
    before = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or not _is_from_ray(before):
        yield
        return
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _is_from_ray(handler: Any) -> bool:
    return str(getattr(handler, "__module__", "")).startswith("ray.")


class SweepStopper:
    """Decides when a sweep ends early: after a stop request, or when a trial reports a full disk.

    It then asks the running trials to write a checkpoint, and ends the sweep when none is running any more or after
    `GRACE_SECONDS`.
    """

    def __init__(self, folder: Path, trials: Sequence[Trial], stop_request: StopRequest) -> None:
        self.folder, self.trials, self.stop_request = folder, trials, stop_request
        self.full: str | None = None  # why nothing can be written
        self._unwritable: set[str] = set()  # folders of trials that have ended but may have been unable to record it
        self._deadline: float | None = None
        self._ray_is_lost = False

    def on_result(self, result: Mapping[str, Any]) -> bool:
        """Note a trial's report of a full disk; always False, since no report ends its trial."""
        if DISK_FULL in result:
            self.full = result[DISK_FULL]
            self._unwritable.add(result["folder"])
        return False

    def should_stop(self) -> bool:
        """Return whether to end the sweep now; Tune calls this about ten times a second."""
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
        with suppress(OSError):
            (self.folder / SWEEP_STOP_FILE).touch()

    def _time_left(self) -> float:
        return (self._deadline or 0.0) - time.monotonic()


def _reason(error: BaseException, times: int) -> str:
    """Say why Ray gave a trial up, without Ray's terms."""
    from ray.exceptions import RayActorError

    if isinstance(error, RayActorError) and "creation task" not in str(error):
        how_often = "once" if times == 1 else f"{times} times"
        return (
            f"its process ended {how_often} without a Python error: killed (out of memory?) or hung (ray.hang_timeout); "
            f"see trial.log"
        )
    return f"its process could not run it: {type(error).__name__}: {str(error).strip().splitlines()[-1]}"
