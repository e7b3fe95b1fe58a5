"""The time to a trial's first optimizer step, against importing torch and a bare Ray Tune script, and the end of a sweep.

    uv run python tests/speed/startup.py                    both parts, 5 pairs each
    uv run python tests/speed/startup.py --pairs 20 --only run

Both sides run in turn in new processes, with the data prepared. Prints a timeline of each part and the ratios; asserts nothing.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from measure import Ratio, interval, run_process, save, table

RETAIN = Path(sys.executable).with_name("retain")
GOALS = {"run": 1.5, "sweep": 1.3}
END_SECONDS, SWEEP_SECONDS = 2.0, 45.0  # goals: from the last trial's end to the prompt; the whole sweep
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
Timeline = dict[str, float]  # what happened -> seconds since the command's start


def run(command: Sequence[str], folder: Path) -> tuple[float, float, str]:
    """Run a process; return (unix time of its start, of its end, what it printed)."""
    started = time.time()
    seconds, _, text = run_process(command, folder, TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1")
    return started, started + seconds, text


def first_step(folder: Path) -> float:
    """Return the unix time of a trial's first step."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return next(float(event["unix_seconds"]) for event in map(json.loads, lines) if event["kind"] == "first_step")


def timeline_of(trials: Sequence[Path]) -> Timeline:
    """Return the unix times of what the trials' folders tell."""
    environments = [json.loads((trial / "environment.json").read_text(encoding="utf-8")) for trial in trials]
    return {
        "first trial begins": min(float(environment["started"]) for environment in environments),
        "first step": min(map(first_step, trials)),
        "last trial ends": max((trial / "status.json").stat().st_mtime for trial in trials),
    }


def time_run(folder: Path) -> Timeline:
    """Return the timeline of `retain run quickstart`."""
    started, ended, _ = run([str(RETAIN), "run", "quickstart", "-o", "out"], folder)
    return since(started, {**timeline_of([folder / "out"]), "prompt": ended})


def time_sweep(folder: Path) -> Timeline:
    """Return the timeline of `retain sweep quickstart`."""
    started, ended, _ = run([str(RETAIN), "sweep", "quickstart", "-o", "out"], folder)
    planned = (folder / "out" / "trials.json").stat().st_mtime
    trials = sorted((folder / "out" / "trials").iterdir())
    return since(started, {"trials planned, Ray up": planned, **timeline_of(trials), "prompt": ended})


def since(started: float, times: Mapping[str, float]) -> Timeline:
    """Return unix times as seconds since `started`."""
    return {name: seconds - started for name, seconds in times.items()}


def time_import_torch(folder: Path) -> float:
    """Return the seconds of a process that imports torch."""
    started, ended, _ = run([sys.executable, "-c", "import torch"], folder)
    return ended - started


def time_bare_tune(folder: Path) -> float:
    """Return the seconds to the first step of a Ray Tune script with one trial."""
    started, _, output = run([sys.executable, "-c", BARE_TUNE], folder)
    return float(output.rpartition("first_step ")[2].split()[0]) - started


def compare(
    name: str, ours: Callable[[Path], Timeline], bare: Callable[[Path], float], other: str, pairs: int
) -> tuple[Ratio, list[Timeline]]:
    """Time both sides in turn; return the ratio of the times to the first step, and our timelines."""
    timelines: list[Timeline] = []
    others: list[float] = []
    for number in range(pairs + 1):  # the first pair warms the page cache and the bytecode
        with tempfile.TemporaryDirectory() as folder:
            timeline = ours(Path(folder))
        with tempfile.TemporaryDirectory() as folder:
            seconds = bare(Path(folder))
        if number:
            timelines.append(timeline)
            others.append(seconds)
    ratios = [timeline["first step"] / seconds for timeline, seconds in zip(timelines, others, strict=True)]
    both = f"{statistics.median(each['first step'] for each in timelines):.2f} / {statistics.median(others):.2f} s"
    return Ratio(f"`retain {name} quickstart` to its first step / {other}", ratios, GOALS[name], note=both), timelines


def described(values: Sequence[float]) -> str:
    """Return the median of some seconds with its interval."""
    low, high = interval(values)
    return f"{statistics.median(values):.2f} [{low:.2f}, {high:.2f}]"


def goals_of_sweep(timelines: Sequence[Timeline]) -> list[Ratio]:
    """Return the sweep's two other times, as parts of their goals."""
    ends = [each["prompt"] - each["last trial ends"] for each in timelines]
    wholes = [each["prompt"] for each in timelines]
    return [
        Ratio(f"{name} / {goal:g} s", [value / goal for value in values], 1.0, note=f"{described(values)} s")
        for name, values, goal in (
            ("from the last trial's end to the prompt", ends, END_SECONDS),
            ("the whole `retain sweep quickstart`", wholes, SWEEP_SECONDS),
        )
    ]


def main() -> None:
    """Run the comparisons, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--only", choices=["run", "sweep"])
    arguments = parser.parse_args()
    parts: dict[str, tuple[Any, Any, str]] = {
        "run": (time_run, time_import_torch, "a process that imports torch"),
        "sweep": (time_sweep, time_bare_tune, "a Ray Tune script's"),
    }
    ratios: list[Ratio] = []
    lines: list[str] = []
    for name in [arguments.only] if arguments.only else parts:
        ours, bare, other = parts[name]
        ratio, timelines = compare(name, ours, bare, other, arguments.pairs)
        ratios += [ratio, *(goals_of_sweep(timelines) if name == "sweep" else [])]
        rows = [[key, described([each[key] for each in timelines])] for key in timelines[0]]
        lines += [f"Timeline of `retain {name} quickstart`:", table(["", "seconds since the command's start"], rows)]
    save("startup", ratios, lines)


if __name__ == "__main__":
    main()
