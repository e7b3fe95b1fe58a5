"""Plan the trials of an experiment: streams x variants x points of the search space x seeds, each a complete config."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from ..config.load import from_dict, to_dict
from ..config.schema import Experiment, Settings, Sweep
from ..config.yaml_overrides import merge, nest_key, resolve_interpolations
from ..data.streams import Stream
from ..errors import UserError, comma_separated, nearest
from ..trial.builder import build_trial
from ..trial.resolve import ResolvedExperiment, resolve_experiment

_KINDS = ("choice", "uniform", "loguniform", "randint", "grid")
# Sections and keys that a stream, a variant or the search space cannot override.
_SWEEP_WIDE = ("sweep", "published", "seed", "name", "output", "ray", "wandb", "tensorboard", "checkpoint", "resources")


@dataclass(frozen=True, slots=True)
class PlannedTrial:
    """A trial to run.

    Attributes:
        resolved: its complete config, resolved.
        identity: the content of trial.json: id, variant, stream, seed, overrides.
    """

    resolved: ResolvedExperiment
    identity: dict[str, Any]

    @property
    def config(self) -> Experiment:
        """Return its complete config."""
        return self.resolved.experiment


def plan(experiment: Experiment) -> list[PlannedTrial]:
    """Return all trials, in order: every seed of a variant, variant by variant, stream by stream.

    Raises:
        UserError: the overrides of a stream, variant or search point give an invalid config.
    """
    sweep = experiment.sweep
    base = to_dict(replace(experiment, sweep=Sweep(), published=None))
    streams: Mapping[str, Settings] = sweep.streams or {next(iter(experiment.benchmark)): {}}
    variants: Mapping[str, Settings] = sweep.variants or {experiment.name: {}}
    trials: list[PlannedTrial] = []
    for (stream, for_stream), (variant, for_variant) in product(streams.items(), variants.items()):
        for point in search_points(sweep):
            overrides = merge(_overrides("streams", stream, for_stream), _overrides("variants", variant, for_variant))
            for key, value in point.items():
                overrides = merge(overrides, nest_key(key, value))
            name = " ".join([variant, *(f"{key.rpartition('.')[2]}={_short(value)}" for key, value in point.items())])
            with _naming_trial(stream, name):
                resolved = resolve_experiment(from_dict(resolve_interpolations(merge(base, overrides))))
            for seed in sweep.seeds:
                trial_id = _id(len(trials), stream, name, seed)
                identity = {"id": trial_id, "variant": name, "stream": stream, "seed": seed, "overrides": overrides}
                trials.append(PlannedTrial(resolved.with_seed(seed), identity))
    return trials


def check_trials(trials: Sequence[PlannedTrial]) -> None:
    """Build the streams and check every strategy against its stream, before anything starts.

    This also prepares the data once, so no two workers prepare it at the same time.

    Raises:
        UserError: a trial's stream or strategies are refused.
    """
    seen: list[Experiment] = []
    built: tuple[Any, Stream] | None = None  # trials of one stream are adjacent: remembering the last stream is enough
    for trial in trials:
        config = replace(trial.config, seed=0)
        if config in seen:
            continue
        seen.append(config)
        source = (trial.config.benchmark, trial.config.seeds, trial.config.seed, trial.config.data)
        with _naming_trial(trial.identity["stream"], trial.identity["variant"]):
            builder = build_trial(
                trial.resolved, planning=True, stream=built[1] if built and built[0] == source else None
            )
        built = source, builder.stream


def search_points(sweep: Sweep) -> list[dict[str, Any]]:
    """Return the points of the search space: at each point of the grid's product, `samples` random draws.

    The points depend on `space_seed` only, so they are the same for every variant.
    """
    grid = {key: domain["grid"] for key, domain in sweep.space.items() if _kind(key, domain) == "grid"}
    random_domains = {key: domain for key, domain in sweep.space.items() if key not in grid}
    if sweep.samples > 1 and not random_domains:
        raise UserError(f"sweep.samples={sweep.samples}: is not used: nothing in sweep.space is sampled at random.")
    rng = np.random.default_rng(sweep.space_seed)
    points = []
    for combination in product(*grid.values()):
        for _ in range(sweep.samples if random_domains else 1):
            fixed = dict(zip(grid, combination, strict=True))
            points.append(fixed | {key: _sample(key, domain, rng) for key, domain in random_domains.items()})
    return points


def _kind(key: str, domain: Settings) -> str:
    """Return a domain's kind (choice, uniform, ...); UserError for an unknown or malformed domain."""
    path = f"sweep.space.{key}"
    if key.partition(".")[0] in _SWEEP_WIDE:
        raise UserError(f"{path}: belongs to the whole sweep: set it at the top (seeds: sweep.seeds).")
    if len(domain) != 1 or next(iter(domain)) not in _KINDS:
        suggestion = nearest(str(next(iter(domain), "")), _KINDS)
        raise UserError(
            f"{path}={dict(domain)}: must be one of {comma_separated(_KINDS)}, with its values.{suggestion}"
        )
    kind, values = next(iter(domain.items()))
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise UserError(f"{path}.{kind}={values!r}: must be a list of values.")
    if kind in ("uniform", "loguniform", "randint"):
        allowed = int if kind == "randint" else int | float
        numbers = all(isinstance(v, allowed) and not isinstance(v, bool) and math.isfinite(v) for v in values)
        if len(values) != 2 or not numbers or values[0] >= values[1]:
            what = "integers" if kind == "randint" else "finite numbers"
            raise UserError(f"{path}.{kind}={list(values)}: must be two {what}, the smaller first.")
        if kind == "loguniform" and values[0] <= 0:
            raise UserError(f"{path}.{kind}={list(values)}: must be above 0.")
    return str(kind)


def _sample(key: str, domain: Settings, rng: np.random.Generator) -> Any:
    """Sample a random domain; return a plain Python value. randint excludes the upper bound, as in Ray Tune."""
    kind, values = _kind(key, domain), next(iter(domain.values()))
    if kind == "choice":
        return values[int(rng.integers(len(values)))]
    low, high = values
    if kind == "randint":
        return int(rng.integers(low, high))
    if kind == "uniform":
        return float(rng.uniform(low, high))
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _overrides(section: str, name: str, settings: Settings) -> Settings:
    """Return a stream's or variant's overrides; UserError if they set something that belongs to the whole sweep."""
    for key in _SWEEP_WIDE:
        if key in settings:
            raise UserError(f"sweep.{section}.{name}.{key}: belongs to the whole sweep: set it at the top.")
    return settings


@contextmanager
def _naming_trial(stream: str, variant: str) -> Iterator[None]:
    """Add the stream and the variant to a UserError's message."""
    try:
        yield
    except UserError as error:
        raise UserError(f"sweep ({stream}, {variant}): {error}") from None


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _id(number: int, stream: str, variant: str, seed: int) -> str:
    """A trial's id: a folder name that sorts in plan order and is legal on every file system."""
    return f"{number:03d}-" + re.sub(r"[^A-Za-z0-9_.=+-]+", "_", f"{stream}-{variant}-seed{seed}")[:120]
