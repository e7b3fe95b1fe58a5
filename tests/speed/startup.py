"""The time to a trial's first optimizer step, against importing torch and a bare Ray Tune script; see docs/speed.md.

    uv run python tests/speed/startup.py                    both parts, 5 pairs each
    uv run python tests/speed/startup.py --pairs 20 --only run

Both sides run in turn in new processes, with the data prepared. Prints a timeline of each part and the median ratio with a
bootstrap interval; asserts nothing.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import bootstrap

RETAIN = Path(sys.executable).with_name("retain")
GOALS = {"run": 1.5, "sweep": 1.3}
BARE_TUNE = """
import time
import ray
from ray import tune

def trial(config):
    import torch
    layer = torch.nn.Linear(4, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    layer(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    tune.report({"unix_seconds": time.time()})

results = tune.Tuner(trial, tune_config=tune.TuneConfig(num_samples=1)).fit()
print("first_step", results[0].metrics["unix_seconds"])
"""


def environment() -> dict[str, str]:
    """Return the environment of both sides: bytecode is cached, as on users' machines, and W&B has no key."""
    hidden = ("PYTHONDONTWRITEBYTECODE", "WANDB_API_KEY")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return kept | {
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "WANDB_MODE": "offline",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    }


def seconds_of(command: Sequence[str], folder: Path) -> tuple[float, float, str]:
    """Return (time of the start, time of the end, standard output) of a process."""
    started = time.time()
    ended = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)
    if ended.returncode != 0:
        raise SystemExit(
            f"{' '.join(command)}: exit code {ended.returncode}\n{ended.stdout[-2000:]}{ended.stderr[-2000:]}"
        )
    return started, time.time(), ended.stdout


def events_of(folder: Path) -> list[dict[str, float]]:
    """Return the events of a trial."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def first_step(folders: Sequence[Path]) -> float:
    """Return the unix time of the earliest first step of some trials."""
    return min(
        event["unix_seconds"] for folder in folders for event in events_of(folder) if event["kind"] == "first_step"
    )


def time_run(folder: Path) -> dict[str, float]:
    """Return the seconds of `retain run quickstart`: to its first step, and to its end."""
    started, ended, _ = seconds_of([str(RETAIN), "run", "quickstart", "-o", "out"], folder)
    return {"first step": first_step([folder / "out"]) - started, "end": ended - started}


def time_import_torch(folder: Path) -> float:
    """Return the seconds of a process that imports torch."""
    started, ended, _ = seconds_of([sys.executable, "-c", "import torch"], folder)
    return ended - started


def time_sweep(folder: Path) -> dict[str, float]:
    """Return the seconds of `retain sweep quickstart`: to the first step of any trial, to the last trial's end, to its end."""
    started, ended, _ = seconds_of([str(RETAIN), "sweep", "quickstart", "-o", "out"], folder)
    trials = sorted((folder / "out" / "trials").iterdir())
    last = max((trial / "status.json").stat().st_mtime for trial in trials)
    return {"first step": first_step(trials) - started, "last trial": last - started, "end": ended - started}


def time_bare_tune(folder: Path) -> float:
    """Return the seconds to the first step of a Ray Tune script with one trial."""
    started, _, output = seconds_of([sys.executable, "-c", BARE_TUNE], folder)
    return float(output.rpartition("first_step ")[2].split()[0]) - started


def compare(name: str, ours: Callable[[Path], dict[str, float]], bare: Callable[[Path], float], pairs: int) -> None:
    """Time both sides in turn; print the timeline, the ratio with its interval, and whether the goal is met."""
    ratios, timelines, others = [], [], []
    for number in range(pairs + 1):  # the first pair warms the page cache and the bytecode
        with tempfile.TemporaryDirectory() as folder:
            timeline = ours(Path(folder))
        with tempfile.TemporaryDirectory() as folder:
            other = bare(Path(folder))
        if number:
            timelines.append(timeline)
            others.append(other)
            ratios.append(timeline["first step"] / other)
    print(f"{name}: other side {statistics.median(others):.2f} s; ours", end="")
    print(*(f"; {key} {statistics.median(each[key] for each in timelines):.2f} s" for key in timelines[0]), sep="")
    low, high = interval(ratios)
    goal = GOALS[name]
    verdict = "met" if high < goal else "missed" if low > goal else "undecided"
    print(
        f"{name}: ratio {statistics.median(ratios):.2f} [{low:.2f}, {high:.2f}] of {pairs} pairs; goal {goal}: {verdict}"
    )


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return a 95 % bootstrap interval of the median."""
    if len(values) < 3:
        return min(values), max(values)
    result = bootstrap((np.array(values),), np.median, method="percentile", rng=np.random.default_rng(0))
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def main() -> None:
    """Run the comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--only", choices=["run", "sweep"])
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    if arguments.only != "sweep":
        compare("run", time_run, time_import_torch, arguments.pairs)
    if arguments.only != "run":
        compare("sweep", time_sweep, time_bare_tune, arguments.pairs)


if __name__ == "__main__":
    main()
