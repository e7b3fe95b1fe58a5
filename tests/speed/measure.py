"""What the timings here share: clocks, the interval of a ratio, whether a goal is met, and where results are kept.

A measure that can decide: both sides take turns, each pair gives one ratio, and the median ratio has a bootstrap interval.
A goal is met if the interval's upper end is below it, missed if the lower end is above it, otherwise undecided.
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from scipy.stats import bootstrap

RESULTS = (
    "RETAIN_SPEED_RESULTS"  # environment variable: a folder for the results; `make speed` writes docs/speed.md from it
)


@dataclass(frozen=True)
class Ratio:
    """A ratio of two sides, ours to the other.

    Attributes:
        name: what was compared.
        values: one ratio for each pair of turns.
        goal: the ratio to reach; None: the figure is for information.
        at_least: whether the goal is a lower bound (a speed-up), not an upper one.
        note: what else a reader wants to know, such as seconds of both sides.
    """

    name: str
    values: Sequence[float]
    goal: float | None = None
    at_least: bool = False
    note: str = ""
    kind: str = field(default="ratio", init=False)

    @property
    def median(self) -> float:
        """Return the median ratio."""
        return statistics.median(self.values)

    @property
    def verdict(self) -> str:
        """Return "met", "missed", "undecided", or "" without a goal."""
        if self.goal is None:
            return ""
        low, high = interval(self.values)
        met, missed = (low >= self.goal, high < self.goal) if self.at_least else (high <= self.goal, low > self.goal)
        return "met" if met else "missed" if missed else "undecided"

    def __str__(self) -> str:
        """Return a line for the terminal."""
        low, high = interval(self.values)
        goal = "" if self.goal is None else f"; goal {'>=' if self.at_least else '<='} {self.goal:g}: {self.verdict}"
        note = f" ({self.note})" if self.note else ""
        return f"{self.name}: {self.median:.3f} [{low:.3f}, {high:.3f}] of {len(self.values)} pairs{goal}{note}"


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the median; least and greatest value if there are fewer than three."""
    if len(values) < 3:
        return min(values), max(values)
    result = bootstrap((np.array(values),), np.median, method="percentile", rng=np.random.default_rng(0))
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def cpu_seconds(work: Callable[[], object]) -> float:
    """Return the CPU time of this process and its threads for some work: other processes' load affects it little."""
    started = time.process_time()
    work()
    return time.process_time() - started


def machine() -> dict[str, object]:
    """Return what the figures depend on: processor, cores, load, versions, date."""
    import torch

    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def save(program: str, results: Sequence[Ratio], lines: Sequence[str] = ()) -> None:
    """Print the results, and keep them for docs/speed.md if RETAIN_SPEED_RESULTS names a folder.

    Args:
        program: the program's name: "loops".
        results: its ratios.
        lines: sentences and tables in Markdown that stand below the ratios, such as a timeline.
    """
    for line in (*map(str, results), *lines):
        print(line, flush=True)
    if folder := os.environ.get(RESULTS):
        content = {"machine": machine(), "results": [asdict(result) for result in results], "lines": list(lines)}
        Path(folder, f"{program}.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
