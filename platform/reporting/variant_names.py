"""Name the variants, streams and sweeps of the trials in one or several folders, by one rule for all trials.

Finished, failed and pending trials get their names in the same way, from their identities and configs: the seeds of a variant are
one variant, whatever became of them.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..ledger.reader import Trial

# Keys of a config that do not make it another variant: its seeds, and where and how it ran.
_NOT_SETTINGS = (
    "schema name seed seeds probes output wandb tensorboard ray sweep published checkpoint data resources".split()
)


@dataclass(frozen=True, slots=True)
class UnnamedTrial:
    """What a trial's names follow from.

    Attributes:
        trial: the trial's folder and identity.
        root: the folder that was given: a sweep's, or the trial's.
        config: the resolved config as plain data; None if it cannot be read (a pending trial may have no folder yet).
        num_experiences: of a finished trial, else None.
    """

    trial: Trial
    root: Path
    config: Mapping[str, Any] | None
    num_experiences: int | None


@dataclass(frozen=True, slots=True)
class Names:
    """A trial's names among all trials compared.

    Attributes:
        variant: the variant's name; if several share it, with the settings or the folder in which they differ.
        stream: the stream's name; if streams of that name differ in length, with the number of experiences.
        sweep: the folder that was given, as short as it is unique.
    """

    variant: str
    stream: str
    sweep: str


def names_of(trials: Sequence[UnnamedTrial]) -> list[Names]:
    """Return the names of trials, so that one variant on one stream has each seed once and trials of one config only."""
    configs = _configs(trials)
    streams = _streams(trials, configs)
    sweeps = _sweeps([trial.root for trial in trials])
    labels = [trial.trial.variant for trial in trials]
    for members in _groups(zip(streams, labels, strict=True)):
        suffixes = _differing_settings([configs[index] for index in members])
        is_shared = len({trials[index].root for index in members}) > 1
        for index, suffix in zip(members, suffixes, strict=True):
            # without its config, nobody knows whether it is the variant of that name in another folder
            labels[index] += f" ({sweeps[index]})" if is_shared and configs[index] is None else suffix
    for members in _groups(zip(streams, labels, strict=True)):
        suffixes = _differing_folders([trials[index] for index in members])
        for index, suffix in zip(members, suffixes, strict=True):
            labels[index] += suffix
    return [Names(*names) for names in zip(labels, streams, sweeps, strict=True)]


def _configs(trials: Sequence[UnnamedTrial]) -> list[Mapping[str, Any] | None]:
    """The config of each trial; one that cannot be read is that of another seed of the variant in the same folder."""
    keys = [(trial.root, trial.trial.variant, trial.trial.stream) for trial in trials]
    known = {key: trial.config for key, trial in reversed(list(zip(keys, trials, strict=True))) if trial.config}
    return [known.get(key) if trial.config is None else trial.config for key, trial in zip(keys, trials, strict=True)]


def _streams(trials: Sequence[UnnamedTrial], configs: Sequence[Mapping[str, Any] | None]) -> list[str]:
    """The streams' names. Those of one name and different lengths are kept apart: their matrices cannot be averaged.

    The length of an unfinished trial's stream is that of a finished trial with the same benchmark, or of the same sweep.
    """
    lengths: dict[str, set[int]] = {}
    by_benchmark: dict[tuple[str, str], int] = {}
    by_root: dict[tuple[str, Path], int] = {}
    for trial, config in zip(trials, configs, strict=True):
        if trial.num_experiences is not None:
            stream = trial.trial.stream
            lengths.setdefault(stream, set()).add(trial.num_experiences)
            by_benchmark[stream, _benchmark(config)] = by_root[stream, trial.root] = trial.num_experiences
    names = []
    for trial, config in zip(trials, configs, strict=True):
        name = trial.trial.stream
        length = trial.num_experiences or by_benchmark.get((name, _benchmark(config)), by_root.get((name, trial.root)))
        names.append(f"{name} ({length} experiences)" if length and len(lengths.get(name, ())) > 1 else name)
    return names


def _benchmark(config: Mapping[str, Any] | None) -> str:
    return json.dumps((config or {}).get("benchmark"), sort_keys=True, default=str)


def _sweeps(roots: Sequence[Path]) -> list[str]:
    """The folders' names; with as many parents as they need to differ."""
    distinct = list(dict.fromkeys(roots))
    for depth in range(1, max((len(root.parts) for root in distinct), default=1) + 1):
        short = {root: str(Path(*root.parts[-depth:])) for root in distinct}
        if len(set(short.values())) == len(distinct):
            return [short[root] for root in roots]
    return [str(root) for root in roots]


def _groups(keys: Iterable[object]) -> list[list[int]]:
    """The indices of equal keys, in order of appearance."""
    groups: dict[object, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    return list(groups.values())


def _differing_settings(configs: Sequence[Mapping[str, Any] | None]) -> list[str]:
    """The settings, except the seed, in which trials of one variant differ, as " lr=0.1"; "" if they are equal."""
    flat = [
        _flat({key: value for key, value in (config or {}).items() if key not in _NOT_SETTINGS}) for config in configs
    ]
    known = [settings for settings, config in zip(flat, configs, strict=True) if config is not None]
    keys = sorted({key for settings in known for key in settings})
    differing = [key for key in keys if len({json.dumps(settings.get(key), default=str) for settings in known}) > 1]
    last_parts = {key: key.rpartition(".")[2] for key in differing}
    names = {key: part if list(last_parts.values()).count(part) == 1 else key for key, part in last_parts.items()}
    texts = [
        ", ".join(f"{names[key]}={_value_text(settings[key])}" for key in differing if key in settings)
        for settings in flat
    ]
    return [f" {text}" if text else "" for text in texts]


def _value_text(value: Any) -> str:
    """A setting's value; for a list of single-key mappings, such as transformations, the keys."""
    if isinstance(value, list) and value and all(isinstance(item, Mapping) and len(item) == 1 for item in value):
        return "+".join(str(next(iter(item))) for item in value)
    return "none" if value is None else str(value)


def _flat(nested: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{path}{key}.")
        else:
            flat[f"{path}{key}"] = value
    return flat


def _differing_folders(trials: Sequence[UnnamedTrial]) -> list[str]:
    """Each trial's folder as " (folder)", in the shortest form in which no seed repeats; "" if no seed repeats without it."""
    seeds = [trial.trial.seed for trial in trials]
    folders = [trial.trial.folder for trial in trials]
    choices = [
        [""] * len(trials),
        [f" ({trial.root.name})" for trial in trials],
        [f" ({trial.root.name}/{folder.name})" for trial, folder in zip(trials, folders, strict=True)],
    ]
    for suffixes in choices:
        if len(set(zip(suffixes, seeds, strict=True))) == len(trials):
            return suffixes
    return [f" ({folder.resolve()})" for folder in folders]
