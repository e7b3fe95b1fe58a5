"""What each protocol chooses, by how much an oracle overstates accuracy, what ASHA saves; writes docs/selection.md.

    uv run python tests/selection.py [FOLDER]      default: build/selection; about 20 minutes on 2 cores; resumes

Split Fashion-MNIST (five experiences of two classes) and rotated MNIST (five angles), an MLP, 12 configurations for each of five
methods, found with one search seed; the chosen ones are trained again with five other seeds. `transfer` searches on Split MNIST.
"""

import argparse
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from retain import resume, sweep
from retain.platform.ledger.reader import Trial, is_sweep
from retain.platform.metrics import interval
from retain.platform.reporting.search_results import SearchResult, searches_of

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "selection.md"
LR = {"training.optimizer.lr": {"loguniform": [0.001, 0.3]}}
VARIANTS: dict[str, Any] = {
    "naive": {"space": LR},
    "lwf": {"strategies": {"lwf": {}}, "space": {**LR, "strategies.lwf.weight": {"loguniform": [0.03, 30]}}},
    "ewc": {"strategies": {"ewc": {}}, "space": {**LR, "strategies.ewc.weight": {"loguniform": [1, 10000]}}},
    "replay": {"strategies": {"replay": {"memory": 200}}, "space": LR},
    "freezing + early stopping": {
        "strategies": {"freezing": {}, "early_stopping": {}},
        "space": {**LR, "strategies.freezing.layers": {"choice": [1, "trunk"]}},
    },
}
STREAMS: dict[str, Any] = {
    "split_fashion_mnist": {"split_fashion_mnist": {"validation": 0.1, "shots": 500, "shots_from": 0}},
    "rotated_mnist": {
        "rotated_mnist": {"angles": [0, 36, 72, 108, 144], "validation": 0.1, "shots": 100, "shots_from": 0}
    },
}
PROTOCOLS: dict[str, Any] = {
    "first_experiences": {"first_experiences": {"k": 2}},
    "end_of_stream": "end_of_stream",
    "transfer": {"transfer": {"to": "split_fashion_mnist"}},
    "oracle": "oracle",
}

FORTY = {  # points for each method; a search with ASHA, and one without, run all of them, in the same random order
    "ewc": {
        "training.optimizer.lr": {"choice": [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2]},
        "strategies.ewc.weight": {"choice": [10, 100, 1000, 3000, 10000]},
    },
    "replay": {
        "training.optimizer.lr": {"choice": [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2]},
        "training.optimizer.weight_decay": {"choice": [0.0, 0.0001, 0.001, 0.01, 0.1]},
    },
}


def config(stream: str, protocol: str) -> dict[str, Any]:
    """Return the config of the sweeps of one stream and protocol."""
    objective = "average_accuracy" if protocol == "oracle" else "validation.average_accuracy"
    settings: dict[str, Any] = {
        "seeds": [0, 1, 2, 3, 4],
        "search_seeds": [100],
        "samples": 12,
        "search": {"tpe": {"startup": 5}},
        "objective": objective,
        "protocol": PROTOCOLS[protocol],
        "variants": VARIANTS,
    }
    if protocol == "transfer":
        settings["streams"] = {
            "split_mnist": {"benchmark": {"split_mnist": {"validation": 0.1, "shots": 500, "shots_from": 0}}},
            stream: {"benchmark": STREAMS[stream]},
        }
    return {
        "name": f"{stream}-{protocol}",
        "benchmark": STREAMS[stream],
        "model": {"mlp": {"hidden": [100, 100]}},
        "training": {"epochs": 6, "batch_size": 64},
        "wandb": {"mode": "disabled"},
        "probes": {"curves": {"every": None}},
        "sweep": settings,
    }


def asha_config(scheduler: Any) -> dict[str, Any]:
    """Return the config of the sweep on forty points with a scheduler, or None."""
    settings = config("split_fashion_mnist", "end_of_stream")
    variants = {name: {**VARIANTS[name], "space": space} for name, space in FORTY.items()}
    settings["sweep"] |= {"search": "random", "samples": 40, "scheduler": scheduler, "variants": variants}
    return settings


def run(folder: Path, name: str, settings: dict[str, Any]) -> Path:
    """Run a sweep, or continue it; return its folder."""
    path = folder / name
    if is_sweep(path):
        resume(path)
    else:
        sweep(settings, path)
    return path


def asha_rows(whole: Path, stopped: Path) -> Iterator[list[str]]:
    """Yield a row for each method: the search of all points to their end, and the one that ASHA stops early."""
    for alone, with_asha in zip(searches_of(whole), searches_of(stopped), strict=True):
        costs = iterations(alone), iterations(with_asha)
        for search, cost in zip((alone, with_asha), costs, strict=True):
            yield [
                search.variant,
                "asha" if search is with_asha else "none",
                str(search.with_state("stopped early")),
                f"{cost:,}",
                f"{100 * (1 - cost / costs[0]):.0f} %",
                *_found(search),
                _reported_text(whole if search is alone else stopped, search.variant),
            ]


def _found(search: SearchResult) -> tuple[str, str]:
    """Return the chosen point, and its value in the search in per cent."""
    if search.best is None:
        return "-", "-"
    point = ", ".join(f"{key.rpartition('.')[2]} {_text(value)}" for key, value in search.best.point.items())
    return point, f"{100 * search.best.values[search.objectives[0].key]:.1f}"


def _reported_text(path: Path, variant: str) -> str:
    mean, half = interval([_accuracy(trial) for trial in reported(path, variant)])
    return f"{100 * mean:.1f} ± {100 * half:.1f}"


def rows(path: Path, protocol: str, stream: str) -> Iterator[list[str]]:
    """Yield a row of the table for each method."""
    for search in searches_of(path):
        mean, _ = interval([_accuracy(trial) for trial in reported(path, search.variant)])
        point, found = _found(search)
        own = _reported_text(path, search.variant)
        yield [
            stream,
            search.variant,
            protocol,
            point,
            found,
            own,
            f"{float(found) - 100 * mean:+.1f}",
            f"{iterations(search):,}",
        ]


def reported(path: Path, variant: str) -> list[Trial]:
    """Return a variant's reported trials."""
    from retain.platform.ledger.reader import trials_of

    return [trial for trial in trials_of(path) if trial.role == "reported" and trial.variant == variant]


def _accuracy(trial: Trial) -> float:
    return float((trial.read("summary") or {})["task_agnostic"]["average_accuracy"])


def iterations(search: SearchResult) -> int:
    """Return how many training iterations a search has cost."""
    last = 0
    for each in search.configurations:
        for trial in each.trials:
            last += max((event["iteration"] for _, event in trial.events() if event["kind"] == "experience"), default=0)
    return last


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


ASHA_HEADER = ["method", "scheduler", "stopped early", "iterations", "saved", "chosen", "in the search", "reported"]
HEADER = ["stream", "method", "protocol", "chosen", "in the search", "reported", "difference", "iterations"]


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]


def page(table: list[list[str]], asha: list[list[str]]) -> str:
    """Return docs/selection.md."""
    excess: dict[str, list[float]] = {}
    for row in table:
        excess.setdefault(row[2], []).append(float(row[6]))
    summary = [
        f"- {name}: {statistics.fmean(values):+.1f} points on average over {len(values)} choices"
        for name, values in excess.items()
    ]
    return "\n".join(
        [
            _HEAD,
            *_table(HEADER, table),
            "",
            "What the search's own figure is above the reported one:",
            "",
            *summary,
            "",
            _ASHA_HEAD,
            *_table(ASHA_HEADER, asha),
            "",
            _TAIL,
        ]
    )


_HEAD = """# What each protocol chooses

Written by `make selection` (tests/selection.py). Twelve configurations for each method (TPE), found with one search
seed; the chosen one is trained again with five other seeds. Streams: five experiences of Fashion-MNIST (500 training
pictures of each class), MNIST rotated by five angles (100 pictures of each class and angle); an MLP, six epochs for
each experience. `transfer` searches on Split MNIST.

*In the search* is the value by which it was chosen: accuracy in per cent on the validation samples that the protocol
may see; for the oracle, on the test samples. *Reported* is the average accuracy on the test samples after the whole
stream, mean ± 95 % interval over the five seeds. *Difference* is the first minus the second; for `first_experiences`
and `transfer` it compares different streams. *Iterations* are those of the search.
"""
_ASHA_HEAD = """## What ASHA saves

A search of 40 points (eight learning rates with five values of another setting, all of them in random order) on Split
Fashion-MNIST, protocol `end_of_stream`, with all trials run to the end, and with
`scheduler: {asha: {grace_period: 1, reduction_factor: 2}}`.
"""
_TAIL = """The protocols, and what keeps a search trial from seeing more, are described in [search.md](search.md).
"""


def main() -> None:
    """Run or continue all sweeps; write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "build" / "selection")
    parser.add_argument("--no-page", action="store_true", help="print the table, leave docs/selection.md")
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    table = []
    for stream in STREAMS:
        for protocol in PROTOCOLS:
            if protocol == "transfer" and stream != "split_fashion_mnist":
                continue
            path = run(folder, f"{stream}-{protocol}", config(stream, protocol))
            for row in rows(path, protocol, stream):
                print(json.dumps(row), flush=True)
                table.append(row)
    schedulers = {"forty-points": None, "forty-points-asha": {"asha": {"grace_period": 1, "reduction_factor": 2}}}
    asha = list(asha_rows(*(run(folder, name, asha_config(each)) for name, each in schedulers.items())))
    for row in asha:
        print(json.dumps(row), flush=True)
    if not arguments.no_page:
        table.sort(key=lambda row: (row[0], list(VARIANTS).index(row[1])))
        PAGE.write_text(page(table, asha), encoding="utf-8")


if __name__ == "__main__":
    main()
