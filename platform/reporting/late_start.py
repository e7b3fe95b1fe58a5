"""Start a process only once something has begun, so that its imports do not compete with what begins."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class LateStart(Generic[T]):
    """Calls a function at once if something has begun; otherwise later, in a thread.

    Args:
        has_begun: asked every `poll` seconds.
        start: the function.
        poll: seconds.
    """

    def __init__(self, has_begun: Callable[[], bool], start: Callable[[], T], poll: float) -> None:
        self._has_begun, self._start, self._poll = has_begun, start, poll
        self._ended = threading.Event()
        self._result: T | None = None
        self._thread: threading.Thread | None = None
        if has_begun():
            self._result = start()
        else:
            self._thread = threading.Thread(target=self._wait, daemon=True, name="retain-late-start")
            self._thread.start()

    def end(self) -> T | None:
        """Wait no longer; return what the function returned, or None if it was not called."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        return self._result

    def _wait(self) -> None:
        while not self._ended.wait(self._poll):
            if self._has_begun():
                self._result = self._start()
                return
