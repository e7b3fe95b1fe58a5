"""Ends a trial's process when no iteration happens for too long."""

import faulthandler
from types import TracebackType
from typing import Self, TextIO


class Watchdog:
    """A context that ends the process (exit code 1) when `alive` was not called for `timeout` seconds; None: never.

    The library's timer runs outside of Python, so a thread that holds the interpreter is found too. Where every thread stood
    is written to `log` first.
    """

    def __init__(self, timeout: float | None, log: TextIO) -> None:
        self.timeout, self._log = timeout, log

    def reset(self) -> None:
        """Start counting anew."""
        if self.timeout is not None:
            faulthandler.dump_traceback_later(self.timeout, exit=True, file=self._log)

    def __enter__(self) -> Self:
        """Start counting."""
        self.reset()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop counting."""
        if self.timeout is not None:
            faulthandler.cancel_dump_traceback_later()
