"""End a trial's process when it hangs: no iteration for too long."""

import faulthandler
from types import TracebackType
from typing import Self, TextIO


class Watchdog:
    """A context that ends the process (exit code 1) if `reset` is not called for `timeout` seconds; None: never.

    The timer of faulthandler runs outside Python, so a thread that holds the interpreter lock is detected too. The stack of
    every thread is written to `log` first.
    """

    def __init__(self, timeout: float | None, log: TextIO) -> None:
        self.timeout, self._log = timeout, log

    def reset(self) -> None:
        """Restart the timer."""
        if self.timeout is not None:
            faulthandler.dump_traceback_later(self.timeout, exit=True, file=self._log)

    def __enter__(self) -> Self:
        """Start the timer."""
        self.reset()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the timer."""
        if self.timeout is not None:
            faulthandler.cancel_dump_traceback_later()
