"""Run our strategies in the settings of published figures, as far as results are missing, and compare both.

``python tests/published.py [--at-once N] [--table] [NAME ...]``: the configs in configs/published (all, or those named without
the folder). Their trials run on Ray; stopped trials are resumed. docs/published.json keeps the results by variant and seed, with
a digest of their settings: a trial is not run again until its settings change. docs/published.md shows the results. ``--table``
runs nothing.
"""

import argparse
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from retain.platform.config.load import config_names, config_path, load_config
from retain.platform.config.schema import Experiment, Published
from retain.platform.config.yaml_files import read_yaml
from retain.platform.ledger.reader import trials_of, unfinished_trials
from retain.platform.metrics import interval

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE, RUNS = ROOT / "docs" / "published.json", ROOT / "docs" / "published.md", ROOT / "runs" / "published"
MARK = "<!-- what follows is written by `make published` -->\n"
Seeds = dict[str, list[float]]  # seed -> [average accuracy, seconds]
Results = dict[str, dict[str, Any]]  # variant -> {"settings": digest, "seeds": Seeds}


@dataclass(frozen=True, slots=True)
class Config:
    """A config with published figures, and the digest of each variant's settings, as they are in the file."""

    name: str
    experiment: Experiment
    published: Published
    digests: Mapping[str, str]

    @classmethod
    def load(cls, name: str) -> "Config":
        """Read ``configs/published/name.yaml``."""
        raw = read_yaml(config_path(f"published/{name}"))
        experiment = load_config(f"published/{name}")
        assert experiment.published is not None, f"{name}: has no section `published`"
        common = {key: raw.get(key) for key in ("benchmark", "model", "training", "strategies")}
        texts = {
            variant: json.dumps([common, changes], sort_keys=True)
            for variant, changes in raw["sweep"]["variants"].items()
        }
        digests = {variant: hashlib.sha256(text.encode()).hexdigest()[:12] for variant, text in texts.items()}
        return cls(name, experiment, experiment.published, digests)

    def current(self, results: Results) -> dict[str, Seeds]:
        """Return the results of each variant with its present settings."""
        known = {name: results.get(name, {}) for name in self.digests}
        return {
            name: dict(entry["seeds"]) if entry.get("settings") == self.digests[name] else {}
            for name, entry in known.items()
        }

    def missing(self, results: Results) -> dict[tuple[int, ...], list[str]]:
        """Return the missing seeds -> the variants that lack exactly those."""
        groups: dict[tuple[int, ...], list[str]] = {}
        for variant, seeds in self.current(results).items():
            lacking = tuple(seed for seed in self.experiment.sweep.seeds if str(seed) not in seeds)
            if lacking:
                groups.setdefault(lacking, []).append(variant)
        return groups


def names() -> list[str]:
    """Return the names of the configs with published figures."""
    return [name.removeprefix("published/") for name in config_names() if name.startswith("published/")]


def load_results() -> dict[str, Results]:
    """Read docs/published.json: config -> results."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def store(results: Mapping[str, Results]) -> None:
    """Write docs/published.json, one line for each variant."""
    blocks = [
        f" {json.dumps(name)}: {{\n"
        + ",\n".join(f"  {json.dumps(variant)}: {json.dumps(entry)}" for variant, entry in variants.items())
        + "\n }"
        for name, variants in sorted(results.items())
        if variants
    ]
    RESULTS.write_text("{\n" + ",\n".join(blocks) + "\n}\n")


def harvest(config: Config, results: Results, runs: Path) -> Results:
    """Add the completed trials in the folders of a config's sweeps, if their settings are the present ones."""
    entries = {
        name: {"settings": config.digests[name], "seeds": seeds} for name, seeds in config.current(results).items()
    }
    for about in sorted(runs.glob(f"{config.name}/*.json")):
        digests = json.loads(about.read_text())
        folder = about.with_suffix("")
        for trial in trials_of(folder) if (folder / "trials.json").exists() else []:
            if trial.status().status != "done" or digests.get(trial.variant) != config.digests.get(trial.variant):
                continue
            matrix, summary = trial.read("matrix"), trial.read("summary")
            assert matrix is not None and summary is not None
            accuracy = float(np.mean(matrix["task_agnostic"][-1]))
            entries[trial.variant]["seeds"][str(trial.seed)] = [round(accuracy, 5), round(summary["seconds"], 1)]
    return {
        name: {**entry, "seeds": dict(sorted(entry["seeds"].items(), key=lambda item: int(item[0])))}
        for name, entry in entries.items()
        if entry["seeds"]
    }


def run(config: Config, results: dict[str, Results], at_once: int) -> None:
    """Resume the config's stopped sweeps, then run what is missing."""
    from retain.platform.sweep.run import resume, sweep

    def keep() -> None:
        results.update(load_results())  # another process may run other configs
        results[config.name] = harvest(config, results.get(config.name, {}), RUNS)
        write(results)

    for about in sorted(RUNS.glob(f"{config.name}/*.json")):
        folder = about.with_suffix("")
        is_current = json.loads(about.read_text()).items() <= dict(config.digests).items()
        if is_current and (folder / "trials.json").exists() and unfinished_trials(trials_of(folder)):
            resume(folder)
    keep()
    for seeds, variants in config.missing(results[config.name]).items():
        chosen = {name: config.experiment.sweep.variants[name] for name in variants}
        part = replace(
            config.experiment,
            published=None,
            sweep=replace(config.experiment.sweep, seeds=seeds, variants=chosen),
            ray=replace(config.experiment.ray, max_concurrent=at_once),
        )
        folder = RUNS / config.name / time.strftime("%Y%m%d-%H%M%S")
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.with_suffix(".json").write_text(json.dumps({name: config.digests[name] for name in variants}))
        sweep(part, folder)
        keep()


def line(config: Config, variant: str, seeds: Seeds) -> list[str]:
    """Return a row of the table: theirs, ours with its interval, the difference, whether it is within the tolerance, seconds."""
    figure = config.published.figures.get(variant)
    theirs = "-" if figure is None else f"{100 * figure[0]:.1f}"
    num_seeds = len(config.experiment.sweep.seeds)
    if not seeds:
        return [variant, theirs, "not run yet", f"0 of {num_seeds}", "", "", ""]
    mean, half = interval([accuracy for accuracy, _ in seeds.values()])
    ours = f"{100 * mean:.1f}" + ("" if np.isnan(half) else f" ± {100 * half:.1f}")
    number = str(len(seeds)) if len(seeds) >= num_seeds else f"{len(seeds)} of {num_seeds}"
    cost = f"{np.mean([seconds for _, seconds in seeds.values()]):.0f}"
    if figure is None:
        return [variant, theirs, ours, number, "", "", cost]
    away = mean - figure[0]
    verdict = ("yes" if abs(away) <= figure[1] else "**no**") + f" (± {100 * figure[1]:.1f})"
    return [variant, theirs, ours, number, f"{100 * away:+.1f}", verdict, cost]


def section(config: Config, results: Results) -> str:
    """Return a config's section of the page."""
    head = ["variant", "theirs", "ours", "seeds", "difference", "inside", "s a trial"]
    rows = [line(config, variant, seeds) for variant, seeds in config.current(results).items()]
    shown = [head, ["---", *["---:"] * 4, "---", "---:"], *rows]
    lines = [f"## {config.name}", "", f"Source: {config.published.source}.", ""]
    if config.published.note:
        lines += [config.published.note.strip(), ""]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in shown), ""])


def page(results: Mapping[str, Results]) -> str:
    """Return the generated part of docs/published.md."""
    return "\n".join(section(Config.load(name), results.get(name, {})) for name in names())


def write(results: Mapping[str, Results]) -> None:
    """Update docs/published.json and the page."""
    store(results)
    PAGE.write_text(PAGE.read_text().partition(MARK)[0] + MARK + "\n" + page(results))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--at-once", type=int, default=None, help="trials at a time (default: as many as fit)")
    parser.add_argument("--table", action="store_true", help="only bring the tables up to date")
    options = parser.parse_args(arguments)
    results = load_results()
    for name in options.names or names():
        config = Config.load(name)
        if options.table:
            results[name] = harvest(config, results.get(name, {}), RUNS)
            write(results)
        else:
            run(config, results, options.at_once)
        print(section(config, results.get(name, {})))


if __name__ == "__main__":
    main()
