"""Kill workers, drivers and nodes of sweeps on Ray at random moments, resume the sweeps, and compare them bit by bit.

    uv run python tests/ray_campaign.py [--runs 20] [--seed 0]

Each run is a sweep of three trials (with random strategies) on a new cluster: a local one, or one of three nodes. A worker is the
process that its trial's environment.json names. Processes, signals and clusters are real.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from faults import STRATEGIES
from helpers import sweeps

from retain.platform.config.load import from_dict
from retain.platform.config.yaml_files import read_yaml
from retain.platform.contract.outcome import differences, outcome
from retain.platform.ledger.reader import Trial, trials_of
from retain.platform.trial.run import run as run_trial

KINDS = {
    "worker": "SIGKILL of the worker of a running trial; Ray starts it again",
    "worker told": "SIGTERM of it, as on a machine that is taken away",
    "driver": "SIGKILL of `retain sweep` and all of its process group; `retain resume`",
    "driver told": "SIGTERM of `retain sweep`, as Slurm sends it; `retain resume`",
    "Ctrl-C": "SIGINT of its process group; `retain resume`",
    "node": "a node of the cluster dies with its workers; the trials go on elsewhere",
}


@contextmanager
def cluster(kind: str) -> Iterator[tuple[Any, dict[str, str]]]:
    """Yield a cluster for the kind of fault (None: the sweep starts a local one), and the driver's environment variables."""
    if kind != "node":
        yield None, {}
        return
    from ray.cluster_utils import Cluster

    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [started.add_node(num_cpus=1) for _ in range(2)]
    try:
        # the cluster read its token from this home folder
        yield (started, nodes), {"RAY_ADDRESS": started.address, "HOME": os.environ["HOME"]}
    finally:
        started.shutdown()


def running(folder: Path) -> list[int]:
    """Return the processes that run trials now."""
    trials = [one for one in trials_of(folder) if one.status().status == "running"] if folder.exists() else []
    environments = [one.read("environment") for one in trials]
    return [pid for one in environments if one and psutil.pid_exists(pid := int(one["pid"]))]


def strike(kind: str, process: Any, folder: Path, clustered: Any, draw: random.Random) -> bool:
    """Let the fault happen once a trial runs; return whether the sweep was still running."""
    while process.poll() is None and not ((folder / "trials.json").exists() and running(folder)):
        time.sleep(0.05)
    time.sleep(draw.uniform(0, 1.5))
    pids = running(folder)
    if not pids or process.poll() is not None:
        return False
    with suppress(ProcessLookupError):
        if kind.startswith("worker"):
            os.kill(draw.choice(pids), signal.SIGKILL if kind == "worker" else signal.SIGTERM)
        elif kind == "node":
            started, nodes = clustered
            started.remove_node(draw.choice(nodes), allow_graceful=False)
            started.add_node(num_cpus=1)
        else:
            number = {"driver": signal.SIGKILL, "driver told": signal.SIGTERM, "Ctrl-C": signal.SIGINT}[kind]
            (os.kill if kind == "driver told" else os.killpg)(process.pid, number)
    return True


def run(seed: int, kind: str, base: Path) -> tuple[bool, list[str]]:
    """Run one sweep; return whether the fault struck, and where the trials differ from uninterrupted ones."""
    draw = random.Random(seed)
    home = Path(tempfile.mkdtemp(dir=base))
    variants = {f"v{number}": {"strategies": one} for number, one in enumerate(draw.sample(STRATEGIES, 3))}
    sweeps.write_config(
        home,
        benchmark={"split_digits": {}},
        training={"epochs": 40, "batch_size": 16, "optimizer": {"name": "adam", "lr": 0.003, "reset": False}},
        checkpoint={"every": draw.choice([0.1, 0.5, "60s"])},
        sweep={"variants": variants},
        wandb={"mode": "disabled"},
    )
    folder = home / "out"
    with cluster(kind) as (clustered, environment):
        process = sweeps.retain(home, "sweep", "config.yaml", "--output", "out", **environment)
        struck = strike(kind, process, folder, clustered, draw)
        _, output = sweeps.ended(process, 400)
        for _ in range(3):
            if all(one.status().status == "done" for one in trials_of(folder)):
                break
            _, output = sweeps.ended(sweeps.retain(home, "resume", "out", **environment), 400)
    different = []
    for one in trials_of(folder):
        if one.status().status != "done":
            different.append(f"{one.id}: {one.status()}: {output[-300:]}")
            continue
        alone = home / f"alone-{one.id}"
        run_trial(from_dict(read_yaml(one.folder / "config.yaml")), alone, identity=Trial(one.folder).identity)
        different += [f"{one.id}: {what}" for what in differences(outcome(alone), outcome(one.folder))]
    return struck, different


def main() -> None:
    """Run the campaign and print the results; exit with 1 if a bit differs."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=18)
    parser.add_argument("--seed", type=int, default=0, help="of the first run; the others' follow")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    arguments = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="retain-ray-faults-"))
    struck: Counter[str] = Counter()
    differing = 0
    started = time.monotonic()
    for number in range(arguments.runs):
        kind = arguments.kinds[number % len(arguments.kinds)]
        hit, different = run(arguments.seed + number, kind, base)
        struck[kind] += hit
        differing += bool(different)
        print(
            f"seed {arguments.seed + number} {kind}: {'struck' if hit else 'came too late'}; {different or 'same bits'}",
            flush=True,
        )
    for kind, text in KINDS.items():
        print(f"{kind:12} {struck[kind]:4}  {text}")
    print(
        f"{arguments.runs} sweeps of 3 trials, {sum(struck.values())} faults struck, {differing} sweeps differ, "
        f"{time.monotonic() - started:.0f} s"
    )
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
