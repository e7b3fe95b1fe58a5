"""`retain prepare`: prepare the data of a benchmark or of all streams of a config in the cache, and print what is there."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..config import registry
from ..config.load import build_config, config_names, load_config
from ..config.yaml_overrides import apply_overrides
from ..data.cache import DataFolders, opened_entries
from ..data.image_cache import SKIPPED
from ..data.streams import Stream
from ..errors import UserError, comma_separated, nearest
from ..sweep.plan import plan
from .terminal import one_line

_MAX_SKIPPED = 20  # skipped files that are printed


def prepared_lines(name: str, overrides: Sequence[str], console: Console) -> Iterator[str]:
    """Prepare the data of a benchmark or a config, with progress on `console`; yield lines that describe streams and cache.

    Raises:
        UserError: no such benchmark or config; invalid settings; missing data.
    """
    started, caches = time.perf_counter(), set()
    with _ProgressBars(console) as bars:
        for label, module, settings, data in _benchmarks(name, overrides):
            if not hasattr(module, "Config"):
                yield f"{label}: is an Avalanche benchmark, which prepares its data itself"
                continue
            folders = DataFolders.of(*data)
            caches.add(folders.cache)
            stream = module.build(settings, 0, DataFolders(folders.root, folders.cache, bars.progress))
            yield _stream_line(label, stream)
    seconds = time.perf_counter() - started
    for folder, is_new in opened_entries().items():
        if folder.parent in caches:
            yield from _entry_lines(folder, is_new)
    yield f"{seconds:.1f} s"


def _benchmarks(name: str, overrides: Sequence[str]) -> Iterator[tuple[str, Any, Any, tuple[str | None, str | None]]]:
    """The benchmarks to build, each once: label, module, settings, (data.root, data.cache)."""
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
            benchmark = trial.resolved.benchmark
            yield benchmark.name, benchmark.module, benchmark.config, (config.data.root, config.data.cache)


def _check_name(name: str) -> None:
    """Raise UserError, with all names, for a name that is neither a benchmark nor a config."""
    configs = config_names()
    if name in configs or Path(name).expanduser().is_file():
        return
    known = registry.names("benchmarks")
    raise UserError(
        f"prepare {name}: there is no such benchmark, config or file.{nearest(name, [*known, *configs])} "
        f"Benchmarks: {comma_separated(known)}. Configs: {comma_separated(configs)}."
    )


def _stream_line(label: str, stream: Stream) -> str:
    """A stream's numbers of experiences, classes and samples."""
    parts = {
        "training": [len(experience.train) for experience in stream.experiences],
        "validation": [len(experience.validation) for experience in stream.experiences],
        "test": [len(experience.test) for experience in stream.experiences],
    }
    counts = ", ".join(f"{sum(sizes):,} {part}" for part, sizes in parts.items())
    shape = "x".join(str(size) for size in stream.shape)
    return (
        f"{label}: {len(stream.experiences)} experiences, {len(stream.class_names)} classes, {shape}; samples: {counts}"
    )


def _entry_lines(folder: Path, is_new: bool) -> Iterator[str]:
    """A cache entry's folder, size and skipped files."""
    size = sum(path.stat().st_size for path in folder.glob("*.npy"))
    yield f"{'was prepared now' if is_new else 'is prepared'}: {folder} ({size:,} bytes)"
    incomplete = _num_incomplete_classes(folder)
    if incomplete:
        yield f"  classes that are not in every domain: {incomplete} (right for classes_and_domains, not for domain_incremental)"
    if (folder / SKIPPED).exists():
        skipped = (folder / SKIPPED).read_text(encoding="utf-8").splitlines()
        yield f"  files that were left out: {len(skipped)}, listed in {folder / SKIPPED}"
        yield from (f"    {line}" for line in skipped[:_MAX_SKIPPED])


def _num_incomplete_classes(folder: Path) -> int:
    """In a data set with domains: how many classes lack training pictures in at least one domain."""
    if not (folder / "train_d.npy").exists():
        return 0
    y, d = (np.load(folder / f"train_{name}.npy", allow_pickle=False) for name in "yd")
    present = np.zeros((y.max() + 1, d.max() + 1), dtype=bool)
    present[y, d] = True
    return int((~present[:, present.any(0)]).any(1).sum())


class _ProgressBars:
    """A context that shows a progress bar for each long step, under a line with the step's title."""

    def __init__(self, console: Console) -> None:
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._bar = Progress(TextColumn("  "), *columns, console=console, transient=True)
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> "_ProgressBars":
        return self

    def __exit__(self, *ended: object) -> None:
        self._bar.stop()

    def progress(self, title: str, done: int, total: int) -> None:
        """Update the bar of a step; print its title at the first call."""
        if title not in self._tasks:
            self._bar.console.print(one_line(f"preparing {title}"), soft_wrap=True)
            if self._bar.console.is_terminal:
                self._bar.start()
            self._tasks[title] = self._bar.add_task(title, total=total)
        self._bar.update(self._tasks[title], completed=done)
