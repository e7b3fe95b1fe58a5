"""Ledgers -> Weights & Biases and TensorBoard.

One projector follows all trials of a folder, in a process of its own beside the sweep (`start`, `stop`) or after it
(`project`). No failure here reaches a trial: it is told in <folder>/projector.log and tried again.
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

STOP_FILE = ".projector-stop"  # a file of this name in the folder ends its projector
_POLL = 1.0  # seconds between two looks at the ledgers
_RETRY = 10.0  # seconds until the next attempt after a failure, doubled for a trial up to _RETRY_MAX
_RETRY_MAX = 300.0
_LAST = 20.0  # seconds in which the last look begins what it begins; W&B's own limits (runs.py) come on top
_SAVE = 5.0  # seconds between two writings of the book in a long look
_log = logging.getLogger("retain.projector")


def project(
    folder: Path, settings: ProjectorSettings, *, follow: bool = False, stopped: Callable[[], bool] = lambda: False
) -> int:
    """Send what W&B and TensorBoard lack of a folder's trials, from their ledgers.

    Args:
        folder: a trial's or a sweep's; its wandb/, tensorboard/, projector.json and projector.log are written.
        settings: what to project to.
        follow: go on until `stopped()`, then once more; failures are logged and tried again.
        stopped: asked ten times a second.

    Returns:
        how many times a trial had something new.

    Raises:
        UserError: no trial's folder, another projector is at work, no key; without `follow` also: W&B or the network
            failed, or a ledger is damaged.
    """
    trials, mode = trials_of(folder), resolve_mode(settings.mode)
    with _working(folder, stopped if follow else lambda: True):
        book = ProjectorState(folder)
        sinks: list[WandbRuns | TensorBoardFiles] = [TensorBoardFiles(folder, book)] if settings.tensorboard else []
        if mode != "disabled":
            sinks.append(WandbRuns(folder, settings, mode, book))
        projector = _Projector(trials, sinks, book)
        book.left = len(trials)  # until we know better
        while follow and not stopped():
            projector.look(enough=stopped)
            _sleep(_POLL, stopped)
        limit = time.monotonic() + (_LAST if follow else math.inf)
        error = projector.look(last=True, enough=lambda: time.monotonic() > limit)
        book.left = projector.left
        if follow and book.left:
            _log.warning("%d trials are not sent to their end: `retain sync %s` goes on", book.left, folder)
    if error is not None and not follow:
        advice = "" if isinstance(error, UserError) else f". The ledger has everything: `retain sync {folder}` goes on"
        raise UserError(f"not all was sent: {_told(error)}{advice}") from error
    return projector.sent


def num_unsent(folder: Path) -> int:
    """How many trials the folder's last projector has left to `retain sync`; 0 where there was none."""
    return ProjectorState(folder).left if (folder / "projector.json").exists() else 0


class _Projector:
    """Looks at trials in turn; `sent` counts how often one had something new, `left` what the last look did not reach."""

    def __init__(
        self, trials: Sequence[Trial], sinks: "Sequence[WandbRuns | TensorBoardFiles]", book: ProjectorState
    ) -> None:
        self.sent, self.left = 0, 0
        self._trials, self._sinks, self._book = trials, sinks, book
        self._rounds = PollSchedule(trials)
        self._seen: dict[str, Fingerprint] = {}
        self._complete: set[str] = set()  # ended, as seen
        self._pause = 0.0  # nothing is tried before this time
        self._retry: dict[str, tuple[float, float]] = {}  # trial -> when it is tried again, and the delay after that

    def look(self, last: bool = False, enough: Callable[[], bool] = lambda: False) -> Exception | None:
        """Send what is new; return the first failure, which is logged. A failure of W&B, or `enough`, ends the look."""
        first: Exception | None = None
        trials = self._trials if last else self._rounds.next()
        self.left = len(trials)
        try:
            for trial in trials:
                if enough():
                    break
                error = self._send(trial, last)
                first = first or error
                self.left -= error is None
                self._book.keep(_SAVE)
                if error is not None and not isinstance(error, UserError):  # most likely also the next trial's
                    break
        finally:
            self._book.keep()
        return first

    def _send(self, trial: Trial, last: bool) -> Exception | None:
        """Send what is new of a trial; return what went wrong."""
        found = fingerprint(trial)
        known = self._seen.get(trial.id) == found
        if known and (not last or trial.id in self._complete):
            return None
        if not last and time.monotonic() < max(self._pause, self._retry.get(trial.id, (0.0, 0.0))[0]):
            return None
        try:
            state = trial.status().status
            self._rounds.mark(trial, state)
            self.sent += any([sink.update(trial, last) for sink in self._sinks])
        except UserError as error:  # a damaged ledger: only this trial's, until it changes
            _log.error("%s: %s", trial.id, error)
            self._seen[trial.id] = found
            return error
        except failures() as error:
            self._failed(trial, error)
            return error
        self._seen[trial.id] = found
        self._retry.pop(trial.id, None)
        if state in ENDED:
            self._complete.add(trial.id)
        else:
            self._complete.discard(trial.id)
        return None

    def _failed(self, trial: Trial, error: Exception) -> None:
        delay = self._retry.get(trial.id, (0.0, _RETRY))[1]
        self._retry[trial.id] = time.monotonic() + delay, min(2 * delay, _RETRY_MAX)
        self._pause = time.monotonic() + _RETRY
        _log.error("%s: %s (tried again in %.0f s)", trial.id, _told(error), delay)
        for sink in self._sinks:
            sink.drop()


def _told(error: Exception) -> str:
    """Say what an exception is about: some of W&B's have no message."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}".rstrip(": ")


@contextlib.contextmanager
def _working(folder: Path, impatient: Callable[[], bool]) -> Iterator[None]:
    """Log to the folder, and keep a second projector out: it waits for the first one's end until it is `impatient`."""
    lock = FileLock(folder / ".projector.lock", thread_local=False)
    while not lock.is_locked:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if impatient():
                raise UserError(
                    f"{folder} has a projector already: stop it (touch {folder / STOP_FILE}) or wait"
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
    """What an experiment says of its projection; its W&B group is by default the folder's name."""
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
    """A projector with an experiment's settings beside what happens within; it has the last word afterwards."""
    if config.wandb.mode == "disabled" and not config.tensorboard:
        yield
        return
    process = start(folder, settings_for(folder, config))
    try:
        yield
    finally:
        stop(process, folder)


def start(folder: Path, settings: ProjectorSettings) -> "subprocess.Popen[bytes]":
    """Start a projector that follows a folder, in a process of its own that ends with this one; see `stop`."""
    folder = folder.absolute()
    (folder / STOP_FILE).unlink(missing_ok=True)
    options = {"--mode": settings.mode, "--project": settings.project, "--entity": settings.entity}
    options |= {"--group": settings.group, "--parent": str(os.getpid())}
    command = [sys.executable, "-m", "retain.platform.reporting.projector", str(folder), "--follow"]
    command += [f"{name}={value}" for name, value in options.items() if value is not None]
    command += [f"--tag={tag}" for tag in settings.tags] + ["--tensorboard"] * settings.tensorboard
    # a service of its own: that of a parent which uses wandb may end before
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    # a session of its own: Ctrl-C is for the sweep
    with outside_run_folders(), (folder / "projector.log").open("ab") as log:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )


def stop(process: "subprocess.Popen[bytes]", folder: Path, timeout: float = 120.0) -> bool:
    """Let a folder's projector look a last time and end; False when it had to be killed (seconds) or had failed."""
    if process.poll() is None:
        (folder / STOP_FILE).touch()  # no signal: that would end one which has not yet begun to listen
    try:
        return process.wait(timeout) == 0
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        with (folder / "projector.log").open("a") as log:
            log.write(f"killed: it did not end within {timeout:.0f} s; `retain sync {folder}` goes on\n")
        return False


def main() -> None:
    """``python -m retain.platform.reporting.projector FOLDER ...``: what `start` runs."""
    parser = argparse.ArgumentParser(description="Project the ledgers of a folder to W&B and TensorBoard.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mode", choices=get_args(Mode))
    parser.add_argument("--project", default="retain")
    parser.add_argument("--entity")
    parser.add_argument("--group")
    parser.add_argument("--tag", action="append", default=[])
    parser.add_argument("--tensorboard", action="store_true")
    parser.add_argument("--follow", action="store_true")
    parser.add_argument("--parent", type=int, help="end when this process, which started us, is gone")
    given = parser.parse_args()
    settings = ProjectorSettings(
        mode=given.mode,
        project=given.project,
        entity=given.entity,
        group=given.group,
        tags=tuple(given.tag),
        tensorboard=given.tensorboard,
    )
    _run(given.folder, settings, given.follow, given.parent)


def _run(folder: Path, settings: ProjectorSettings, follow: bool, parent: int | None) -> None:
    signals: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        signals.append(number)

    def stopped() -> bool:
        orphan = parent is not None and os.getppid() != parent
        return bool(signals) or orphan or (folder / STOP_FILE).exists()

    signal.signal(signal.SIGTERM, note)
    os.nice(10)  # the sweep has the right of way
    code = 0
    try:
        project(folder, settings, follow=follow, stopped=stopped)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        code = 2
    (folder / STOP_FILE).unlink(missing_ok=True)
    sys.stderr.flush()
    os._exit(code)  # at once: wandb's own exit would wait without end for runs whose upload has failed


if __name__ == "__main__":
    main()
