"""What surrounds a trial: its state in the ledger, however it ends."""

import traceback
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Self

from ..ledger.reader import status_of
from ..ledger.writer import TrialLedger
from ..training.plugin import EVENTS
from ..training.probes._base import Probe


class record_failure:
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
        done = status_of(self.ledger.folder).experience
        if isinstance(error, KeyboardInterrupt | SystemExit):
            with suppress(OSError):
                self.ledger.status("stopped", experience=done)
            return
        culprit = _hook(trace)
        if culprit:
            error.add_note(f"in {culprit}")
        text = f"{type(error).__name__}: {error}" + (f" (in {culprit})" if culprit else "")
        with suppress(OSError):  # on a full disk neither may be possible: the last state that was written stays
            traceback.print_exception(error)
            self.ledger.status("failed", experience=done, error=text)


def _hook(trace: TracebackType | None) -> str | None:
    """The plugin or probe and its method in which an exception arose, found in the traceback: costs nothing while all is well."""
    found = None
    while trace is not None:
        frame: FrameType = trace.tb_frame
        owner, method = frame.f_locals.get("self"), frame.f_code.co_name
        if owner is not None and (method in EVENTS or (isinstance(owner, Probe) and hasattr(Probe, method))):
            plugin = type(owner)
            found = f"{plugin.__module__}.{plugin.__qualname__}.{method}"
        trace = trace.tb_next
    return found
