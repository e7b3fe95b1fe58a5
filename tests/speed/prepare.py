"""What preparing pictures costs, against a bare loop, and how much memory processes that map an entry share; nothing is asserted.

    uv run python tests/speed/prepare.py

Time: emoji (from `make data`, else small PNGs made here) and photographs (JPEGs made here), with one thread and with all, against
a bare loop that opens, converts, resizes and stacks them in memory; in turn.
Memory: N processes open the same entry and read all of it; the increase of their proportional set sizes (PSS: a page shared by N
counts 1/N in each), summed, against N private copies. Linux only.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from measure import Ratio, save, table
from PIL import Image, ImageOps

from retain.platform.data import image_cache
from retain.platform.data.cache import DataFolders
from retain.platform.data.datasets import emoji
from retain.platform.data.image_cache import Listing

CHILD = """
import sys
from pathlib import Path
import numpy as np, torch
from retain.platform.data.cache import _open
def pss():
    return int(next(line for line in open("/proc/self/smaps_rollup") if line.startswith("Pss:")).split()[1])
torch.ones(1000).sum()
print(pss(), flush=True)
sys.stdin.readline()
folder = Path(sys.argv[2])
if sys.argv[1] == "mapped":
    found = list(_open(folder).values())
else:
    found = [torch.from_numpy(np.load(path)) for path in folder.glob("*.npy")]
for tensor in found:
    for rows in tensor.split(256):
        rows.max()
print("read", flush=True)
sys.stdin.readline()
print(pss(), flush=True)
sys.stdin.readline()
"""


def emoji_files() -> list[Path]:
    root = Path(os.environ.get("RETAIN_DATA") or "data").absolute() / "emoji"
    if not root.is_dir():
        return []
    parts, _ = emoji._listed(root)
    return [*parts["train"].paths, *parts["test"].paths]


def made_files(folder: Path, num: int, size: tuple[int, int], suffix: str) -> list[Path]:
    """Write smooth pictures with some noise, like photographs."""
    paths = []
    for i in range(num):
        generator = np.random.default_rng(i)
        small = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(small.resize(size, Image.Resampling.BICUBIC), dtype=np.int16)
        image = np.clip(smooth + generator.integers(-12, 13, smooth.shape), 0, 255).astype(np.uint8)
        paths.append(folder / f"{i:05d}{suffix}")
        Image.fromarray(image).save(paths[-1])
    return paths


def bare(paths: list[Path], size: int) -> None:
    """Do the minimum: no threads, no cache, no checks."""
    images = []
    for path in paths:
        with Image.open(path) as image:
            images.append(np.asarray(ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BILINEAR)))
    np.stack(images).transpose(0, 3, 1, 2).copy()


def prepare(paths: list[Path], size: int, threads: int) -> None:
    usual = image_cache.num_workers
    image_cache.num_workers = lambda: threads
    try:
        with tempfile.TemporaryDirectory() as cache:
            image_cache.cached_images(
                "x", {"train": Listing(paths, [0] * len(paths))}, size, DataFolders(None, Path(cache))
            )
    finally:
        image_cache.num_workers = usual


def seconds(action: Callable[[], object]) -> float:
    """Return the wall time of an action: threads save that only."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def times(title: str, paths: list[Path], size: int, repeats: int) -> list[Ratio]:
    """Return the ratios to the bare loop; the ways run in turn."""
    ways: dict[str, Callable[[], object]] = {"bare loop": lambda: bare(paths, size)}
    for threads in sorted({1, image_cache.num_workers()}):
        ways[f"{threads} thread{'s' * (threads > 1)}"] = lambda threads=threads: prepare(paths, size, threads)
    measured = [{name: seconds(action) for name, action in ways.items()} for _ in range(repeats)]
    ratios = []
    for name in list(ways)[1:]:
        rate = len(paths) / statistics.median(each[name] for each in measured)
        values = [each[name] / each["bare loop"] for each in measured]
        note = f"{len(paths)} pictures to {size}x{size}, {rate:.0f} pictures/s"
        ratios.append(Ratio(f"{title}, {name} / bare loop", values, note=note))
    return ratios


def pss_of(way: str, folder: Path, num: int) -> float:
    """Return by how many MB the memory of `num` processes grows when each has read everything."""
    command = [sys.executable, "-c", CHILD, way, str(folder)]
    children = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(num)]
    answers: list[list[str]] = []
    for _ in range(3):  # all processes finish a step before the next one starts
        step = []
        for child in children:
            assert child.stdout is not None
            step.append(child.stdout.readline())
        answers.append(step)
        for child in children:
            assert child.stdin is not None
            child.stdin.write("\n")
            child.stdin.flush()
    for child in children:
        child.communicate(timeout=60)
    before, after = (sum(int(line) for line in answers[i]) for i in (0, 2))
    return (after - before) / 1024


def memory(folder: Path) -> list[str]:
    """Return a sentence and a table on the memory of processes that read the same entry."""
    size = sum(path.stat().st_size for path in folder.glob("*.npy")) / 2**20
    rows = []
    for num in (1, 2, 4):
        mapped, private = pss_of("mapped", folder, num), pss_of("private", folder, num)
        rows.append([str(num), f"{mapped:.1f}", f"{private:.1f}"])
    sentence = (
        f"MiB that processes need when all read an entry of {size:.1f} MiB, over what they had before (sum of PSS):"
    )
    return [sentence, table(["processes", "mapped, as retain does", "private copies"], rows)]


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    warnings.filterwarnings("ignore", "Palette images", UserWarning)  # the bare loop does not care
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        small = emoji_files() or made_files(folder, 2000, (64, 64), ".png")
        ratios = times("emoji" if small[0].parent != folder else "small PNGs", small, 64, repeats)
        ratios += times("photographs of 1024x768", made_files(folder, 300, (1024, 768), ".jpg"), 64, repeats)
        listing = {"train": Listing(small, [0] * len(small))}
        image_cache.cached_images("shared", listing, 64, DataFolders(None, folder / "cache"))
        save("prepare", ratios, memory(folder / "cache" / "shared-v1"))


if __name__ == "__main__":
    main()
