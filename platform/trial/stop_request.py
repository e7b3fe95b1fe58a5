"""How a trial is stopped from outside: by a signal or by whoever runs it, between two iterations; and how a hung one ends."""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self

# Ctrl-C first: from then on nothing interrupts the setting of the other
_DEFAULTS: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


class Stopped(SystemExit):
    """A trial has stopped because it was asked to; what it had done is in its checkpoint."""


class StopRequest:
    """A context in which SIGTERM and the first Ctrl-C are wishes, asked for with `wanted` and fulfilled with `stop`.

    Handlers are set in the main thread only, and only where the program has none of its own. A wish that nobody has asked
    about when the context ends is a signal again.
    """

    def __init__(self, asked: Callable[[], bool] = lambda: False) -> None:
        """`asked`: whether whoever runs the trial wants it to stop."""
        self._asked = asked
        self._before: list[signal.Signals] = []
        self.signal: int | None = None  # the one that came

    def requested(self) -> bool:
        """Whether the trial is to stop."""
        return self.signal is not None or self._asked()

    def raise_stop(self) -> NoReturn:
        """End as the wish asks for: KeyboardInterrupt for Ctrl-C, else `Stopped` with the shell's exit code for the signal."""
        number, self.signal = self.signal, None
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise Stopped(0 if number is None else 128 + number)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT == self.signal:  # the second Ctrl-C: at once
            raise KeyboardInterrupt
        self.signal = number

    def __enter__(self) -> Self:
        """Set the handlers."""
        if threading.current_thread() is threading.main_thread():
            self._before = [number for number, default in _DEFAULTS.items() if signal.getsignal(number) == default]
            for number in self._before:
                signal.signal(number, self._heard)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the handlers back."""
        for number in self._before:
            signal.signal(number, _DEFAULTS[number])
        if error is None and self.signal is not None:
            os.kill(os.getpid(), self.signal)
