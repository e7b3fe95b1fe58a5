"""Write run folders in the ledger's format without training: accuracy matrices, states and configs as a test needs them."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

from retain.platform.ledger.writer import SweepLedger, TrialLedger

NAN = math.nan
CLASS = [
    [NAN, NAN],
    [0.9, NAN],
    [0.2, 0.8],
]  # ACC 50, incremental (90 + (0.2 * 100 + 0.8 * 300) / 4) / 2, forgetting 70
AWARE = [[NAN, NAN], [0.95, NAN], [0.85, 0.9]]
DOMAIN = [[0.1, 0.1], [0.9, 0.3], [0.6, 0.8]]
JOINT = [[NAN, NAN], [NAN, NAN], [0.7, 0.9]]


def identity(variant: str, seed: int = 0, stream: str = "class_incremental") -> dict[str, Any]:
    """Return the content of trial.json."""
    name = f"{crc32(variant.encode()):08x}-{stream[:5]}-{seed}"
    return {"id": name, "variant": variant, "stream": stream, "seed": seed, "overrides": {}}


def write_trial(
    folder: Path,
    who: Mapping[str, Any],
    agnostic: Sequence[Sequence[float]] = CLASS,
    aware: Sequence[Sequence[float]] | None = None,
    *,
    status: Any = "done",
    error: str | None = None,
    config: str = "schema: 1\nstrategies: {}\n",
) -> Path:
    """Write a trial's folder in the ledger's format; a completed one has a matrix and two epochs per experience."""
    scenario = "domain" if who["stream"].startswith("domain") else "class"
    with TrialLedger.create(folder, config, who) as ledger:
        if status == "done":
            matrix = {"num_experiences": 2, "experiences": ["classes 0, 1", "classes 2, 3"], "sizes": [100, 300]}
            views = {"task_agnostic": agnostic, "task_aware": agnostic if aware is None else aware}
            ledger.write("matrix", {**matrix, "scenario": scenario, "class_names": list("abcd"), **views})
            ledger.write("summary", {"seconds": 1.0})
            for iteration, experience in enumerate((1, 1, 2, 2)):
                ledger.append("epoch", experience, iteration, {"epoch": iteration % 2, "loss": 1.0 / (1 + iteration)})
        ledger.write("environment", {"retain": "0.1.0", "git": {"commit": "abcdef0123456789", "clean": False}})
        ledger.status(status, experience=2 if status == "done" else 1, error=error)
    return folder


def write_sweep(folder: Path, trials: Sequence[tuple[Mapping[str, Any], dict[str, Any]]], name: str = "demo") -> Path:
    """Write a sweep's folder; a trial's second item goes to `write_trial`, and "absent" omits its folder."""
    with SweepLedger.create(folder, "schema: 1\n", name, [who for who, _ in trials]):
        for who, options in trials:
            if options != {"absent": True}:
                write_trial(folder / "trials" / str(who["id"]), who, **options)
    return folder
