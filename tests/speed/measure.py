"""What the timings here share: clocks, the interval of a ratio, whether a goal is met, and where results are kept.

A measure that can decide: both sides take turns, each pair gives one ratio, and the median ratio has a bootstrap interval.
A goal is met if the interval's upper end is below it, missed if the lower end is above it, otherwise undecided.
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

# environment variables that `make speed` sets: the folder for the results, and how many cores others used before the start
RESULTS, BUSY = "RETAIN_SPEED_RESULTS", "RETAIN_SPEED_BUSY"
LOAD = os.getloadavg()[0]  # before the program itself adds to it
DIGITS = 5  # of the values that are kept


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
    import numpy as np  # slow to import: programs without ratios do not need them
    from scipy.stats import bootstrap

    result = bootstrap((np.array(values),), np.median, method="percentile", rng=np.random.default_rng(0))
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def cpu_seconds(work: Callable[[], object]) -> float:
    """Return the CPU time of this process and its threads for some work: other processes' load affects it little."""
    started = time.process_time()
    work()
    return time.process_time() - started


def environment() -> dict[str, str]:
    """Return the environment of processes that are timed.

    Bytecode is cached, as on users' machines. Ray builds no virtual environment for its workers. W&B has no key.
    """
    hidden = ("PYTHONDONTWRITEBYTECODE", "WANDB_API_KEY")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return kept | {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "WANDB_MODE": "offline"}


def run_process(command: Sequence[str], folder: Path, **more: str) -> tuple[float, float, str]:
    """Run a process to its end.

    Args:
        command: the command and its arguments.
        folder: the working directory.
        more: further environment variables.

    Returns:
        seconds, CPU seconds of the process and of those it waited for, and what was printed.

    Raises:
        SystemExit: the process failed; the end of its output is shown.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:  # a pipe would stay open until all its children end
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        ended = subprocess.run(command, cwd=folder, env=environment() | more, stdout=output, stderr=subprocess.STDOUT)
        seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        output.seek(0)
        text = output.read()
    if ended.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {ended.returncode}\n{text[-3000:]}")
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, text


def machine() -> dict[str, Any]:
    """Return what the figures depend on (processor, cores, load, versions, date), and how many minutes they took."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    busy = os.environ.get(BUSY)
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "load": round(LOAD, 1),
        "busy": None if busy is None else float(busy),
        "python": platform.python_version(),
        "torch": version("torch"),
        "date": time.strftime("%Y-%m-%d"),
        "minutes": round((time.time() - psutil.Process().create_time()) / 60, 1),
    }


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown: the first column to the left, the others to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def save(program: str, results: Sequence[Ratio], lines: Sequence[str] = ()) -> None:
    """Print the results, and keep them for docs/speed.md if RETAIN_SPEED_RESULTS names a folder.

    Args:
        program: the program's name: "loops".
        results: its ratios.
        lines: paragraphs and tables in Markdown that stand below the ratios, such as a timeline.
    """
    for line in (*map(str, results), *lines):
        print(line, flush=True)
    if folder := os.environ.get(RESULTS):
        path = Path(folder, f"{program}.json")
        path.write_text(as_json(machine(), results, lines), encoding="utf-8")


def as_json(about: Mapping[str, Any], results: Sequence[Ratio], lines: Sequence[str]) -> str:
    """Return what is kept of a program: one line for the machine, each ratio, each paragraph."""
    rounded = [asdict(result) | {"values": [round(value, DIGITS) for value in result.values]} for result in results]
    blocks = {"results": [json.dumps(entry) for entry in rounded], "lines": [json.dumps(line) for line in lines]}
    parts = [f' "machine": {json.dumps(about)}']
    parts += [f' "{key}": [\n  ' + ",\n  ".join(block) + "\n ]" for key, block in blocks.items()]
    return "{\n" + ",\n".join(parts) + "\n}\n"


def from_json(text: str) -> tuple[dict[str, Any], list[Ratio], list[str]]:
    """Return what `as_json` was given."""
    content = json.loads(text)
    return content["machine"], [Ratio(**entry) for entry in content["results"]], content["lines"]
