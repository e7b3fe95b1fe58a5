"""What safety costs a trial: checkpoints (written by a thread, the default, or by the training loop), deterministic algorithms.

    uv run python tests/speed/safety.py [--rounds 5] [--only tiny small large] [--every 5s]

The trials run in turn, and each ratio is taken within its round: wall time of the whole trial, against the one without. For
`large`, 4 million parameters with Adam's moments are about 50 MB a checkpoint. Only one thing is asserted: all end with the same
accuracy.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from measure import Ratio, save

from retain import load_config, run
from retain.platform.config.schema import Checkpoint, Experiment
from retain.platform.trial.checkpoint import CheckpointWriter

FASHION = ["benchmark={split_fashion_mnist: {num_experiences: 5}}", "strategies={replay: {memory: 500}}"]
TRIALS = {
    "tiny": ["strategies={replay: {}}"],
    "small": [*FASHION, "model={mlp: {hidden: [256, 256]}}", "training={epochs: 3, batch_size: 64}"],
    "large": [  # few test pictures: else evaluation would be most of it
        "model={mlp: {hidden: [2048, 2048]}}",
        "training={iterations: 20, batch_size: 64, optimizer: {name: adam, lr: 0.0003}}",
    ],
}
GOAL = 1.02  # of what is on by default
Save = Callable[[CheckpointWriter, str, dict[str, Any]], None]
_save = CheckpointWriter.save


def nothing(writer: CheckpointWriter, name: str, state: dict[str, Any]) -> None:
    """Write no checkpoint."""


def at_once(writer: CheckpointWriter, name: str, state: dict[str, Any]) -> None:
    """Write a checkpoint while training waits."""
    _save(writer, name, state)
    writer.wait()


WAYS: dict[str, tuple[Save, bool]] = {
    "without": (nothing, False),
    "checkpoints written by a thread": (_save, False),
    "checkpoints written before training continues": (at_once, False),
    "deterministic algorithms": (nothing, True),
}


def timed(config: Experiment, save: Save, deterministic: bool) -> tuple[float, float, Any, float]:
    """Return wall and CPU seconds of a trial, its accuracy at the end, MB of its largest checkpoint."""
    folder = Path(tempfile.mkdtemp(prefix="retain-speed-", dir=os.environ.get("RETAIN_SPEED_FOLDER")))
    config = replace(config, resources=replace(config.resources, deterministic=deterministic))
    setattr(CheckpointWriter, "save", save)  # noqa: B010 - mypy refuses the assignment
    started, cpu = time.perf_counter(), time.process_time()
    result = run(config, folder / "trial")
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    sizes = [sum(f.stat().st_size for f in entry.iterdir()) for entry in (folder / "trial" / "checkpoints").glob("0*")]
    shutil.rmtree(folder)
    return wall, cpu, result.summary["task_agnostic"]["average_accuracy"], max(sizes, default=0) / 2**20


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=list(TRIALS), choices=TRIALS)
    parser.add_argument("--every", default="60s", help="checkpoint.every")
    arguments = parser.parse_args()
    ratios: list[Ratio] = []
    for name in arguments.only:
        config = load_config("quickstart", [*TRIALS[name], "wandb.mode=disabled"])
        config = replace(config, checkpoint=Checkpoint(every=arguments.every))
        timed(config, *WAYS["without"])
        rounds = [{way: timed(config, *how) for way, how in WAYS.items()} for _ in range(arguments.rounds)]
        assert len({accuracy for timings in rounds for _, _, accuracy, _ in timings.values()}) == 1
        seconds = statistics.median(timings["without"][0] for timings in rounds)
        for number, way in enumerate(list(WAYS)[1:]):
            wall = [timings[way][0] / timings["without"][0] for timings in rounds]
            cpu = statistics.median(timings[way][1] / timings["without"][1] for timings in rounds)
            size = f", {rounds[0][way][3]:.2g} MB" if rounds[0][way][3] else ""
            note = f"trial of {seconds:.2f} s{size}; CPU time {cpu:.3f}"
            ratios.append(Ratio(f"{name}: {way}", wall, None if number else GOAL, note=note))
    save("safety", ratios, [f"Wall time of whole trials, to the same without; checkpoint.every is {arguments.every}."])


if __name__ == "__main__":
    main()
