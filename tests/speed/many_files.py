"""How long readers need for a sweep's folder with thousands of trials; nothing is asserted.

    uv run python tests/speed/many_files.py                   5,000 and 10,000 trials, all done but four
    uv run python tests/speed/many_files.py --trials 1000

tests/test_many_files.py uses `build` too. A trial has the files of a real one: config, environment, identity, status, metrics,
matrix, summary.
"""

from __future__ import annotations

import argparse
import io
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from measure import save, table
from rich.console import Console

from retain import load_config
from retain.platform.cli.progress import ProgressDisplay
from retain.platform.config.load import to_dict
from retain.platform.ledger.reader import trials_of
from retain.platform.ledger.writer import SweepLedger, TrialLedger
from retain.platform.reporting.html_report import report
from retain.platform.reporting.projector import ProjectorSettings, _Projector
from retain.platform.reporting.projector_state import ProjectorState
from retain.platform.reporting.results import results_of
from retain.platform.reporting.wandb_runs import WandbRuns

EXPERIENCES, EPOCHS, SEEDS, RUNNING = 5, 3, 10, 4


def build(folder: Path, num_trials: int, running: int = RUNNING) -> None:
    """Write a sweep of `num_trials` trials, the last ones running, with the real writers, without waiting for the disk."""
    identities: list[dict[str, Any]] = [
        {"id": f"variant{i // SEEDS:04d}-{i % SEEDS}", "variant": f"variant{i // SEEDS:04d}", "stream": "digits"}
        | {"seed": i % SEEDS, "overrides": {"training.optimizer.lr": 0.001 * (1 + i // SEEDS)}}
        for i in range(num_trials)
    ]
    fsync, os.fsync = os.fsync, lambda descriptor: None
    try:
        config = load_config("quickstart")
        text = yaml.safe_dump(to_dict(config), sort_keys=False)
        SweepLedger.create(folder, text, "many", identities).close()
        for number, identity in enumerate(identities):
            config_text = text.replace("lr: 0.1", f"lr: {0.001 * (1 + number // SEEDS)}", 1)
            write(folder / "trials" / identity["id"], config_text, identity, done=number < num_trials - running)
    finally:
        os.fsync = fsync


def write(folder: Path, config: str, identity: dict[str, Any], done: bool) -> None:
    """Write one trial: its events, and its results if it is done."""
    seed = identity["seed"]
    with TrialLedger.create(folder, config, identity) as writer:
        writer.write("environment", {"retain": "0", "packages": {"torch": "2"}, "device": "cpu"})
        matrix = [[math.nan] * EXPERIENCES] + [
            [0.9 - 0.1 * (i - j) - 0.01 * seed if j <= i else math.nan for j in range(EXPERIENCES)]
            for i in range(EXPERIENCES)
        ]
        for i in range(1, EXPERIENCES + 1 if done else 3):
            for e in range(1, EPOCHS + 1):
                numbers = {"epoch": e, "loss": 1 / (i + e), "accuracy": 0.5, "lr": 0.1, "seconds": 0.25}
                writer.append("epoch", i, 10 * (EPOCHS * (i - 1) + e), numbers)
            views = {"task_agnostic": matrix[i], "task_aware": [0.9] * EXPERIENCES}
            writer.append("experience", i, 10 * EPOCHS * i, {**views, "metrics": {}, "samples": 100 * i})
        if done:
            about = {"num_experiences": EXPERIENCES, "sizes": [72] * EXPERIENCES, "scenario": "class"}
            names = [f"classes {2 * i}, {2 * i + 1}" for i in range(EXPERIENCES)]
            aware = [[math.nan] * EXPERIENCES] + [[0.9] * EXPERIENCES] * EXPERIENCES
            writer.write("matrix", {"task_agnostic": matrix, "task_aware": aware, **about, "experiences": names})
            writer.write("summary", {"task_agnostic": {"average_accuracy": 0.7}, "seconds": 2.5})
        writer.status("done" if done else "running", experience=EXPERIENCES if done else 2)


def watch_of(folder: Path) -> ProgressDisplay:
    """Return a progress display without a terminal."""
    watch = ProgressDisplay(folder, Console(file=io.StringIO(), force_terminal=True))
    watch.begin()
    return watch


def projector_of(folder: Path) -> _Projector:
    """Return a projector whose state says that all completed trials have been sent."""
    book, trials = ProjectorState(folder), trials_of(folder)
    return _Projector(trials, [WandbRuns(folder, ProjectorSettings(mode="offline"), "offline", book)], book)


class Clock:
    """Seconds and CPU seconds of actions, by name."""

    def __init__(self) -> None:
        self.times: dict[str, tuple[float, float]] = {}

    def __call__(self, name: str, action: Callable[[], object]) -> None:
        """Time an action."""
        wall, cpu = time.perf_counter(), time.process_time()
        action()
        self.times[name] = time.perf_counter() - wall, time.process_time() - cpu
        print(f"{name}: {self.times[name]}", file=sys.stderr, flush=True)


def measure(num_trials: int) -> tuple[dict[str, tuple[float, float]], float]:
    """Return the seconds of each action for a sweep of one size, and the MiB of its page."""
    timed = Clock()
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "sweep"
        build(folder, num_trials)
        timed("the list of trials", lambda: trials_of(folder))
        watch = watch_of(folder)
        timed("display: first look at everything", lambda: watch.look(last=True))
        timed("display: 20 looks (10 s of watching)", lambda: [watch.look() for _ in range(20)])
        timed("display: 20 pictures", lambda: [watch._render() for _ in range(20)])
        projector = projector_of(folder)
        projector._sinks = []  # leave out the time that W&B itself needs
        timed("projector: looks until all were seen", lambda: [projector.look() for _ in range(num_trials // 400 + 1)])
        timed("projector: 10 looks (10 s of following)", lambda: [projector.look() for _ in range(10)])
        timed("results of all", lambda: results_of([folder]))
        timed("`retain report`", lambda: report([folder]))
        return timed.times, (folder / "report.html").stat().st_size / 2**20


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[5000, 10000])
    sizes = parser.parse_args().trials
    measured = [measure(num_trials) for num_trials in sizes]
    head = ["seconds (CPU seconds)", *(f"{num_trials:,} trials" for num_trials in sizes)]
    rows = [[name, *("{:.3f} ({:.3f})".format(*times[name]) for times, _ in measured)] for name in measured[0][0]]
    rows.append(["size of the page", *(f"{size:.1f} MiB" for _, size in measured)])
    save("many_files", [], [table(head, rows)])


if __name__ == "__main__":
    main()
