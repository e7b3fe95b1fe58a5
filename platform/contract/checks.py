"""A check of the contract, and how checks are run."""

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import UserError
from .errors import ContractError, NotApplicable

State = Literal["passed", "failed", "not applicable"]


@dataclass(frozen=True, slots=True)
class Check:
    """A check of the suite.

    Attributes:
        text: what is checked, in plain words.
        run: it returns if the contract is kept, and raises ContractError or NotApplicable otherwise.
        needed: whether the checks after it make no sense if it fails.
    """

    text: str
    run: Callable[[], object]
    needed: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """How a check ended.

    Attributes:
        text: what was checked.
        state: passed, failed or not applicable.
        reason: why it failed, with what to do, or why it is not applicable; empty if it passed.
    """

    text: str
    state: State
    reason: str = ""


def run_checks(checks: Sequence[Check], on_start: Callable[[str], None] = lambda text: None) -> Iterator[Result]:
    """Run the checks in order; yield each result as soon as it is known.

    `on_start`: called with the text of each check before it runs.
    """
    failed = ""
    for check in checks:
        on_start(check.text)
        if failed:
            yield Result(check.text, "not applicable", f"needs this first: {failed}")
            continue
        result = _run(check)
        if result.state == "failed" and check.needed:
            failed = check.text
        yield result


def _run(check: Check) -> Result:
    """Run one check."""
    try:
        check.run()
    except NotApplicable as reason:
        return Result(check.text, "not applicable", str(reason))
    except (ContractError, UserError) as error:
        return Result(check.text, "failed", str(error))
    except Exception as error:  # noqa: BLE001 - whatever the user's code raises is a result
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return Result(
            check.text, "failed", f"{type(error).__name__}: {error} ({Path(frame.filename).name}, line {frame.lineno})"
        )
    return Result(check.text, "passed")
