"""What each probe costs a trial: wall and CPU time relative to a trial without probes, and the probe's share of the wall time.

    uv run python tests/speed/probes.py [--rounds 5] [--only tiny mlp small_cnn] [--probes curves cka ...]

The trials run in turn, and each ratio is taken within its round. All must end with the same accuracy. The share is taken from the
seconds in the probe's events, so it varies less than the ratios on a machine with other load.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from measure import Ratio, save, table

from retain import load_config, run
from retain.platform.config import registry
from retain.platform.config.schema import Experiment
from retain.platform.ledger.reader import Trial

MNIST = ["benchmark={split_mnist: {num_experiences: 5}}", "training={epochs: 3, batch_size: 64}"]
TRIALS = {
    "tiny": [],  # a quickstart trial
    "mlp": [*MNIST, "model={mlp: {hidden: [256, 256]}}"],
    "small_cnn": [*MNIST, "model={small_cnn: {}}"],
}
OFF: dict[str, Any] = {"curves": {"every": None}}
SETTINGS: dict[str, dict[str, Any]] = {"evaluate_on": {"streams": [{"permuted_digits": {"num_experiences": 2}}]}}
OTHER_SHAPE: dict[str, dict[str, Any]] = {"evaluate_on": {"streams": [{"rotated_mnist": {"angles": [45]}}]}}


def timed(config: Experiment) -> tuple[float, float, float, float]:
    """Return wall and CPU seconds of a trial, its accuracy at the end, and the share of its probes in the wall time."""
    folder = Path(tempfile.mkdtemp(prefix="retain-speed-", dir=os.environ.get("RETAIN_SPEED_FOLDER")))
    started, cpu = time.perf_counter(), time.process_time()
    result = run(config, folder / "trial")
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    events = [event for _, event in Trial(folder / "trial").events()]
    own = sum(entry["seconds"] if entry["kind"] == "probe" else entry.get("probe_seconds", 0.0) for entry in events)
    shutil.rmtree(folder)
    return wall, cpu, result.summary["task_agnostic"]["average_accuracy"], own / wall


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=list(TRIALS), choices=TRIALS)
    parser.add_argument("--probes", nargs="+", default=registry.names("probes"), choices=registry.names("probes"))
    arguments = parser.parse_args()
    ratios: list[Ratio] = []
    shares = []
    for name in arguments.only:
        config = load_config("quickstart", [*TRIALS[name], "wandb.mode=disabled"])
        settings = SETTINGS if name == "tiny" else OTHER_SHAPE
        ways = {"without": OFF} | {probe: {**OFF, probe: settings.get(probe, {})} for probe in arguments.probes}
        trials = {way: replace(config, probes=probes) for way, probes in ways.items()}
        timed(trials["without"])  # the first one imports more
        rounds = [{way: timed(trial) for way, trial in trials.items()} for _ in range(arguments.rounds)]
        assert len({accuracy for timings in rounds for _, _, accuracy, _ in timings.values()}) == 1
        seconds = statistics.median(timings["without"][0] for timings in rounds)
        shares.append([f"{name}, {seconds:.2f} s"])
        for probe in arguments.probes:
            cpu = [timings[probe][1] / timings["without"][1] for timings in rounds]
            wall = statistics.median(timings[probe][0] / timings["without"][0] for timings in rounds)
            ratios.append(Ratio(f"{name}: {probe}", cpu, note=f"wall time {wall:.3f}"))
            shares[-1].append(f"{statistics.median(timings[probe][3] for timings in rounds):.1%}")
    about = "CPU time of whole trials, to the same without probes. The probes' own seconds, as a share of the trial with them:"
    save("probes", ratios, [about, table(["trial", *arguments.probes], shares)])


if __name__ == "__main__":
    main()
