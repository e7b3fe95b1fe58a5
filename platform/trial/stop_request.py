"""Stop a trial from outside, between two iterations: by a signal, by its caller, or by a file (`retain stop`)."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self

# Ctrl-C first: once its handler is set, nothing can interrupt setting the other
_DEFAULTS: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}

STOP_FILE = ".stop"  # in the folder of a sweep or a trial: it ends as after SIGTERM


class Stopped(SystemExit):
    """A trial has stopped because it was requested to; its progress is in its checkpoint."""


class StopRequest:
    """A context in which SIGTERM and the first Ctrl-C only request a stop: poll `requested`, then call `raise_stop`.

    Handlers are set in the main thread only, and only for signals with the default handler. A signal that has not been handled
    with `raise_stop` when the context ends is sent again.

    Attributes:
        signal: the signal that was received, or None; SIGTERM once the stop file was seen.
    """

    def __init__(self, should_stop: Callable[[], bool] = lambda: False, stop_file: Path | None = None) -> None:
        """Make a request that is not active yet.

        Args:
            should_stop: whether the caller wants the trial to stop.
            stop_file: a file that has the effect of SIGTERM as soon as it exists; None: no file.
        """
        self._should_stop = should_stop
        self._stop_file = stop_file
        self._handled: list[signal.Signals] = []  # the signals with our handler
        self.signal: int | None = None

    def requested(self) -> bool:
        """Return whether a stop is requested; this also looks for the stop file."""
        if self.signal is None and self._stop_file is not None and self._stop_file.exists():
            self.signal = signal.SIGTERM
        return self.signal is not None or self._should_stop()

    def ignore_stop_file(self) -> None:
        """Do not look for the stop file any more: the program makes it itself now, for its trials."""
        self._stop_file = None

    def raise_stop(self) -> NoReturn:
        """Raise KeyboardInterrupt for Ctrl-C, else `Stopped` with the shell's exit code for the signal (0: no signal)."""
        number, self.signal = self.signal, None
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise Stopped(0 if number is None else 128 + number)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT == self.signal:  # the second Ctrl-C: at once
            raise KeyboardInterrupt
        self.signal = number

    def __enter__(self) -> Self:
        """Set the handlers."""
        if threading.current_thread() is threading.main_thread():
            self._handled = [number for number, default in _DEFAULTS.items() if signal.getsignal(number) == default]
            for number in self._handled:
                signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the default handlers; send a signal that has not been handled again."""
        for number in self._handled:
            signal.signal(number, _DEFAULTS[number])
        if error is None and self.signal is not None:
            os.kill(os.getpid(), self.signal)
