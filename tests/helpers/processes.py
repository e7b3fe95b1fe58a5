"""Start the command line in a separate process, and wait for events."""

import multiprocessing
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext

COMMAND = [sys.executable, "-c", "from retain.platform.cli.app import main; main()"]
DEADLINE = 300.0  # seconds; it only ends a test that hangs


def wait_until(condition: Callable[[], object], what: str = "the event") -> None:
    """Wait until the condition holds; AssertionError after `DEADLINE`."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen within {DEADLINE:.0f} s"
        time.sleep(0.01)


def forkserver() -> ForkServerContext:
    """Return the server of new processes that have imported what a trial needs, which takes seconds; one for all tests."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["retain.platform.trial.run", "retain.platform.training.learner", "faults"])
    return context
