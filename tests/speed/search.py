"""What a search costs the driver for each trial (suggestion, journal, bookkeeping) up to 1,000 trials; see docs/speed.md.

    uv run python tests/speed/search.py [--trials 1000]

No training: each trial's folder is written as a worker would leave it. Prints CPU milliseconds per trial in blocks of 100, the
growth of memory, and the seconds to open the folder again; asserts nothing.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import psutil
from measure import Ratio, save

from retain.platform.config.load import load_config, to_dict
from retain.platform.config.yaml_files import dump_yaml
from retain.platform.ledger.documents import write_json
from retain.platform.ledger.reader import run_config
from retain.platform.ledger.writer import SweepLedger, write_status
from retain.platform.sweep.search import Search
from retain.platform.sweep.search_plan import plan_search
from retain.platform.sweep.trial_folders import write_pending_trial

GOAL = 50.0  # milliseconds per trial
CONFIG = {
    "name": "search",
    "benchmark": {"split_digits": {"validation": 0.2}},
    "model": {"mlp": {"hidden": [16]}},
    "sweep": {
        "search": "tpe",
        "objective": "validation.average_accuracy",
        "scheduler": "asha",
        "variants": {
            "lwf": {
                "strategies": {"lwf": {}},
                "space": {
                    "training.optimizer.lr": {"loguniform": [0.001, 1.0]},
                    "strategies.lwf.weight": {"loguniform": [0.01, 100]},
                    "training.batch_size": {"choice": [16, 32, 64]},
                },
            }
        },
    },
}


def opened(folder: Path) -> Search:
    """Open the search in a folder."""
    plan = plan_search(load_config(run_config(folder)))
    assert plan is not None
    return Search(folder, plan, write_pending_trial)


def finish(folder: Path, value: float) -> None:
    """Write what the search reads of a trial that is done."""
    metrics = {"average_accuracy": value}
    write_json(folder / "matrix.json", {"num_experiences": 3})
    write_json(folder / "summary.json", {"validation": {"task_agnostic": metrics}})
    write_status(folder, "done", 3, None)


def main() -> None:
    """Run a search of trials that do not train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    count = parser.parse_args().trials
    experiment = load_config(CONFIG, [f"sweep.samples={count}"])
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "out"
        with SweepLedger.create(folder, dump_yaml(to_dict(experiment)), experiment.name, []):
            pass
        search, milliseconds, memory = opened(folder), [], []
        for number in range(count):
            started = time.process_time()
            trial = search.next_trial()
            spent = time.process_time() - started
            assert trial is not None
            lr = trial.config()["training"]["optimizer"]["lr"]
            finish(trial.folder, 1 / (1 + (lr - 0.05) ** 2))
            started = time.process_time()
            for experience in (1, 2):
                search.on_report(trial.id, {"experience": experience, "validation.average_accuracy": 1.0 - lr})
            search.ended(trial.id)
            milliseconds.append(1000 * (spent + time.process_time() - started))
            if number % 100 == 99:
                memory.append(psutil.Process().memory_info().rss / 2**20)
        started = time.process_time()
        opened(folder)
        reopened = time.process_time() - started
    blocks = [statistics.median(milliseconds[start : start + 100]) for start in range(0, count, 100)]
    lines = [
        f"CPU ms per trial, medians of 100: {', '.join(f'{value:.0f}' for value in blocks)}",
        f"memory after each 100: {', '.join(f'{value:.0f}' for value in memory)} MiB",
        f"opening a folder of {count} trials again: {reopened:.1f} s (processor {os.cpu_count()} cores)",
    ]
    last = milliseconds[-100:]
    save("search", [Ratio("CPU ms per trial, last 100 of the search", last, GOAL)], lines)


if __name__ == "__main__":
    main()
