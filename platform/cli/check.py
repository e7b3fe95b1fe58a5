"""`retain check`: run the contract suite on a module, and print a line for each check."""

import logging
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.text import Text

from ..config.yaml_overrides import apply_overrides
from ..contract.checks import Result, run_checks
from ..contract.kinds import kind_of
from .terminal import Part, one_line

_STYLES = {"passed": "green", "failed": "bold red", "not applicable": "yellow"}


def check(name: str, overrides: Sequence[str], kind: str | None, console: Console) -> bool:
    """Check a module and print the results on `console`; return whether every check passed or does not apply.

    Raises:
        UserError: no such module, its kind is not clear, or its settings are refused.
    """
    kind = kind_of(name, kind)
    from ..contract.suite import checks_for  # here: it imports what trains, which takes seconds

    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="retain-check-") as folder, warnings.catch_warnings(), _errors_only():
        warnings.filterwarnings("ignore", module="avalanche")  # about what the checks look at themselves
        checks = checks_for(kind, name, apply_overrides({}, overrides), Path(folder))
        title = one_line(f"{kind.replace('_', ' ')} ", (name, "bold"), f": {len(checks)} checks")
        console.print(title, soft_wrap=True)

        def announce(text: str) -> None:
            console.print(one_line(f"  {text} ... "), end="", soft_wrap=True)

        for result in run_checks(checks, announce):
            counts[result.state] += 1
            console.print(_state(result), soft_wrap=True)
    parts: list[Part] = []
    for state, style in _STYLES.items():
        if counts[state]:
            parts += [", "] * bool(parts) + [(f"{counts[state]} {state}", style)]
    console.print(one_line(*parts), soft_wrap=True)
    return counts["failed"] == 0


@contextmanager
def _errors_only() -> Iterator[None]:
    """A context in which trials log no warnings: the short trials of the checks would repeat them many times."""
    logger = logging.getLogger("retain.platform.trial.run")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _state(result: Result) -> Text:
    """Return how a check ended, with the reason."""
    reason = f": {' '.join(result.reason.split())}" if result.reason else ""
    return one_line((result.state, _STYLES[result.state]), reason)
