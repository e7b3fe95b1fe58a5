"""The projector: sends ledgers to Weights & Biases and writes them as TensorBoard files.

One projector follows all trials of a folder, in a separate process during the sweep (`start`, `stop`) or after it (`project`).
Its failures never reach a trial: it logs them to <folder>/projector.log and tries again.
"""

import argparse
import contextlib
import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import get_args

from filelock import FileLock, Timeout

from ..config.schema import Experiment
from ..errors import UserError
from ..ledger.reader import Trial, trials_of
from ..run_folders import outside_run_folders
from .polling import Fingerprint, PollSchedule, fingerprint
from .projector_state import ProjectorState
from .rows import Mode, ProjectorSettings
from .tensorboard_files import TensorBoardFiles
from .wandb_runs import ENDED, WandbRuns, failures, resolve_mode

PROJECTOR_STOP_FILE = ".projector-stop"  # a file of this name in the folder ends its projector
_POLL = 1.0  # seconds between two polls of the ledgers
_RETRY = 10.0  # seconds until the next attempt after a failure, doubled for a trial up to _RETRY_MAX
_RETRY_MAX = 300.0
_LAST = 20.0  # seconds in which the last poll may begin trials; W&B's timeouts (see wandb_runs) come on top
_SAVE = 5.0  # seconds between two writes of projector.json in a long poll
_log = logging.getLogger("retain.projector")


def project(
    folder: Path, settings: ProjectorSettings, *, follow: bool = False, stopped: Callable[[], bool] = lambda: False
) -> int:
    """Send everything in the ledgers of a folder's trials that W&B and TensorBoard do not have yet.

    Args:
        folder: a trial's or a sweep's; its wandb/, tensorboard/, projector.json and projector.log are written.
        settings: where to send the trials.
        follow: poll until `stopped()`, then once more; failures are logged and tried again.
        stopped: called ten times a second.

    Returns:
        How many times a trial had something new.

    Raises:
        UserError: no trial's folder, another projector is running, no key. Without `follow` also: W&B or the network
            failed, or a ledger is damaged.
    """
    trials, mode = trials_of(folder), resolve_mode(settings.mode)
    with _working(folder, stopped if follow else lambda: True):
        state = ProjectorState(folder)
        sinks: list[WandbRuns | TensorBoardFiles] = [TensorBoardFiles(folder, state)] if settings.tensorboard else []
        if mode != "disabled":
            sinks.append(WandbRuns(folder, settings, mode, state))
        projector = _Projector(trials, sinks, state)
        state.left = len(trials)  # in case this process is killed
        while follow and not stopped():
            projector.look(enough=stopped)
            _sleep(_POLL, stopped)
        limit = time.monotonic() + (_LAST if follow else math.inf)
        error = projector.look(last=True, enough=lambda: time.monotonic() > limit)
        state.left = projector.left
        if follow and state.left:
            _log.warning("%d trials are not sent completely: `retain sync %s` sends the rest", state.left, folder)
    if error is not None and not follow:
        advice = (
            ""
            if isinstance(error, UserError)
            else f". The ledgers have everything: `retain sync {folder}` sends the rest"
        )
        raise UserError(f"not all was sent: {_describe(error)}{advice}") from error
    return projector.sent


def num_unsent(folder: Path) -> int:
    """Return how many trials the folder's last projector has left to `retain sync`; 0 if there was none."""
    return ProjectorState(folder).left if (folder / "projector.json").exists() else 0


class _Projector:
    """Polls trials in turn.

    Attributes:
        sent: how many times a trial had something new.
        left: trials that the last poll did not send completely.
    """

    def __init__(
        self, trials: Sequence[Trial], sinks: "Sequence[WandbRuns | TensorBoardFiles]", state: ProjectorState
    ) -> None:
        self.sent, self.left = 0, 0
        self._trials, self._sinks, self._state = trials, sinks, state
        self._schedule = PollSchedule(trials)
        self._seen: dict[str, Fingerprint] = {}
        self._complete: set[str] = set()  # trials that had ended when they were sent
        self._pause = 0.0  # nothing is tried before this time
        self._retry: dict[str, tuple[float, float]] = {}  # trial -> time of its next attempt, and the delay after that

    def look(self, last: bool = False, enough: Callable[[], bool] = lambda: False) -> Exception | None:
        """Poll: send what is new, log failures and return the first one. A failure of W&B or `enough` ends the poll."""
        first: Exception | None = None
        trials = self._trials if last else self._schedule.next()
        self.left = len(trials)
        try:
            for trial in trials:
                if enough():
                    break
                error = self._send(trial, last)
                first = first or error
                self.left -= error is None
                self._state.keep(_SAVE)
                if error is not None and not isinstance(error, UserError):  # the next trial would most likely fail too
                    break
        finally:
            self._state.keep()
        return first

    def _send(self, trial: Trial, last: bool) -> Exception | None:
        """Send what is new of a trial; return the error if that failed."""
        current = fingerprint(trial)
        is_unchanged = self._seen.get(trial.id) == current
        if is_unchanged and (not last or trial.id in self._complete):
            return None
        if not last and time.monotonic() < max(self._pause, self._retry.get(trial.id, (0.0, 0.0))[0]):
            return None
        try:
            status = trial.status().status
            self._schedule.mark(trial, status)
            self.sent += any([sink.update(trial, last) for sink in self._sinks])
        except UserError as error:  # a damaged ledger concerns this trial only; it is tried again once it has changed
            _log.error("%s: %s", trial.id, error)
            self._seen[trial.id] = current
            return error
        except failures() as error:
            self._schedule_retry(trial, error)
            return error
        self._seen[trial.id] = current
        self._retry.pop(trial.id, None)
        if status in ENDED:
            self._complete.add(trial.id)
        else:
            self._complete.discard(trial.id)
        return None

    def _schedule_retry(self, trial: Trial, error: Exception) -> None:
        delay = self._retry.get(trial.id, (0.0, _RETRY))[1]
        self._retry[trial.id] = time.monotonic() + delay, min(2 * delay, _RETRY_MAX)
        self._pause = time.monotonic() + _RETRY
        _log.error("%s: %s (tried again in %.0f s)", trial.id, _describe(error), delay)
        for sink in self._sinks:
            sink.drop()


def _describe(error: Exception) -> str:
    """Describe an exception with its type's name: some exceptions of W&B have no message."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}".rstrip(": ")


@contextlib.contextmanager
def _working(folder: Path, impatient: Callable[[], bool]) -> Iterator[None]:
    """Log to the folder and lock it. If another projector has the lock, wait for it, or raise UserError once `impatient`."""
    lock = FileLock(folder / ".projector.lock", thread_local=False)
    while not lock.is_locked:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if impatient():
                raise UserError(
                    f"{folder} has a projector already: stop it (touch {folder / PROJECTOR_STOP_FILE}) or wait"
                ) from None
            time.sleep(0.2)
    handler = logging.FileHandler(folder / "projector.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    _log.addHandler(handler)
    try:
        yield
    finally:
        _log.removeHandler(handler)
        handler.close()
        lock.release()


def _sleep(seconds: float, stopped: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and not stopped():
        time.sleep(0.1)


def settings_for(folder: Path, config: Experiment) -> ProjectorSettings:
    """Return an experiment's projector settings; by default, the W&B group is the folder's name."""
    wandb = config.wandb
    return ProjectorSettings(
        mode=wandb.mode,
        project=wandb.project,
        entity=wandb.entity,
        group=wandb.group or folder.absolute().name,
        tags=wandb.tags,
        tensorboard=config.tensorboard,
    )


@contextlib.contextmanager
def projector_process(folder: Path, config: Experiment) -> Iterator[None]:
    """A context with a projector process; on exit, the projector sends the rest and ends.

    Does nothing if W&B is disabled and TensorBoard is off.
    """
    if config.wandb.mode == "disabled" and not config.tensorboard:
        yield
        return
    process = start(folder, settings_for(folder, config))
    try:
        yield
    finally:
        stop(process, folder)


def start(folder: Path, settings: ProjectorSettings) -> "subprocess.Popen[bytes]":
    """Start a projector that follows a folder, in a separate process that ends when this one does; see `stop`."""
    folder = folder.absolute()
    (folder / PROJECTOR_STOP_FILE).unlink(missing_ok=True)
    options = {"--mode": settings.mode, "--project": settings.project, "--entity": settings.entity}
    options |= {"--group": settings.group, "--parent": str(os.getpid())}
    command = [sys.executable, "-m", "retain.platform.reporting.projector", str(folder), "--follow"]
    command += [f"{name}={value}" for name, value in options.items() if value is not None]
    command += [f"--tag={tag}" for tag in settings.tags] + ["--tensorboard"] * settings.tensorboard
    # Do not share the W&B service of a parent that uses wandb: it may end first.
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    # start_new_session: Ctrl-C must reach the sweep only
    with outside_run_folders(), (folder / "projector.log").open("ab") as log:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )


def stop(process: "subprocess.Popen[bytes]", folder: Path, timeout: float = 120.0) -> bool:
    """Let a folder's projector poll a last time and end.

    Args:
        process: what `start` returned.
        folder: the projector's folder.
        timeout: seconds until the process is killed.

    Returns:
        False if the projector failed or had to be killed.
    """
    if process.poll() is None:
        (folder / PROJECTOR_STOP_FILE).touch()  # not a signal: it would kill a process that has not set its handler yet
    try:
        return process.wait(timeout) == 0
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        with (folder / "projector.log").open("a") as log:
            log.write(f"killed: it did not end within {timeout:.0f} s; `retain sync {folder}` sends the rest\n")
        return False


def main() -> None:
    """Run ``python -m retain.platform.reporting.projector FOLDER ...``, as `start` does."""
    parser = argparse.ArgumentParser(description="Project the ledgers of a folder to W&B and TensorBoard.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mode", choices=get_args(Mode))
    parser.add_argument("--project", default="retain")
    parser.add_argument("--entity")
    parser.add_argument("--group")
    parser.add_argument("--tag", action="append", default=[])
    parser.add_argument("--tensorboard", action="store_true")
    parser.add_argument("--follow", action="store_true")
    parser.add_argument("--parent", type=int, help="id of the process that started this one; end when it has ended")
    arguments = parser.parse_args()
    settings = ProjectorSettings(
        mode=arguments.mode,
        project=arguments.project,
        entity=arguments.entity,
        group=arguments.group,
        tags=tuple(arguments.tag),
        tensorboard=arguments.tensorboard,
    )
    _run(arguments.folder, settings, arguments.follow, arguments.parent)


def _run(folder: Path, settings: ProjectorSettings, follow: bool, parent: int | None) -> None:
    signals: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        signals.append(number)

    def stopped() -> bool:
        is_orphan = parent is not None and os.getppid() != parent
        return bool(signals) or is_orphan or (folder / PROJECTOR_STOP_FILE).exists()

    signal.signal(signal.SIGTERM, on_signal)
    os.nice(10)  # the trials have priority
    code = 0
    try:
        project(folder, settings, follow=follow, stopped=stopped)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        code = 2
    (folder / PROJECTOR_STOP_FILE).unlink(missing_ok=True)
    sys.stderr.flush()
    os._exit(code)  # skip wandb's exit hook, which would wait forever for runs whose upload has failed


if __name__ == "__main__":
    main()
