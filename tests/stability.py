"""Which defaults train stably: candidates x five data sets x three learning rates x five seeds, for naive finetuning and lwf.

``python tests/stability.py [CANDIDATE ...]`` (default: all) trains an mlp on new classes, with all other settings at their
defaults, and prints a table. MNIST and Fashion-MNIST come from RETAIN_DATA or Debian's packages, mfeat and emoji from
`make data`. Asserts nothing; docs/training.md has the result. Takes about 20 minutes on one core.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from helpers.idx_sets import REAL_ROOT

from retain.platform.config.load import from_dict
from retain.platform.trial.run import run as run_trial

RATES, SEEDS = (0.01, 0.05, 0.1), (0, 1, 2, 3, 4)
STRATEGIES: dict[str, dict[str, Any]] = {"naive": {}, "lwf": {"lwf": {}}}
SETS: dict[str, tuple[Any, int]] = {  # data set, number of experiences
    "digits": ("digits", 5),
    "mfeat": ("mfeat", 5),
    "mnist": ("mnist", 5),
    "fashion_mnist": ("fashion_mnist", 5),
    "emoji": ({"emoji": {"size": 16}}, 3),
}
ITERATIONS = 100  # per experience: five passes over the digits
OLD: dict[str, Any] = {"model": {"init": "kaiming"}, "optimizer": {"clip": None}}


def candidate(**changes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the settings of a candidate: the defaults without clipping, with some changed."""
    return {key: {**OLD.get(key, {}), **changes.get(key, {})} for key in ("model", "optimizer", "schedule", "data")}


CANDIDATES = {
    "no clipping": candidate(),
    "init torch": candidate(model={"init": "torch"}),
    "pixels in [0, 1]": candidate(data={"normalise": False}),
    "warm-up 0.1": candidate(schedule={"warmup": 0.1}),
    "clip 5": candidate(optimizer={"clip": 5.0}),
    "clip 1": candidate(optimizer={"clip": 1.0}),
    "clip 1, init torch": candidate(model={"init": "torch"}, optimizer={"clip": 1.0}),
}


def experiment(changes: Mapping[str, Any], name: str, rate: float, strategy: str, seed: int) -> dict[str, Any]:
    """Return the config of one trial."""
    data, num_experiences = SETS[name]
    if changes["data"]:
        data = {name: changes["data"]}
    return {
        "name": "stability",
        "benchmark": {"class_incremental": {"data": data, "num_experiences": num_experiences}},
        "model": {"mlp": {"hidden": [256, 256], **changes["model"]}},
        "strategies": STRATEGIES[strategy],
        "training": {
            "iterations": ITERATIONS,
            "optimizer": {"lr": rate, **changes["optimizer"]},
            "schedule": changes["schedule"],
        },
        "probes": {"curves": None},
        "checkpoint": {"every": None},
        "data": {"root": str(REAL_ROOT) if REAL_ROOT else None},
        "seed": seed,
    }


def final_accuracy(config: Mapping[str, Any]) -> float | None:
    """Return the average accuracy at the end of a trial; None if its loss diverged."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        try:
            result = run_trial(from_dict(config), Path(folder) / "trial")
        except FloatingPointError:
            return None
    return float(result.matrices["task_agnostic"][-1].mean())


def rows(name: str) -> Iterator[str]:
    """Yield a line of the table for each strategy and data set of a candidate."""
    changes = CANDIDATES[name]
    for strategy, data in product(STRATEGIES, SETS):
        if changes["data"] and data not in ("mnist", "fashion_mnist"):
            continue
        cells = []
        for rate in RATES:
            finals = [final_accuracy(experiment(changes, data, rate, strategy, seed)) for seed in SEEDS]
            ended = [100 * final for final in finals if final is not None]
            accuracy = f"{mean(ended):.1f} ({min(ended):.1f})" if ended else "-"
            cells.append(f"{len(finals) - len(ended)}; {accuracy}")
        yield f"| {name} | {strategy} | {data} | {' | '.join(cells)} |"


def main() -> int:
    """Run the named candidates, or all, and print their rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"candidates: {', '.join(CANDIDATES)}; default: all")
    names = parser.parse_args().names or list(CANDIDATES)
    if unknown := sorted(set(names) - set(CANDIDATES)):
        parser.error(f"no candidate is called {', '.join(unknown)}")
    print(f"Of {len(SEEDS)} seeds: how many diverged; mean (lowest) final accuracy of the others in %.\n")
    print(f"| candidate | strategy | data set | {' | '.join(f'lr {rate}' for rate in RATES)} |")
    print("| --- | --- | --- |" + " ---: |" * len(RATES), flush=True)
    for name in names:
        for row in rows(name):
            print(row, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
