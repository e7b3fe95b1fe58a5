"""Kill searches on Ray at random moments, resume them, and compare them with searches that were never stopped.

    uv run python tests/search_faults.py [--runs 10] [--seed 0]

Each run is a search of two variants by TPE with ASHA, or by NSGA-II, with one or two trials at a time; SIGKILL strikes twice: a
worker, or the sweep with all of its processes. With one trial at a time suggestions, decisions and matrices must be those of a
search in one process, to the bit. With two, nothing may be lost or run twice. Processes, signals and clusters are real.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from helpers import sweeps
from helpers.search_driver import SPACE, begin, drive, outcome, search_config
from ray_campaign import running

from retain.platform.ledger.journal import read_journal
from retain.platform.ledger.reader import trials_of

SEARCHES: dict[str, dict[str, Any]] = {
    "tpe + asha": {
        "search": {"tpe": {"startup": 2}},
        "scheduler": {"asha": {"grace_period": 1}},
        "search_seeds": [100, 101],
    },
    "nsga2": {
        "search": {"nsga2": {"population": 2}},
        "objective": ["validation.average_accuracy", "validation.forgetting_max"],
        "choose": "balanced",
    },
}
STRIKES = ("worker", "driver")
SAMPLES = 6
RESUMES = 8  # starts of a sweep, at most


def config_of(kind: str, max_concurrent: int) -> dict[str, Any]:
    """Return a config of a search of two variants, with checkpoints in the middle of experiences."""
    variants = {"naive": {"space": SPACE}, "replay": {"strategies": {"replay": {"memory": 20}}, "space": SPACE}}
    config = search_config(samples=SAMPLES, seeds=[0, 1], variants=variants, protocol="end_of_stream", **SEARCHES[kind])
    config["training"] = {"iterations": 60, "batch_size": 16}
    return config | {
        "wandb": {"mode": "disabled"},
        "ray": {"max_concurrent": max_concurrent, "max_failures": 20},
        "checkpoint": {"every": 0.3},
    }


def strike(process: Any, folder: Path, draw: random.Random) -> str:
    """Send SIGKILL after a random time in which trials run; return to what, or "" if the sweep ended before."""
    while process.poll() is None and not ((folder / "trials.json").exists() and running(folder)):
        time.sleep(0.02)
    time.sleep(draw.uniform(0, 4))
    kind = draw.choice(STRIKES)
    with suppress(ProcessLookupError):
        if process.poll() is None and kind == "driver":
            os.killpg(process.pid, signal.SIGKILL)
            return kind
        pids = running(folder)
        if process.poll() is None and pids:
            os.kill(draw.choice(pids), signal.SIGKILL)
            return kind
    return ""


def problems(folder: Path) -> list[str]:
    """Return what a finished search has lost or run twice."""
    found = []
    entries, trials = read_journal(folder), trials_of(folder)
    for variant in ("naive", "replay"):
        numbers = [e["number"] for e in entries if e["kind"] == "suggested" and e["variant"] == variant]
        if numbers != list(range(SAMPLES)):
            found.append(f"{variant}: suggested {numbers}")
        if sum(e["kind"] == "chosen" and e["variant"] == variant for e in entries) != 1:
            found.append(f"{variant}: not chosen once")
        own = [t for t in trials if t.role == "search" and t.identity["searched"] == variant]
        names = Counter((t.identity["configuration"], t.seed) for t in own)
        found += [f"{variant}: {name} ran {count} times" for name, count in names.items() if count > 1]
        found += [f"{variant}: {n} has no trial" for n in range(SAMPLES) if (n, 100) not in names]
        unpruned = [t.identity["configuration"] for t in own if t.seed == 100 and t.status().status == "done"]
        has_second = any(t.seed == 101 for t in trials)
        found += [f"{variant}: {n} lacks seed 101" for n in unpruned if has_second and (n, 101) not in names]
        seeds = sorted(t.seed for t in trials if t.role == "reported" and t.variant == variant)
        if seeds != [0, 1]:
            found.append(f"{variant}: reported seeds {seeds}")
    found += [f"{t.id}: {t.status()}" for t in trials if t.status().status not in ("done", "pruned")]
    return found + [f"{t.id}: {damage}" for t in trials if (damage := t.damage())]


def run(seed: int, kind: str, max_concurrent: int, base: Path) -> tuple[Counter[str], list[str]]:
    """Run one search with two kills; return what was struck, and what is wrong with the result."""
    draw = random.Random(seed)
    home = Path(tempfile.mkdtemp(dir=base))
    config = config_of(kind, max_concurrent)
    (home / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    folder, struck, output = home / "out", Counter[str](), ""
    arguments = ("sweep", "config.yaml", "--output", "out")
    for _ in range(RESUMES):
        process = sweeps.retain(home, *arguments)
        while sum(struck.values()) < 2:
            what = strike(process, folder, draw)
            struck[what] += bool(what)
            if what != "worker":
                break
        code, output = sweeps.ended(process, 600)
        if code == 0:
            break
        arguments = ("resume", "out")
    found = problems(folder)
    if max_concurrent == 1:
        begin(home / "alone", config)
        drive(home / "alone")
        ours, theirs = outcome(folder), outcome(home / "alone")
        found += [f"{key} differ" for key in ours if ours[key] != theirs[key]]
    struck.pop("", None)
    return struck, found + ([f"exit code {code}: {output[-300:]}"] if code else [])


def main() -> None:
    """Run the campaign and print the results; exit with 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=10, help="searches, with two kills each")
    parser.add_argument("--seed", type=int, default=0, help="of the first run; the others' follow")
    arguments = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="retain-search-faults-"))
    table: dict[tuple[str, int], Counter[str]] = {(kind, number): Counter() for kind in SEARCHES for number in (1, 2)}
    started = time.monotonic()
    for number in range(arguments.runs):
        kind, concurrent = list(table)[number % len(table)]
        struck, found = run(arguments.seed + number, kind, concurrent, base)
        table[kind, concurrent] += struck + Counter(searches=1, wrong=bool(found))
        print(
            f"seed {arguments.seed + number} {kind}, {concurrent} at a time: {dict(struck)}; {found or 'right'}",
            flush=True,
        )
    print(f"{'search':12} {'at a time':>9} {'searches':>8} {'worker':>6} {'driver':>6} {'wrong':>5}")
    for (kind, concurrent), counts in table.items():
        cells = [counts[name] for name in ("searches", "worker", "driver", "wrong")]
        print(f"{kind:12} {concurrent:9} {cells[0]:8} {cells[1]:6} {cells[2]:6} {cells[3]:5}")
    print(f"{time.monotonic() - started:.0f} s")
    sys.exit(any(counts["wrong"] for counts in table.values()))


if __name__ == "__main__":
    main()
