"""What SIGTERM does to a sweep's driver: before and after the trials it ends the process, while they run it stops them."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """A context in which SIGTERM raises SystemExit in the main thread, as ray.init's handler does, unless it has a handler.

    The default would end the process without a word, and without a chance to end Ray's.
    """
    is_default = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if threading.current_thread() is not threading.main_thread() or not is_default:
        yield
        return
    signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _exit(number: int, frame: FrameType | None) -> None:
    sys.exit(number)


@contextmanager
def default_sigterm() -> Iterator[None]:
    """A context with the default SIGTERM handler instead of that of ray.init or `exit_on_sigterm`, restored afterwards."""
    before = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or not _only_exits(before):
        yield
        return
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _only_exits(handler: Any) -> bool:
    return handler is _exit or str(getattr(handler, "__module__", "")).startswith("ray.")
