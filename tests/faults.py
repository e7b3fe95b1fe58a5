"""Kill, signal and damage trials at random moments, resume them, and compare them bit by bit with uninterrupted ones.

    uv run python tests/faults.py [--runs 240] [--seed 0] [--jobs 2]

Each run has a seed, which is printed if something differs: `--only SEED` repeats that run. A run samples a config (strategies,
stream, optimizer, precision, how often checkpoints are written) and one to three faults of the kinds below. All processes and
signals are real. `make faults` runs this and the campaign on Ray; pytest runs a sample of it.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from helpers.processes import forkserver

from retain.platform.config.load import from_dict, to_dict
from retain.platform.config.schema import Checkpoint, Experiment
from retain.platform.contract.outcome import Outcome, differences, outcome
from retain.platform.ledger.reader import Trial
from retain.platform.trial.run import run as run_trial

KINDS = {
    "moment": "SIGKILL at a random moment, from outside",
    "iteration": "SIGKILL between two iterations",
    "backward": "SIGKILL inside of an iteration, after the gradients",
    "evaluation": "SIGKILL inside of an evaluation",
    "file": "SIGKILL at an operation on a file of the run: an opening, renaming, removing, making of a folder",
    "checkpoint": "the same, on the files of a checkpoint",
    "SIGTERM": "SIGTERM at a random moment, from outside",
    "SIGINT": "Ctrl-C, likewise",
    "flip": "SIGKILL between two iterations, then a bit of a file of the newest checkpoint is flipped",
    "cut": "the same, the file is truncated",
    "clock": "SIGKILL between two iterations; the wall clock jumps by up to a year while the trial runs",
}
STRATEGIES: list[dict[str, Any]] = [
    {},
    {"lwf": {}},
    {"lwf": {"loss": "mse"}},
    {"freezing": {}},
    {"early_stopping": {"patience": 1}},
    {"replay": {"memory": 30}},
    {"replay": {"memory": 30, "policy": "reservoir", "batch_size": 7}},
    {"cumulative": {}},
    {"joint": {}},
    {"lwf": {}, "replay": {"memory": 20}, "early_stopping": {"patience": 1}, "freezing": {}},
]
MLP = {"mlp": {"hidden": [16], "dropout": 0.2}}
CNN = {"small_cnn": {"channels": [4], "hidden": 16, "norm": "batch"}}
STREAMS: list[dict[str, Any]] = [
    {"benchmark": {"split_digits": {}}, "model": MLP},
    {"benchmark": {"split_digits": {"num_experiences": 2}}, "model": MLP},
    {"benchmark": {"rotated_digits": {"angles": [0, 45, 90]}}, "model": CNN},
    {"benchmark": {"permuted_digits": {"num_experiences": 3}}, "model": MLP},
]
TRAININGS: list[dict[str, Any]] = [
    {"epochs": 2, "batch_size": 32},
    {"epochs": 2, "batch_size": 32, "optimizer": {"name": "adam", "lr": 0.01, "reset": False}},
    {"iterations": 40, "batch_size": 64, "schedule": {"name": "cosine", "warmup": 0.2}, "optimizer": {"clip": 1.0}},
    {"epochs": 2, "batch_size": 64, "precision": "bfloat16"},
    {
        "epochs": 2,
        "batch_size": 64,
        "precision": "float16",
        "optimizer": {"name": "adamw", "lr": 0.003, "reset": False},
    },
]
EVERY: list[str | float | None] = [0, 0.05, "60s", None]
# Starting a process also polls the exit codes of all others: of two threads that read the same exit code, the later gets 255.
PROCESSES = threading.Lock()
MUTATING = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}


@dataclass
class Run:
    """A run: its seed, config, the faults that struck, and where its results differ from an uninterrupted trial's."""

    seed: int
    config: Experiment
    faults: list[str]
    struck: list[str]
    differs: list[str]


# In the process of the trial.


class Weapon:
    """Count the trial's operations by kind; kill its process at a given count of one kind."""

    def __init__(self, folder: Path, progress: Any, kind: str = "", at: int = -1, jump: float = 0.0) -> None:
        self.folder, self.progress, self.kind, self.at = str(folder), progress, kind, at
        self.counts: Counter[str] = Counter()
        if jump:
            _jumping_clock(jump)

    def note(self, kind: str) -> None:
        """Count one more operation of a kind."""
        self.counts[kind] += 1
        self.progress.value = self.counts["iteration"]
        if kind == self.kind and self.counts[kind] > self.at >= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Audit hook, which the interpreter calls before an operation."""
        if event == "open":
            touches = isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        else:
            touches = event in MUTATING
        path = str(arguments[0]) if touches else ""
        if not touches or not (
            path.startswith(self.folder) or "/" not in path
        ):  # the latter: inside a folder that is held open
            return
        self.note("file")
        if "/checkpoints" in path or "/" not in path:
            self.note("checkpoint")

    def take_up(self) -> None:
        """Attach to the learner and the interpreter."""
        from retain.platform.training.evaluation import TestSet
        from retain.platform.training.learner import Learner

        for cls, method, kind in (
            (Learner, "backward", "backward"),
            (Learner, "_unpack_minibatch", "iteration"),
            (TestSet, "row", "evaluation"),
        ):
            setattr(cls, method, self._noted(getattr(cls, method), kind))
        sys.addaudithook(self.audit)

    def _noted(self, original: Callable[..., Any], kind: str) -> Callable[..., Any]:
        def method(*arguments: Any, **named: Any) -> Any:
            result = original(*arguments, **named)
            self.note(kind)
            return result

        return method


def _jumping_clock(jump: float) -> None:
    """Let the wall clock jump back and forth at each reading."""
    real, sign = time.time, [1]

    def jumping() -> float:
        sign[0] = -sign[0]
        return real() + sign[0] * jump

    time.time = jumping


def victim(config: dict[str, Any], folder: Path, progress: Any, kind: str, at: int, jump: float) -> None:
    """Run the trial in this process with a weapon attached; `progress` reports the iterations to the parent."""
    weapon = Weapon(folder, progress, kind, at, jump)
    weapon.take_up()
    run_trial(from_dict(config), folder)
    folder.with_suffix(".counts").write_text(json.dumps(weapon.counts))


# In the process of the campaign.


def random_config(draw: random.Random, seed: int) -> Experiment:
    """Return a random config."""
    parts = draw.choice(STREAMS) | {"strategies": draw.choice(STRATEGIES), "training": draw.choice(TRAININGS)}
    return from_dict({"name": "fault", "seed": seed, **parts})


class Campaign:
    """Runs with seeds; the uninterrupted trial of a config is run once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._context = forkserver()
        self._uninterrupted: dict[str, tuple[Outcome, dict[str, int]]] = {}

    def uninterrupted(self, config: Experiment) -> tuple[Outcome, dict[str, int]]:
        """Return the outcome of the uninterrupted trial, and how often it does each operation that a weapon can strike at."""
        plain = to_dict(replace(config, checkpoint=Checkpoint(every=None)))
        key = json.dumps(plain)
        if key not in self._uninterrupted:
            folder = Path(tempfile.mkdtemp(dir=self.folder)) / "trial"
            code = self._ended(
                replace(config, checkpoint=Checkpoint(every=0)), folder
            )  # counts all possible checkpoints
            assert code == 0, f"{code}: {_log(folder)}"
            self._uninterrupted[key] = outcome(folder), json.loads(folder.with_suffix(".counts").read_text())
            shutil.rmtree(folder.parent)
        return self._uninterrupted[key]

    def run(self, seed: int, kinds: list[str] | None = None) -> Run:
        """Do one run; `kinds` are the kinds of its faults, sampled by default."""
        draw = random.Random(seed)
        config = random_config(draw, seed % 3)
        expected, counts = self.uninterrupted(config)
        config = replace(config, checkpoint=Checkpoint(every=draw.choice(EVERY), keep=draw.choice([1, 2, 3])))
        faults = kinds or [draw.choice(list(KINDS)) for _ in range(draw.choice([1, 1, 2, 3]))]
        run = Run(seed, config, faults, [], [])
        folder = Path(tempfile.mkdtemp(dir=self.folder)) / "trial"
        for fault in faults:
            if self._strike(config, folder, fault, counts, draw):
                run.struck.append(fault)
        code = 0 if _done(folder) else self._ended(config, folder)
        run.differs = differences(expected, outcome(folder)) if code == 0 else [f"exit code {code}: {_log(folder)}"]
        if not run.differs:
            shutil.rmtree(folder.parent)
        return run

    def _process(
        self, config: Experiment, folder: Path, kind: str = "", at: int = -1, jump: float = 0.0
    ) -> tuple[Any, Any]:
        progress = self._context.Value("i", 0, lock=False)
        process = self._context.Process(target=victim, args=(to_dict(config), folder, progress, kind, at, jump))
        with PROCESSES:
            process.start()
        return process, progress

    def _ended(self, config: Experiment, folder: Path) -> int:
        """Run the trial, or resume it; return the exit code."""
        return _code(self._process(config, folder)[0])

    def _strike(
        self, config: Experiment, folder: Path, fault: str, counts: dict[str, int], draw: random.Random
    ) -> bool:
        """Let a fault happen to a process of the trial; return whether it did before the trial ended."""
        if _done(folder):
            return False
        weapon = {"flip": "iteration", "cut": "iteration", "clock": "iteration"}.get(fault, fault)
        from_outside = weapon not in counts
        counted = "iteration" if from_outside else weapon
        at = int(counts[counted] * draw.random() ** 2)  # rather early: after a fault, less is left to train
        if from_outside:
            process, progress = self._process(config, folder)
            while not wait([process.sentinel], draw.uniform(0, 0.004)) and progress.value < at:
                pass
            if not wait([process.sentinel], 0):
                os.kill(process.pid, signal.Signals[fault] if fault.startswith("SIG") else signal.SIGKILL)
        else:
            jump = draw.uniform(0, 3e7) if fault == "clock" else 0.0
            process, _ = self._process(config, folder, weapon, at, jump)
        struck: bool = _code(process) != 0
        if struck and fault in ("flip", "cut"):
            _damage(folder / "checkpoints", fault, draw)
        return struck


def _code(process: Any) -> int:
    """Return the exit code of a process, which must end in time."""
    wait([process.sentinel], 120)
    with PROCESSES:
        code = process.exitcode
    if code is None:
        process.kill()
        raise TimeoutError("a process did not end")
    return int(code)


def _done(folder: Path) -> bool:
    return (folder / "trial.json").exists() and Trial(folder).status().status == "done"


def _log(folder: Path) -> str:
    log = folder / "trial.log"
    return log.read_text()[-600:] if log.exists() else "no log"


def _damage(folder: Path, how: str, draw: random.Random) -> None:
    """Damage a file of the newest checkpoint, if one exists."""
    checkpoints = sorted(folder.glob("[0-9]*"))
    files = sorted(path for path in (checkpoints[-1].iterdir() if checkpoints else ()) if path.stat().st_size)
    if files:
        path = draw.choice(files)
        data = bytearray(path.read_bytes())
        if how == "cut":
            data = data[: draw.randrange(len(data))]
        else:
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)


def main() -> None:
    """Run the campaign and print the results; exit with 1 if a bit differs."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=240)
    parser.add_argument("--seed", type=int, default=0, help="of the first run; the others' follow")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--only", type=int, help="run this seed alone")
    arguments = parser.parse_args()
    seeds = [arguments.only] if arguments.only is not None else range(arguments.seed, arguments.seed + arguments.runs)
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="retain-faults-", dir=memory if os.access(memory, os.W_OK) else None))
    os.environ.setdefault("RETAIN_CACHE", str(folder / "cache"))
    started, campaign = time.monotonic(), Campaign(folder)
    runs: list[Run] = []
    broken: list[str] = []

    def one(seed: int) -> None:
        try:
            runs.append(campaign.run(seed))
        except (AssertionError, TimeoutError, OSError, ValueError, KeyError):
            broken.append(f"seed {seed}: {traceback.format_exc()}")
        if len(runs) % 20 == 0:
            print(
                f"{len(runs)} runs, {sum(len(run.struck) for run in runs)} faults, {time.monotonic() - started:.0f} s"
            )

    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(one, seeds))
    struck = Counter(fault for run in runs for fault in run.struck)
    for kind, text in KINDS.items():
        print(f"{kind:10} {struck[kind]:4}  {text}")
    differing = [run for run in runs if run.differs]
    for run in differing:
        print(f"seed {run.seed}: {run.faults} {to_dict(run.config)}\n    {run.differs[:3]}")
    print(*broken, sep="\n")
    print(
        f"seeds {min(seeds)}-{max(seeds)}: {len(runs)} runs, {sum(struck.values())} faults struck, {len(differing)} runs differ, "
        f"{len(broken)} broke, {time.monotonic() - started:.0f} s"
    )
    if not differing and not broken:
        shutil.rmtree(folder)
    sys.exit(bool(differing or broken))


if __name__ == "__main__":
    main()
