"""Lock the folder that a projector writes, and log to it."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import UserError

PROJECTOR_STOP_FILE = ".projector-stop"  # a file of this name in the folder ends its projector
_log = logging.getLogger("retain.projector")


@contextlib.contextmanager
def working(folder: Path, impatient: Callable[[], bool]) -> Iterator[None]:
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
    with contextlib.ExitStack() as stack:
        stack.callback(lock.release)
        stack.callback(setattr, logging, "raiseExceptions", logging.raiseExceptions)
        logging.raiseExceptions = False  # a log that cannot be written, on a full disk, is no reason for more messages
        handler = logging.FileHandler(folder / "projector.log", encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        _log.addHandler(handler)
        stack.callback(_log.removeHandler, handler)
        stack.callback(_close, handler)
        yield


def _close(handler: logging.Handler) -> None:
    """Close a log; on a full disk its last lines are lost."""
    with contextlib.suppress(OSError):
        handler.close()
