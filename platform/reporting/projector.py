"""The projector: sends ledgers to Weights & Biases and writes them as TensorBoard files.

One projector follows all trials of a folder, in a separate process during the sweep (`start`, `stop`) or after it (`project`).
Its failures never reach a trial: it logs them to <folder>/projector.log and tries again.
"""

import contextlib
import json
import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import IO

from ..config.schema import Experiment
from ..errors import UserError
from ..ledger.reader import Trial, trials_of
from .late_start import LateStart
from .polling import Fingerprint, NewTrials, PollSchedule, fingerprint
from .projector_folder import PROJECTOR_STOP_FILE as PROJECTOR_STOP_FILE
from .projector_folder import working
from .projector_state import ProjectorState, signature
from .rows import ProjectorSettings
from .tensorboard_files import TensorBoardFiles
from .wandb_account import isolated, resolve_mode
from .wandb_runs import ENDED, WandbRuns

_POLL = 1.0  # seconds between two polls of the ledgers
_RETRY = 10.0  # seconds until the next attempt after a failure, doubled for a trial up to _RETRY_MAX
_RETRY_MAX = 300.0
_LAST = 20.0  # seconds in which the last poll may begin trials; W&B's timeouts (see wandb_runs) come on top
_STOP = 120.0  # seconds until a projector that was told to end is killed
_NICE = 10  # the process's nice value
_SAVE = 5.0  # seconds between two writes of projector.json in a long poll
_REFUSED = 2  # exit code after a UserError: another attempt would fail too
_log = logging.getLogger("retain.projector")


def project(
    folder: Path, settings: ProjectorSettings, *, follow: bool = False, stopped: Callable[[], bool] = lambda: False
) -> int:
    """Send everything in the ledgers of a folder's trials that W&B and TensorBoard do not have yet.

    W&B runs in an empty working directory and without the environment variables of an outer W&B run: call this where no other
    thread depends on them. What W&B refuses does not keep TensorBoard's files from being written.

    Args:
        folder: a trial's or a sweep's; its wandb/, tensorboard/, projector.json and projector.log are written.
        settings: where to send the trials.
        follow: poll until `stopped()`, then once more; failures are logged and tried again.
        stopped: called ten times a second.

    Returns:
        How many times a trial had something new.

    Raises:
        UserError: no trial's folder, another projector is running, no valid key. Without `follow` also: W&B or the network
            failed, or a ledger is damaged.
    """
    folder, refused = folder.absolute(), None
    trials = trials_of(folder)
    try:
        mode = resolve_mode(settings.mode)
    except UserError as error:
        mode, refused = "disabled", error
    settings = replace(settings, mode=mode)
    try:
        with (
            working(folder, stopped if follow else lambda: True),
            isolated() if mode != "disabled" else contextlib.nullcontext(),
        ):
            projectors, new = _projectors(folder, trials, settings), NewTrials(folder, trials)
            while follow and projectors and not stopped():
                for projector in projectors:
                    projector.look(enough=stopped)
                _sleep(_POLL, stopped)
                _add(projectors, new.find())
            _add(projectors, new.find())
            limit = time.monotonic() + (_LAST if follow else math.inf)
            errors = [projector.look(last=True, enough=lambda: time.monotonic() > limit) for projector in projectors]
            if follow and (unsent := num_unsent(folder, settings)):
                _log.warning("%d trials are not sent completely: `retain sync %s` sends the rest", unsent, folder)
    except OSError as error:  # projector.json, the log or the lock; errors of a trial are returned by `look`
        raise UserError(f"{folder} cannot be written: {error.strerror or error}") from error
    failed = next((error for error in (refused, *errors) if error is not None), None)
    if refused is not None or (failed is not None and not follow):
        rest = f". The ledgers have everything: `retain sync {folder}` sends the rest"
        advice = "" if isinstance(failed, UserError) else rest
        raise UserError(f"not all was sent: {_describe(failed)}{advice}") from failed
    return sum(projector.sent for projector in projectors)


def _add(projectors: "Sequence[_Projector]", trials: Sequence[Trial]) -> None:
    for projector in projectors:
        projector.add(trials)


def _projectors(folder: Path, trials: Sequence[Trial], settings: ProjectorSettings) -> "list[_Projector]":
    """Return a projector for each of TensorBoard and W&B that is wanted, so that neither waits for the other's failures."""
    state = ProjectorState(folder)
    sinks: list[WandbRuns | TensorBoardFiles] = [TensorBoardFiles(folder, state)] if settings.tensorboard else []
    if settings.mode not in (None, "disabled"):
        sinks.append(WandbRuns(folder, settings, settings.mode, state))
    return [_Projector(trials, [sink], state) for sink in sinks]


def num_unsent(folder: Path, settings: ProjectorSettings) -> int:
    """Return how many of a folder's trials W&B or TensorBoard, if `settings` ask for them, do not have completely.

    Their ledgers are compared with what projector.json says was sent, so a projector that was killed counts, too.
    """
    state = ProjectorState(folder) if (folder / "projector.json").exists() else None
    mode = settings.mode or os.environ.get("WANDB_MODE")
    if mode == "disabled" and not settings.tensorboard:  # reading all ledgers for their signatures takes time
        return 0

    def is_sent(trial: Trial) -> bool:
        if trial.status().status == "pending":
            return True
        entry, digest = (state.entry(trial) if state else {}), signature(trial)
        in_wandb = entry.get("signature") == digest and (mode is None or entry["mode"] in (mode, "online"))
        in_tensorboard = entry.get("tensorboard") == digest
        return (in_wandb or mode == "disabled") and (in_tensorboard or not settings.tensorboard)

    return sum(not is_sent(trial) for trial in trials_of(folder))


class _Projector:
    """Polls trials in turn.

    Attributes:
        sent: how many times a trial had something new.
    """

    def __init__(
        self, trials: Sequence[Trial], sinks: "Sequence[WandbRuns | TensorBoardFiles]", state: ProjectorState
    ) -> None:
        self.sent = 0
        self._trials, self._sinks, self._state = list(trials), sinks, state
        self._schedule = PollSchedule(trials)
        self._seen: dict[str, Fingerprint] = {}
        self._complete: set[str] = set()  # trials that had ended when they were sent
        self._pause = 0.0  # nothing is tried before this time
        self._retry: dict[str, tuple[float, float]] = {}  # trial -> time of its next attempt, and the delay after that

    def add(self, trials: Sequence[Trial]) -> None:
        """Add trials that the sweep has begun."""
        self._trials += trials
        self._schedule.add(trials)

    def look(self, last: bool = False, enough: Callable[[], bool] = lambda: False) -> Exception | None:
        """Poll: send what is new, log failures and return the first one. A failure of W&B or `enough` ends the poll."""
        first: Exception | None = None
        trials = self._trials if last else self._schedule.next()
        try:
            for trial in trials:
                if enough():
                    break
                error = self._send(trial, last)
                first = first or error
                self._keep(_SAVE)
                if error is not None and not isinstance(error, UserError):  # the next trial would most likely fail too
                    break
        finally:
            self._keep()
        return first

    def _keep(self, seconds: float = 0.0) -> None:
        """Write projector.json if it has changed; on a full disk, the next call tries again."""
        try:
            self._state.keep(seconds)
        except OSError as error:
            _log.error("projector.json: %s", error)

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
        except Exception as error:  # noqa: BLE001 - W&B's exceptions share no base class, and none may end the projector
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
        is_foreign = isinstance(error, OSError) or type(error).__module__.startswith(("wandb", "pydantic"))
        _log.error(
            "%s: %s (tried again in %.0f s)",
            trial.id,
            _describe(error),
            delay,
            exc_info=None if is_foreign else error,
        )
        for sink in self._sinks:
            sink.drop()


def _describe(error: Exception | None) -> str:
    """Describe an exception with its type's name: some exceptions of W&B have no message."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}".rstrip(": ")


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

    Does nothing if W&B is disabled and TensorBoard is off. Whatever happens to the process, the trials are not concerned: one
    that has died is started again for the rest, and if that fails, TensorBoard's files are written here. `num_unsent` tells
    what W&B does not have.
    """
    settings = settings_for(folder, config)
    if (settings.mode or os.environ.get("WANDB_MODE")) == "disabled" and not settings.tensorboard:
        yield
        return
    # its imports must not delay the first trials
    late = LateStart(lambda: _has_begun(folder), lambda: _try_to_start(folder, settings), _POLL)
    try:
        yield
    finally:
        if not _finish(late.end(), folder, settings) and settings.tensorboard:
            with contextlib.suppress(UserError):  # `num_unsent` tells
                project(folder, replace(settings, mode="disabled"))


def _has_begun(folder: Path) -> bool:
    """Return whether any trial has written an event."""
    for path in (folder, *(folder / "trials").glob("*")):
        with contextlib.suppress(OSError):
            if (path / "metrics.jsonl").stat().st_size > 0:
                return True
    return False


def _finish(process: "subprocess.Popen[bytes] | None", folder: Path, settings: ProjectorSettings) -> bool:
    """Stop a projector; if its process has died, start another one for the rest. Return whether the last one succeeded."""
    end = time.monotonic() + _STOP
    for _ in range(2):
        process = process or _try_to_start(folder, settings)
        if process is None:
            break
        if stop(process, folder, max(0.0, end - time.monotonic())):
            return True
        if process.returncode == _REFUSED or time.monotonic() > end:
            break
        process = None
    return False


def _try_to_start(folder: Path, settings: ProjectorSettings) -> "subprocess.Popen[bytes] | None":
    """Start a projector; None if the folder cannot be written or the system has no more processes."""
    try:
        return start(folder, settings)
    except OSError:
        return None


def start(folder: Path, settings: ProjectorSettings) -> "subprocess.Popen[bytes]":
    """Start a projector that follows a folder, in a separate process that ends when this one does; see `stop`."""
    folder = folder.absolute()
    (folder / PROJECTOR_STOP_FILE).unlink(missing_ok=True)
    # UTF-8 whatever the locale is: W&B writes files in the locale's encoding. -P: the working directory may hold any modules
    command = [sys.executable, "-P", "-X", "utf8", "-m", "retain.platform.reporting.projector", str(folder)]
    # start_new_session: Ctrl-C must reach the sweep only
    with (folder / "projector.log").open("ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True)
    with contextlib.suppress(OSError, AttributeError):  # AttributeError: on Windows
        os.setpriority(os.PRIO_PROCESS, process.pid, _NICE)  # the trials have priority
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin as stdin:  # broken: it has died, and `stop` says so
        stdin.write(json.dumps({**asdict(settings), "parent": os.getpid()}).encode())
    return process


def stop(process: "subprocess.Popen[bytes]", folder: Path, timeout: float = _STOP) -> bool:
    """Let a folder's projector poll a last time and end.

    Args:
        process: what `start` returned.
        folder: the projector's folder.
        timeout: seconds until the process is killed.

    Returns:
        False if the projector failed or had to be killed.
    """
    if process.poll() is None:
        try:  # not a signal first: it would kill a process that has not set its handler yet
            (folder / PROJECTOR_STOP_FILE).touch()
        except OSError:
            process.terminate()
    reason = ""
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        reason = f" (killed: it did not end within {timeout:.0f} s)"
    if process.returncode not in (0, _REFUSED):
        with contextlib.suppress(OSError), (folder / "projector.log").open("a", encoding="utf-8") as log:
            log.write(f"the projector's process ended with exit code {process.returncode}{reason}\n")
    return process.returncode == 0


def main(folder: Path, settings: IO[bytes]) -> None:
    """Follow a folder, with the settings that `start` writes as JSON."""
    given = json.load(settings)
    parent = given.pop("parent")
    _run(folder, ProjectorSettings(**{**given, "tags": tuple(given["tags"])}), parent)


def _run(folder: Path, settings: ProjectorSettings, parent: int) -> None:
    signals: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        signals.append(number)

    def stopped() -> bool:
        return bool(signals) or os.getppid() != parent or (folder / PROJECTOR_STOP_FILE).exists()

    signal.signal(signal.SIGTERM, on_signal)
    code = 0
    try:
        project(folder, settings, follow=True, stopped=stopped)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        code = _REFUSED
    (folder / PROJECTOR_STOP_FILE).unlink(missing_ok=True)
    sys.stderr.flush()
    os._exit(code)  # skip wandb's exit hook, which would wait forever for runs whose upload has failed


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.stdin.buffer)
