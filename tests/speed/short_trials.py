"""Sweeps of a thousand short trials against a loop over `retain.run`, and one trial of a hundred experiences.

    uv run python tests/speed/short_trials.py                   1,000 trials, 3 pairs (about 10 minutes)
    uv run python tests/speed/short_trials.py --trials 200 --pairs 1 --only sweep

A trial trains a tiny MLP for two iterations on each half of the digits, without W&B. The sweep and the loop run in turn in new
processes. Both must finish every trial, which is asserted; times and memory are only printed.
"""

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import yaml
from measure import Ratio, run_process, save

RETAIN = Path(sys.executable).with_name("retain")
SPEED_UP, REPORT_SECONDS, FLAT = 1.6, 10.0, 1.1  # goals
SEEDS = 50  # of each learning rate
EXPERIENCES = 100
LOOP = """
import json, sys, time
from pathlib import Path
import yaml
from retain import load_config, run
from retain.platform.sweep.plan import plan

trials = plan(load_config("config.yaml"))
started = time.time()
for trial in trials:
    run(trial.config, Path("loop", trial.identity["id"]), identity=trial.identity)
print("seconds", time.time() - started)
"""


def config_of(num_trials: int) -> dict[str, Any]:
    """Return a sweep of short trials."""
    rates = [round(0.001 * number, 4) for number in range(1, num_trials // SEEDS + 1)]
    return {
        "name": "short",
        "benchmark": {"split_digits": {"num_experiences": 2}},
        "model": {"mlp": {"hidden": [16]}},
        "training": {"iterations": 2, "batch_size": 32},
        "wandb": {"mode": "disabled"},
        "sweep": {"seeds": list(range(SEEDS)), "space": {"training.optimizer.lr": {"grid": rates}}},
    }


class Watch:
    """Samples this process's child, the driver of a sweep, and all processes below it, while a block runs.

    Attributes:
        samples: (unix time, MB of the driver) twice a second.
    """

    def __init__(self) -> None:
        self.samples: list[tuple[float, float]] = []
        self._cpu: dict[int, float] = {}  # process -> its CPU seconds when it was last seen
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    @property
    def cpu(self) -> float:
        """Return the CPU seconds of all processes, but for the last half second of each."""
        return sum(self._cpu.values())

    def _sample(self) -> None:
        own = psutil.Process()
        while not self._ended.wait(0.5):
            for process in own.children(recursive=True):
                try:
                    times = process.cpu_times()
                    self._cpu[process.pid] = times.user + times.system
                    if process.ppid() == own.pid:
                        self.samples.append((time.time(), process.memory_info().rss / 2**20))
                except psutil.NoSuchProcess:
                    continue

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def around(self, moment: float) -> float:
        """Return the memory at a unix time, in MB: the median of the five samples nearest to it."""
        nearest = sorted(self.samples, key=lambda sample: abs(sample[0] - moment))[:5]
        return statistics.median(memory for _, memory in nearest)


def time_sweep(folder: Path) -> dict[str, float]:
    """Run the sweep; return seconds of the whole, of its trials and of its end, and the driver's memory during the trials."""
    with Watch() as watch:
        whole, _, _ = run_process([str(RETAIN), "sweep", "config.yaml", "-o", "sweep"], folder)
    ended = time.time()
    trials = sorted((folder / "sweep" / "trials").iterdir())
    states = [json.loads((trial / "status.json").read_text(encoding="utf-8")) for trial in trials]
    assert all(state["status"] == "done" for state in states), "a trial is not done"
    starts = [json.loads((trial / "environment.json").read_text(encoding="utf-8"))["started"] for trial in trials]
    first, last = min(starts), max(state["updated"] for state in states)
    return {
        "whole": whole,
        "cpu": watch.cpu,
        "start": first - (ended - whole),
        "trials": last - first,
        "end": ended - last,
        "early": watch.around(first + 0.2 * (last - first)),
        "late": watch.around(first + 0.95 * (last - first)),
    }


def time_loop(folder: Path) -> tuple[float, float, float]:
    """Run the same trials in a loop; return seconds of the whole process and of its trials, and its CPU seconds."""
    whole, cpu, text = run_process([sys.executable, "-c", LOOP], folder)
    return whole, float(text.rpartition("seconds ")[2].split()[0]), cpu


def measure_sweep(num_trials: int, pairs: int) -> tuple[list[Ratio], list[str]]:
    """Time the sweep and the loop in turn, then `retain report` and a dry run."""
    sweeps: list[dict[str, float]] = []
    loops: list[tuple[float, float, float]] = []
    for _ in range(pairs):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "config.yaml").write_text(yaml.safe_dump(config_of(num_trials)), encoding="utf-8")
            sweeps.append(time_sweep(folder))
            loops.append(time_loop(folder))
            report, _, _ = run_process([str(RETAIN), "report", "sweep"], folder)
            plan, _, _ = run_process([str(RETAIN), "sweep", "config.yaml", "--dry-run", "--no-estimate"], folder)
    per_trial = f"{1000 * median(sweeps, 'trials') / num_trials:.0f}"
    alone = 1000 * statistics.median(seconds for _, seconds, _ in loops) / num_trials
    both = list(zip(sweeps, loops, strict=True))
    ratios = [
        Ratio(
            f"{num_trials} short trials: a loop / a sweep, from the first trial's start to the last one's end",
            [loop / sweep["trials"] for sweep, (_, loop, _) in both],
            SPEED_UP,
            at_least=True,
            note=f"{alone:.0f} / {per_trial} ms a trial",
        ),
        Ratio(
            "the same: whole processes",
            [loop / sweep["whole"] for sweep, (loop, _, _) in both],
            SPEED_UP,
            at_least=True,
            note=f"{statistics.median(whole for whole, _, _ in loops):.1f} / {median(sweeps, 'whole'):.1f} s",
        ),
        Ratio(
            "memory of the sweep's driver after 95 % of the trials / after 20 %",
            [sweep["late"] / sweep["early"] for sweep in sweeps],
            FLAT,
            note=f"{median(sweeps, 'late'):.0f} / {median(sweeps, 'early'):.0f} MB",
        ),
        Ratio(
            f"`retain report` on {num_trials} trials / {REPORT_SECONDS:g} s",
            [report / REPORT_SECONDS],
            1.0,
            note=f"{report:.1f} s",
        ),
    ]
    timeline = (
        f"The sweep: {median(sweeps, 'start'):.1f} s to the first trial, {median(sweeps, 'trials'):.1f} s of trials"
    )
    line = f"{timeline}, {median(sweeps, 'end'):.1f} s to the prompt. Planning and checking alone (a dry run): {plan:.1f} s."
    cpu = statistics.median(cpu for _, _, cpu in loops)
    used = f"CPU seconds of all processes: the sweep {median(sweeps, 'cpu'):.0f}, the loop {cpu:.0f}."
    return ratios, [line, used]


def median(sweeps: Sequence[dict[str, float]], key: str) -> float:
    """Return the median of one of `time_sweep`'s values."""
    return statistics.median(sweep[key] for sweep in sweeps)


def measure_experiences(strategies: Sequence[str]) -> list[Ratio]:
    """Run a trial of 100 experiences for each strategy; return its time and memory at the end in relation to the beginning."""
    from retain import run

    ratios = []
    for strategy in strategies:
        config = {
            "name": "long",
            "benchmark": {"permuted_digits": {"num_experiences": EXPERIENCES}},
            "model": {"mlp": {"hidden": [16]}},
            "strategies": {} if strategy == "naive" else {strategy: {}},
            "training": {"iterations": 20, "batch_size": 32},
            "wandb": {"mode": "disabled"},
        }
        times, memory = [time.process_time()], [0.0]

        def note(metrics: object, times: list[float] = times, memory: list[float] = memory) -> None:
            times.append(time.process_time())
            memory.append(psutil.Process().memory_info().rss / 2**20)

        with tempfile.TemporaryDirectory() as folder:
            run(config, Path(folder, "trial"), report=note)
        seconds = [later - earlier for earlier, later in zip(times[1:], times[2:], strict=False)]
        early, late = seconds[5:30], seconds[-25:]
        ratio = statistics.median(late) / statistics.median(early)
        note_text = f"{1000 * statistics.median(late):.0f} / {1000 * statistics.median(early):.0f} ms"
        ratios.append(Ratio(f"{strategy}: an experience of 75 to 100 / of 6 to 30", [ratio], FLAT, note=note_text))
        grown = memory[-1] / memory[10]
        note_text = f"{memory[-1]:.0f} / {memory[10]:.0f} MB"
        ratios.append(Ratio(f"{strategy}: memory after 100 experiences / after 10", [grown], FLAT, note=note_text))
    return ratios


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=1000, help=f"a multiple of {SEEDS}")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--only", choices=["sweep", "experiences"])
    parser.add_argument("--strategies", nargs="+", default=["naive", "lwf", "replay"])
    arguments = parser.parse_args()
    ratios, lines = measure_sweep(arguments.trials, arguments.pairs) if arguments.only != "experiences" else ([], [])
    if arguments.only != "sweep":
        ratios += measure_experiences(arguments.strategies)
    save("short_trials", ratios, lines)


if __name__ == "__main__":
    main()
