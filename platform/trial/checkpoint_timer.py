"""Decide when a trial looks for stop requests, and when its next checkpoint is due."""

import math
import time

_CHECK_SECONDS = 0.5  # between two checks, unless a checkpoint is due earlier


class CheckpointTimer:
    """When to check for stop requests and due checkpoints: not at each iteration, which may take less than a millisecond."""

    def __init__(self, every: float | None) -> None:
        """Start the timer; `every`: seconds between two checkpoints mid-experience, None: none, 0: at each iteration."""
        self._every = math.inf if every is None else every
        self._saved_at = self._next_check = time.monotonic()

    @property
    def is_check_due(self) -> bool:
        """Return whether it is time to check."""
        return time.monotonic() >= self._next_check

    @property
    def is_checkpoint_due(self) -> bool:
        """Return whether a checkpoint is due."""
        return time.monotonic() - self._saved_at >= self._every

    def saved(self) -> None:
        """Note that a checkpoint was saved."""
        self._saved_at = time.monotonic()

    def checked(self) -> None:
        """Schedule the next check: in half a second, or earlier if a checkpoint is due then."""
        now = time.monotonic()
        self._next_check = min(now + _CHECK_SECONDS, self._saved_at + self._every) if self._every else now
