"""What surrounds a trial: its state in the ledger however it ends, and torch's settings put back."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Self

import torch

from .ledger import Trial, TrialLedger
from .plugins import EVENTS


@contextmanager
def threads_set_to(threads: int) -> Iterator[None]:
    """Use `threads` CPU threads within, whatever the process had: results differ with their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class recording:
    """A context whose exception is written to the ledger: failed with the reason, or stopped for Ctrl-C; it is raised on."""

    def __init__(self, ledger: TrialLedger) -> None:
        self.ledger = ledger

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            return
        done = Trial(self.ledger.folder).status().experience
        if isinstance(error, KeyboardInterrupt | SystemExit):
            self.ledger.status("stopped", experience=done)
            return
        culprit = _hook(trace)
        if culprit:
            error.add_note(f"in {culprit}")
        traceback.print_exception(error)
        self.ledger.status(
            "failed",
            experience=done,
            error=f"{type(error).__name__}: {error}" + (f" (in {culprit})" if culprit else ""),
        )


def _hook(trace: TracebackType | None) -> str | None:
    """The plugin and hook in which an exception arose, found in the traceback: costs nothing while all is well."""
    found = None
    while trace is not None:
        frame: FrameType = trace.tb_frame
        if frame.f_code.co_name in EVENTS and "self" in frame.f_locals:
            plugin = type(frame.f_locals["self"])
            found = f"{plugin.__module__}.{plugin.__qualname__}.{frame.f_code.co_name}"
        trace = trace.tb_next
    return found
