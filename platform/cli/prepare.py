"""`retain prepare`: brings the data of a benchmark, or of all of a config's streams, into the cache, and says what is there."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..config import registry
from ..config.load import build_config, config_names, load_config
from ..config.yaml_overrides import apply_overrides
from ..data.cache import DataFolders, opened_entries
from ..data.image_cache import SKIPPED
from ..data.streams import Stream
from ..errors import UserError, listed, nearest
from ..sweep.plan import plan
from ..trial.resolve import plugin_configs

_SHOWN = 20  # skipped files that are named


def prepared_lines(name: str, overrides: Sequence[str], console: Console) -> Iterator[str]:
    """Prepare what a benchmark or a config needs; what is made is shown on `console`, what there is then is said line by line.

    Raises:
        UserError: no such benchmark or config, settings that are refused, data that are missing.
    """
    started, caches = time.perf_counter(), set()
    with _Shown(console) as shown:
        for label, module, settings, data in _benchmarks(name, overrides):
            if not hasattr(module, "Config"):
                yield f"{label}: is Avalanche's own, which prepares its data itself"
                continue
            folders = DataFolders.of(*data)
            caches.add(folders.cache)
            stream = module.build(settings, 0, DataFolders(folders.root, folders.cache, shown.progress))
            yield _of_stream(label, stream)
    seconds = time.perf_counter() - started
    for folder, made in opened_entries().items():
        if folder.parent in caches:
            yield from _of_entry(folder, made)
    yield f"{seconds:.1f} s"


def _benchmarks(name: str, overrides: Sequence[str]) -> Iterator[tuple[str, Any, Any, tuple[str | None, str | None]]]:
    """What is to be built: label, module, settings, (data.root, data.cache); each distinct one once."""
    if name in registry.names("benchmarks"):
        module = registry.resolve("benchmarks", name)
        yield (
            name,
            module,
            build_config(module.Config, apply_overrides({}, overrides), f"benchmark.{name}"),
            (None, None),
        )
        return
    _check_name(name)
    seen = []
    for trial in plan(load_config(name, overrides)):
        config = trial.config
        key = (config.benchmark, config.data)
        if key not in seen:
            seen.append(key)
            ((module, settings),) = plugin_configs(config, "benchmarks")
            yield next(iter(config.benchmark)), module, settings, (config.data.root, config.data.cache)


def _check_name(name: str) -> None:
    """Refuse what is neither a benchmark nor a config, with the names of both."""
    configs = config_names()
    if name in configs or Path(name).expanduser().is_file():
        return
    known = registry.names("benchmarks")
    raise UserError(
        f"prepare {name}: there is no such benchmark, config or file.{nearest(name, [*known, *configs])} "
        f"Benchmarks: {listed(known)}. Configs: {listed(configs)}."
    )


def _of_stream(label: str, stream: Stream) -> str:
    """A stream in a line."""
    parts = {
        "training": [len(one.train) for one in stream.experiences],
        "validation": [len(one.validation) for one in stream.experiences],
        "test": [len(one.test) for one in stream.experiences],
    }
    counts = ", ".join(f"{sum(sizes):,} {part}" for part, sizes in parts.items())
    shape = "x".join(str(size) for size in stream.shape)
    return (
        f"{label}: {len(stream.experiences)} experiences, {len(stream.class_names)} classes, {shape}; samples: {counts}"
    )


def _of_entry(folder: Path, made: bool) -> Iterator[str]:
    """An entry of the cache: where it lies, how large it is, what was left out."""
    size = sum(path.stat().st_size for path in folder.glob("*.npy"))
    yield f"{'was prepared now' if made else 'is prepared'}: {folder} ({size:,} bytes)"
    lone = _lone_classes(folder)
    if lone:
        yield f"  {lone} classes are not in every domain: right for classes_and_domains, not for domain_incremental"
    if (folder / SKIPPED).exists():
        skipped = (folder / SKIPPED).read_text(encoding="utf-8").splitlines()
        yield f"  {len(skipped)} files were left out, listed in {folder / SKIPPED}:"
        yield from (f"    {line}" for line in skipped[:_SHOWN])


def _lone_classes(folder: Path) -> int:
    """How many classes of a set with domains have no training pictures in one of those."""
    if not (folder / "train_d.npy").exists():
        return 0
    y, d = (np.load(folder / f"train_{name}.npy", allow_pickle=False) for name in "yd")
    there = np.zeros((y.max() + 1, d.max() + 1), dtype=bool)
    there[y, d] = True
    return int((~there[:, there.any(0)]).any(1).sum())


class _Shown:
    """A bar for what takes long, under a line that says what it is."""

    def __init__(self, console: Console) -> None:
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._bar = Progress(TextColumn("  "), *columns, console=console, transient=True)
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> "_Shown":
        return self

    def __exit__(self, *ended: object) -> None:
        self._bar.stop()

    def progress(self, title: str, done: int, total: int) -> None:
        """Take in how far it has come."""
        if title not in self._tasks:
            self._bar.console.print(f"prepares {escape(title)}", soft_wrap=True)
            if self._bar.console.is_terminal:
                self._bar.start()
            self._tasks[title] = self._bar.add_task(title, total=total)
        self._bar.update(self._tasks[title], completed=done)
