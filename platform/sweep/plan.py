"""Plan the trials of an experiment: streams x variants x points of the search space x seeds, each a complete config."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..config.interpolations import has_interpolation, may_name, resolve_interpolations
from ..config.load import from_dict, plain_data, to_dict, value_of
from ..config.schema import Data, Experiment, Origin
from ..errors import UserError, comma_separated
from ..run_folders import folder_name
from ..trial.resolve import ResolvedExperiment, resolve_experiment
from ..visible_text import shortened
from .combinations import combinations, naming_trial, replaced_values
from .search_space import SWEEP_WIDE, is_random, point_names, search_points, shortage

if TYPE_CHECKING:
    from ..data.streams import Stream

_MISSING = object()  # the value of a key that a config does not have
_MAX_EQUAL = 3  # pairs of equal trials that are named
_log = logging.getLogger(__name__)


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

    def numbered(self, number: int) -> "PlannedTrial":
        """Return the trial with another number in its id."""
        rest = self.identity["id"].partition("-")[2]
        return replace(self, identity={**self.identity, "id": f"{number:03d}-{rest}"})

    def with_data(self, data: Data) -> "PlannedTrial":
        """Return the trial with other data folders."""
        experiment = replace(self.config, data=data)
        return replace(self, resolved=replace(self.resolved, experiment=experiment))


def plan(experiment: Experiment) -> list[PlannedTrial]:
    """Return all trials, in order: every seed of a variant, variant by variant, stream by stream.

    Interpolations are resolved in each trial, after its stream, variant, point and seed are merged. Trials with equal settings
    under two names are logged as a warning.

    Raises:
        UserError: the overrides of a stream, variant or search point give an invalid config, or name what a variant does not
            have; an override of the experiment changes no trial.
    """
    sweep, trials, configs = experiment.sweep, list[PlannedTrial](), list[dict[str, Any]]()
    parts, fixed = list(combinations(experiment)), plain_data(experiment)
    domains = [item for part in parts for item in part.domains().items()]
    if sweep.samples > 1 and not any(is_random(key, domain) for key, domain in domains):
        raise UserError(f"sweep.samples={sweep.samples}: is not used: nothing in sweep.space is sampled at random.")
    notes: dict[str, None] = {}  # for the terminal, each once
    for part in parts:
        with naming_trial(part.stream, part.variant):
            points = search_points(part.sweep, part.added)
            notes.setdefault(shortage(part.sweep, part.added, points), None)
        for point, text in zip(points, point_names(points), strict=True):
            name = f"{part.variant} {text}" if text else part.variant
            with naming_trial(part.stream, name):
                config, overrides = part.at(point)
                for seed, plain, resolved in of_each_seed(config, sweep.seeds):
                    check_sweep_wide(plain, fixed, experiment.origin)
                    identity = {
                        "id": _id(len(trials), part.stream, name, seed),
                        "variant": name,
                        "stream": part.stream,
                        "seed": seed,
                        "overrides": resolved_overrides(overrides, plain),
                    }
                    trials.append(PlannedTrial(resolved, identity))
                    configs.append({**config, "seed": seed})
    check_overrides(experiment, configs)
    notes.setdefault(_repeated(trials), None)
    for note in filter(None, (*notes, *replaced_values(sweep))):
        _log.warning("%s", note)
    return trials


def of_each_seed(
    config: dict[str, Any], seeds: Sequence[int]
) -> Iterator[tuple[int, dict[str, Any], ResolvedExperiment]]:
    """Yield seed, plain config and resolved config; what does not depend on the seed is resolved once."""
    own = {key: value for key, value in config.items() if key != "sweep"}
    varies = has_interpolation(own)
    if not may_name(own, "sweep"):  # OmegaConf would take long for all variants, in each trial
        config = own
    plain: dict[str, Any] = {}
    resolved: ResolvedExperiment | None = None
    for seed in seeds:
        previous = plain
        if resolved is None or varies:
            plain = resolve_interpolations({**config, "seed": seed})
            plain.pop("sweep", None)
        if resolved is None or {**plain, "seed": 0} != {**previous, "seed": 0}:
            resolved = resolve_experiment(from_dict(plain))
        yield seed, plain, resolved.with_seed(seed)


def check_sweep_wide(trial: Mapping[str, Any], sweep: Mapping[str, Any], origin: Origin) -> None:
    """Refuse an interpolation that gives a trial another value of a key of the whole sweep."""
    for keys, written, _ in origin.interpolations:
        is_shared = (
            keys[0] in SWEEP_WIDE and trial.get(keys[0]) is not None and keys != ("seed",)
        )  # trials have no `published`
        if is_shared and value_of(trial, keys) != value_of(sweep, keys):
            raise UserError(
                f"{'.'.join(keys)}={shortened(str(written), 80)}: would differ between trials, but belongs to the whole sweep."
            )


def resolved_overrides(overrides: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """Return overrides with interpolations replaced by the resolved values of a trial's config."""
    resolved: dict[str, Any] = {}
    for key, value in overrides.items():
        inside = config.get(key) if isinstance(config, Mapping) else None
        if isinstance(value, Mapping):
            resolved[key] = resolved_overrides(value, inside)
        else:
            resolved[key] = inside if has_interpolation(value) else value
    return resolved


def check_overrides(experiment: Experiment, configs: Sequence[Mapping[str, Any]]) -> None:
    """Refuse an override that changes no trial, since the streams, variants or search space set its key themselves."""
    base = to_dict(experiment)
    for override in experiment.origin.overrides:
        keys = override.keys
        if keys[0] in SWEEP_WIDE and keys != ("seed",):
            continue
        if not any(_has_part(config, base, keys) for config in configs):
            advice = "a sweep's seeds are sweep.seeds"
            if keys != ("seed",):
                dotted = ".".join(keys)
                advice = (
                    f"the sweep's streams, variants or search space set it. Override sweep.streams.NAME.{dotted} or "
                    f"sweep.variants.NAME.{dotted}, or remove what sets it: sweep.streams={{}}, sweep.space.{dotted}=null"
                )
            raise UserError(f"override '{shortened(override.text, 80)}': changes no trial: {advice}.")


def _has_part(config: Any, base: Any, keys: Sequence[str]) -> bool:
    """Return whether a trial's config has a value of the base at `keys`, or anywhere below."""
    for key in keys:
        config, base = (each.get(key, _MISSING) if isinstance(each, Mapping) else _MISSING for each in (config, base))
    return _shares_value(config, base)


def _shares_value(config: Any, base: Any) -> bool:
    if isinstance(base, Mapping) and isinstance(config, Mapping):
        return not base or any(_shares_value(config.get(key, _MISSING), value) for key, value in base.items())
    return bool(config == base)


def _repeated(trials: Sequence[PlannedTrial]) -> str:
    """Return which trials have the same settings under two names; UserError for two variants of one name."""
    names: set[tuple[str, str, int]] = set()
    for trial in trials:
        stream, variant, seed = (trial.identity[key] for key in ("stream", "variant", "seed"))
        if (stream, variant, seed) in names:
            raise UserError(
                f"sweep ({stream}): two variants have the name '{variant}': rename one of them in sweep.variants."
            )
        names.add((stream, variant, seed))
    return equal_names(
        (f"({each.identity['stream']}, {each.identity['variant']})", repr(each.config)) for each in trials
    )


def equal_names(named: Iterable[tuple[str, str]]) -> str:
    """Return which names have the same settings, of pairs of a name and its settings as text; an empty text if none have."""
    first: dict[str, str] = {}
    equal: list[str] = []
    for name, settings in named:
        same = first.setdefault(settings, name)
        if same != name and f"{same} and {name}" not in equal:
            equal.append(f"{same} and {name}")
    more = f"; and {len(equal) - _MAX_EQUAL} more pairs" if len(equal) > _MAX_EQUAL else ""
    return f"the same trials run under two names: {'; '.join(equal[:_MAX_EQUAL])}{more}" if equal else ""


def check_trials(trials: Sequence[PlannedTrial]) -> None:
    """Build the streams and check every strategy against its stream, before anything starts.

    This also prepares the data once, so no two workers prepare it at the same time. What is allowed but likely to ruin a
    result is logged as a warning.

    Raises:
        UserError: a trial's stream or strategies are refused.
    """
    from ..trial.builder import build_trial  # here: it imports torch, and Ray starts meanwhile

    seen: set[str] = set()
    warned: dict[str, list[str]] = {}  # warning -> its variants
    built: tuple[Any, Stream] | None = None  # trials of one stream are adjacent: remembering the last stream is enough
    for trial in trials:
        config = repr(replace(trial.config, seed=0))
        if config in seen:
            continue
        seen.add(config)
        shown = trial.config
        source = (shown.benchmark, shown.stream_part, shown.seeds, shown.seed, shown.data)
        with naming_trial(trial.identity["stream"], trial.identity["variant"]):
            builder = build_trial(
                trial.resolved, planning=True, stream=built[1] if built and built[0] == source else None
            )
        built = source, builder.stream
        for text in builder.warnings:
            warned.setdefault(text, []).append(trial.identity["variant"])
    for text, variants in warned.items():
        _log.warning("%s (variants: %s)", text, comma_separated(set(variants)))


def _id(number: int, stream: str, variant: str, seed: int) -> str:
    """A trial's id: a folder name that sorts in plan order and is legal on every file system."""
    return folder_name(f"{number:03d}-{stream}-{variant}-seed{seed}")
