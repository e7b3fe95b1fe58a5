"""Record in the ledger how a trial ends when it does not complete."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType

from ..config.user_code import user_line
from ..ledger.reader import status_of
from ..ledger.writer import TrialLedger
from ..training.plugin import EVENTS
from ..training.probes._base import Probe


@contextmanager
def record_failure(ledger: TrialLedger) -> Iterator[None]:
    """Write the trial's state to the ledger if the block raises, and raise the exception again.

    The state is "stopped" for Ctrl-C and SystemExit, else "failed" with the reason. A reason that comes from a plugin or a probe
    names its hook, also in a note of the exception.
    """
    try:
        yield
    except GeneratorExit:  # the block never ran
        raise
    except (KeyboardInterrupt, SystemExit):
        finished = status_of(ledger.folder).experience
        with suppress(OSError):
            ledger.status("stopped", experience=finished)
        raise
    except BaseException as error:  # noqa: BLE001 - any exception that ends a trial is its result; it is raised again
        finished = status_of(ledger.folder).experience
        trace = error.__traceback__ and error.__traceback__.tb_next  # without the frame of this function
        culprit = _failed_hook(trace)
        if culprit:
            error.add_note(f"in {culprit}")
        where = ", ".join(filter(None, (culprit, user_line(error))))
        text = f"{type(error).__name__}: {error}" + (f" (in {where})" if where else "")
        with suppress(OSError):  # a full disk may prevent both writes: the last state that was written stays
            traceback.print_exception(type(error), error, trace)
            ledger.status("failed", experience=finished, error=text)
        raise


def _failed_hook(trace: TracebackType | None) -> str | None:
    """Return the innermost method of a plugin or probe in a traceback, if there is one.

    Searching the traceback costs nothing as long as nothing fails.
    """
    hook = None
    while trace is not None:
        frame: FrameType = trace.tb_frame
        owner, method = frame.f_locals.get("self"), frame.f_code.co_name
        if owner is not None and (method in EVENTS or (isinstance(owner, Probe) and hasattr(Probe, method))):
            owner_class = type(owner)
            hook = f"{owner_class.__module__}.{owner_class.__qualname__}.{method}"
        trace = trace.tb_next
    return hook
