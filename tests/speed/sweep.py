"""The quickstart sweep against the same trials as a plain script of Ray Tune and stock Avalanche; see docs/speed.md.

    uv run python tests/speed/sweep.py                              all 42 trials, all sides, three rounds
    uv run python tests/speed/sweep.py --streams new_classes --variants naive replay lwf --rounds 1
    uv run python tests/speed/sweep.py --only stock

The script runs with Tune's defaults (a new worker for each trial) and with reuse_actors=True. Each side is a process, timed from
start to end: imports, Ray, data, training, evaluation and (on our side) ledger, checkpoints, W&B offline and the report. All
sides use one thread of torch for a trial, and Ray builds no virtual environment for the workers of any. The sides run in turn.
All must finish every trial, which is asserted. The random numbers differ, so accuracies are similar, not equal: all are shown.
"""

import argparse
import json
import statistics
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from measure import Ratio, run_process, save, table

HERE = Path(__file__).resolve().parent
CONFIG = HERE.parents[1] / "configs" / "quickstart.yaml"
GOALS = {"stock": 10.0, "stock, workers reused": 5.0}  # how many times as long as retain
_PLAIN = [sys.executable, str(HERE / "plain_sweep.py"), "config.yaml", "results.json"]
COMMANDS = {
    "retain": [str(Path(sys.executable).with_name("retain")), "sweep", "config.yaml", "-o", "output"],
    "stock": _PLAIN,
    "stock, workers reused": [*_PLAIN, "--reuse-workers"],
}
Results = dict[tuple[str, str, int], float]  # (stream, variant, seed) -> accuracy on all classes at the end


def chosen_config(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the quickstart config, or a part of it."""
    config: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    sweep = config["sweep"]
    sweep["seeds"] = list(range(arguments.seeds))
    for key, names in (("streams", arguments.streams), ("variants", arguments.variants)):
        sweep[key] = {name: sweep[key][name] for name in names or sweep[key]}
    return config


def timed(side: str, config: dict[str, Any]) -> tuple[float, Results]:
    """Run a side in a new folder; return the seconds of its process, and its results."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        seconds, _, _ = run_process(COMMANDS[side], folder)
        return seconds, retain_results(folder) if side == "retain" else plain_results(folder)


def retain_results(folder: Path) -> Results:
    """Read the results of `retain sweep` from the ledger."""
    results: Results = {}
    for file in folder.glob("output/trials/*/trial.json"):
        trial, summary = (json.loads(path.read_text()) for path in (file, file.with_name("summary.json")))
        results[trial["stream"], trial["variant"], trial["seed"]] = summary["task_agnostic"]["average_accuracy"]
    return results


def plain_results(folder: Path) -> Results:
    """Read the results of the plain script."""
    return {(s, v, n): a for s, v, n, a in json.loads((folder / "results.json").read_text())}


def accuracy_table(results: dict[str, Results]) -> str:
    """Return the mean final accuracy of each variant, per side."""
    some = next(iter(results.values()))
    rows = []
    for stream, variant in dict.fromkeys((stream, variant) for stream, variant, _ in some):
        means = [
            statistics.mean(a for t, a in accuracies.items() if t[:2] == (stream, variant))
            for accuracies in results.values()
        ]
        rows.append([f"{stream}, {variant}", *(f"{mean:.3f}" for mean in means)])
    return table(["accuracy over all classes at the end", *results], rows)


def ratios_of(times: dict[str, list[float]]) -> list[Ratio]:
    """Return how many times as long as ours each other side took, in each round."""
    medians = {side: statistics.median(seconds) for side, seconds in times.items()}
    return [
        Ratio(
            f"{side} / retain",
            [theirs / ours for theirs, ours in zip(times[side], times["retain"], strict=True)],
            goal,
            at_least=True,
            note=f"{medians[side]:.1f} / {medians['retain']:.1f} s",
        )
        for side, goal in GOALS.items()
        if side in times and "retain" in times
    ]


def main() -> None:
    """Run the sides in turn; print and save the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", nargs="+", choices=["new_classes", "new_domains"])
    parser.add_argument("--variants", nargs="+", help="some of the quickstart's")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    config = chosen_config(arguments)
    sweep = config["sweep"]
    trials = sorted(product(sweep["streams"], sweep["variants"], sweep["seeds"]))
    times: dict[str, list[float]] = {side: [] for side in arguments.only}
    results: dict[str, Results] = {}
    for _ in range(arguments.rounds):
        for side in arguments.only:
            seconds, results[side] = timed(side, config)
            assert sorted(results[side]) == trials, f"{side}: trials are missing"
            times[side].append(seconds)
            print(f"{side}: {seconds:.1f} s, {seconds / len(trials):.2f} s a trial", file=sys.stderr, flush=True)
    save("sweep", ratios_of(times), [f"{len(trials)} trials, each on one core.", accuracy_table(results)])


if __name__ == "__main__":
    main()
