"""`retain check`: run the contract suite on a module, and print a line for each check."""

import tempfile
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from ..config.yaml_overrides import apply_overrides
from ..contract.checks import Result, run_checks
from ..contract.kinds import kind_of

_STYLES = {"passed": "green", "failed": "bold red", "not applicable": "yellow"}


def check(name: str, overrides: Sequence[str], kind: str | None, console: Console) -> bool:
    """Check a module and print the results on `console`; return whether every check passed or does not apply.

    Raises:
        UserError: no such module, its kind is not clear, or its settings are refused.
    """
    kind = kind_of(name, kind)
    from ..contract.suite import checks_for  # here: it imports what trains, which takes seconds

    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="retain-check-") as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="avalanche")  # about what the checks look at themselves
        checks = checks_for(kind, name, apply_overrides({}, overrides), Path(folder))
        console.print(f"{kind.replace('_', ' ')} [bold]{escape(name)}[/]: {len(checks)} checks", soft_wrap=True)
        for result in run_checks(checks, lambda text: console.print(f"  {escape(text)} ... ", end="", soft_wrap=True)):
            counts[result.state] += 1
            console.print(_state(result), soft_wrap=True)
    parts = [f"[{style}]{counts[state]} {state}[/]" for state, style in _STYLES.items() if counts[state]]
    console.print(", ".join(parts), soft_wrap=True)
    return counts["failed"] == 0


def _state(result: Result) -> str:
    """Return how a check ended, with rich's markup."""
    reason = f": {escape(' '.join(result.reason.split()))}" if result.reason else ""
    return f"[{_STYLES[result.state]}]{result.state}[/]{reason}"
