"""Mammoth's own main.py against `retain run` on the same work, from a checkout of Mammoth; see docs/speed.md.

    git clone https://github.com/aimagelab/mammoth PATH
    uv pip install --target PACKAGES --no-deps kornia kornia_rs onedrivedownloader six
    RETAIN_DATA=... uv run python tests/speed/mammoth.py PATH --packages PACKAGES

The work: MNIST in five tasks of two classes, one epoch in batches of 10, experience replay of 10 from a memory of 200, plain SGD,
the settings of configs/published/der_sequential.yaml, which are Mammoth's. Both sides are processes, timed from start to end, in
turn, with the same seeds. Nothing of Mammoth is copied or changed: its data are linked into a temporary folder, which also gets
its results. Its data sets that import CLIP are left out unless that is installed: for these files it sees empty modules.
"""

import argparse
import gzip
import json
import re
import statistics
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from measure import Ratio, run_process, save, table

from retain.platform.data.cache import DataFolders
from retain.platform.data.datasets import _idx, mnist

GOAL = 6.0  # how many times as long as retain Mammoth takes
CLIP = ("clip", "open_clip")  # packages
LEARNING_RATE, MEMORY, BATCH = 0.01, 200, 10
ARGUMENTS = {
    "dataset": "seq-mnist",
    "model": "er",
    "buffer_size": MEMORY,
    "minibatch_size": BATCH,
    "batch_size": BATCH,
    "lr": LEARNING_RATE,
    "n_epochs": 1,
    "non_verbose": 1,
}
OVERRIDES = (
    f"strategies={{replay: {{memory: {MEMORY}, policy: reservoir, batch_size: {BATCH}}}}}",
    f"training.optimizer.lr={LEARNING_RATE}",
)
# Runs main.py with some modules empty: python -c LAUNCHER "datasets.seq_svhn ..." PATH/main.py ARGUMENTS
LAUNCHER = """
import importlib.abc, importlib.util, pathlib, runpy, sys

class Skip(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        return importlib.util.spec_from_loader(name, self) if name in skipped else None

    def exec_module(self, module):
        pass

skipped = set(sys.argv.pop(1).split())
sys.meta_path.insert(0, Skip())
sys.argv.pop(0)
sys.path[0] = str(pathlib.Path(sys.argv[0]).parent)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def without_clip(checkout: Path) -> list[str]:
    """Return the modules in `datasets`, all of which Mammoth imports, that need a package of CLIP that is not installed."""
    missing = [name for name in CLIP if find_spec(name) is None]
    if not missing:
        return []
    pattern = re.compile(rf"^(import|from) ({'|'.join(missing)})\b", re.MULTILINE)
    files = sorted((checkout / "datasets").glob("*.py"))
    return [f"datasets.{file.stem}" for file in files if pattern.search(file.read_text(encoding="utf-8"))]


def link_data(folder: Path) -> None:
    """Put MNIST where Mammoth looks for it: the files unpacked, as torchvision wants them, for both of its classes."""
    raw = folder / "MNIST" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for path in _idx.find(mnist.FILES, DataFolders.of()).values():
        target = raw / path.name.removesuffix(".gz").replace(".idx", "-idx")
        if path.suffix == ".gz":
            target.write_bytes(gzip.decompress(path.read_bytes()))
        else:
            target.symlink_to(path)
    (folder / "MNIST" / "MyMNIST").symlink_to(raw.parent)


def run_mammoth(checkout: Path, packages: Path | None, data: Path, seed: int) -> tuple[float, float, float]:
    """Return seconds and CPU seconds of Mammoth's process, and its accuracy on all classes at the end."""
    arguments = ARGUMENTS | {"seed": seed, "base_path": f"{data}/"}
    options = [f"--{name}={value}" for name, value in arguments.items()]
    command = [sys.executable, "-c", LAUNCHER, " ".join(without_clip(checkout)), str(checkout / "main.py"), *options]
    more = {"PYTHONPATH": str(packages)} if packages else {}
    seconds, cpu, output = run_process(command, checkout, **more)
    accuracies = re.findall(r"Accuracy for 5 task\(s\):\s*\[Class-IL\]: ([\d.]+) %", output)
    if not accuracies:
        raise SystemExit(f"Mammoth printed no accuracy:\n{output[-3000:]}")
    return seconds, cpu, float(accuracies[0]) / 100


def run_retain(seed: int) -> tuple[float, float, float]:
    """Return seconds and CPU seconds of our process, and its accuracy on all classes at the end."""
    with tempfile.TemporaryDirectory() as name:
        command = [str(Path(sys.executable).with_name("retain")), "run", "published/der_sequential", *OVERRIDES]
        seconds, cpu, _ = run_process([*command, f"seed={seed}", "-o", "output"], Path(name))
        summary = json.loads((Path(name) / "output" / "summary.json").read_text(encoding="utf-8"))
        return seconds, cpu, summary["task_agnostic"]["average_accuracy"]


def ratio(name: str, theirs: list[float], ours: list[float], goal: float | None, note: str) -> Ratio:
    """Return their figure divided by ours, by seed."""
    medians = statistics.median(theirs), statistics.median(ours)
    values = [a / b for a, b in zip(theirs, ours, strict=True)]
    return Ratio(name, values, goal, at_least=True, note=note.format(*medians))


def main() -> None:
    """Run both sides in turn, once per seed; print and save the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="the folder with Mammoth's main.py")
    parser.add_argument("--packages", type=Path, help="a folder with packages that Mammoth needs and retain does not")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    chosen = parser.parse_args()
    checkout = chosen.checkout.absolute()
    packages = chosen.packages.absolute() if chosen.packages else None
    if not (checkout / "main.py").is_file():
        raise SystemExit(f"{checkout}: must be a checkout of Mammoth; it has no main.py")
    theirs, ours = [], []
    with tempfile.TemporaryDirectory() as name:
        link_data(Path(name))
        for seed in chosen.seeds:
            ours.append(run_retain(seed))
            theirs.append(run_mammoth(checkout, packages, Path(name), seed))
            print(f"seed {seed}: Mammoth {theirs[-1]}, retain {ours[-1]}", file=sys.stderr, flush=True)
    seconds, cpu, accuracy = (([side[i] for side in theirs], [side[i] for side in ours]) for i in range(3))
    results = [
        ratio("process time, Mammoth / retain", *seconds, GOAL, "{:.1f} / {:.1f} s"),
        ratio("CPU time, Mammoth / retain", *cpu, None, "{:.1f} / {:.1f} s"),
    ]
    rows = [
        [side, *(f"{value:.3f}" for value in (*values, statistics.mean(values)))]
        for side, values in (("Mammoth", accuracy[0]), ("retain", accuracy[1]))
    ]
    head = ["accuracy over all classes at the end", *(f"seed {seed}" for seed in chosen.seeds), "mean"]
    verdict = "met" if statistics.mean(accuracy[1]) >= statistics.mean(accuracy[0]) else "missed"
    save("mammoth", results, [table(head, rows), f"The goal of an equal or better mean accuracy is {verdict}."])


if __name__ == "__main__":
    main()
