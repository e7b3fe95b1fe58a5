"""Merge each variant on each stream, and refuse what would put other methods or data under their names.

A stream, a search space or an override of the whole sweep changes settings of what a variant has; it adds no strategy to it.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from ..config import registry
from ..config.interpolations import MISSING, has_interpolation, resolve_value, section_of_text
from ..config.load import plain_data, to_dict, value_of
from ..config.schema import DEFAULT_PROBES, Experiment, Settings, Sweep
from ..config.yaml_overrides import KINDS, combine, merge, names_in, nest_key, split_key
from ..errors import UserError, comma_separated, nearest
from ..visible_text import shortened
from .search_space import SWEEP_WIDE, Point, Space, split_item

_STREAM_ADVICE = "Streams differ in their benchmarks: add one to sweep.streams."


@dataclass(frozen=True, slots=True)
class Combination:
    """A variant on a stream.

    Attributes:
        stream: the stream's name.
        variant: the variant's name.
        config: the base config with the overrides of both, with its interpolations and, for these, the `sweep` section.
        overrides: of both.
        sweep: the sweep; its space lacks the domains that the stream or variant removes.
        added: the domains that the stream or variant adds or replaces.
    """

    stream: str
    variant: str
    config: dict[str, Any]
    overrides: dict[str, Any]
    sweep: Sweep
    added: dict[str, Settings]

    def domains(self) -> Space:
        """Return its search space."""
        return {**self.sweep.space, **self.added}

    def without_values(self, keys: Sequence[str]) -> dict[str, Any]:
        """Return the config without the values of keys of a search space; a list of which a key is one item stays."""
        return _without_values(self.config, keys)

    def at(self, point: Point) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the config at a point of the search space, and all overrides.

        Raises:
            UserError: the point sets what the config does not have, changes the benchmark, or sets one value twice.
        """
        config, overrides = self.config, self.overrides
        for key, value in point.items():
            whole, _ = split_item(key)
            _check_key(config, whole, value)
            nested = nest_key(whole, _with_item(config, key, value))
            config, overrides = merge(config, nested), combine(overrides, nested)
        for key, value in point.items():
            whole, index = split_item(key)
            items = value_of(overrides, split_key(whole))
            holds = _holds(overrides, nest_key(key, value)) if index is None else _item_of(items, index) == value
            if not holds:
                raise UserError(
                    f"sweep.space.{key}={shortened(repr(value), 80)}: another key of the space replaces it, "
                    f"so the trial's name would be wrong: vary each setting under one key."
                )
        return config, overrides


def combinations(experiment: Experiment) -> Iterator[Combination]:
    """Yield every variant on every stream.

    Raises:
        UserError: overrides cannot be merged, would add a strategy to a variant, or replace what a stream sets.
    """
    sweep = experiment.sweep
    base = to_dict(replace(experiment, sweep=Sweep(), published=None)) | {"sweep": plain_data(sweep)}
    benchmark = next(iter(experiment.benchmark))
    streams: Mapping[str, Settings] = sweep.streams or {benchmark: {}}
    variants: Mapping[str, Settings] = sweep.variants or {experiment.name: {}}
    for (stream, for_stream), (variant, for_variant) in product(streams.items(), variants.items()):
        in_stream = _overrides("streams", stream, for_stream)
        in_variant = _overrides("variants", variant, for_variant)
        with naming_trial(stream, variant):
            _check_stream(in_stream, in_variant, base)
            _check_replaced(in_stream if sweep.streams else {"benchmark": benchmark}, in_variant)
            if sweep.variants:
                _check_added(experiment, in_stream, in_variant)
            config = merge(merge(base, in_stream), in_variant)
            space, added = _spaces(sweep.space, for_stream, for_variant)
            varied = _without_values(config, [*space, *added])
            yield Combination(
                stream=stream,
                variant=variant,
                config=config,
                overrides=combine(in_stream, in_variant),
                sweep=replace(sweep, space=_with_bounds(space, varied)),
                added=_with_bounds(added, varied),
            )


def replaced_values(sweep: Sweep) -> Iterator[str]:
    """Yield a sentence for each stream or variant with values that the search space replaces."""
    for section in ("streams", "variants"):
        for name, settings in getattr(sweep, section).items():
            space = {**sweep.space, **settings.get("space", {})}
            replacing = [key for key, domain in space.items() if domain is not None and split_item(key)[1] is None]
            own = {key: value_of(settings, split_key(key)) for key in replacing}
            replaced = [f"{key}={value!r}" for key, value in own.items() if not isinstance(value, Mapping | None)]
            if replaced:
                yield f"sweep.{section}.{name}: the search space replaces {shortened(comma_separated(replaced), 200)}"


@contextmanager
def naming_trial(stream: str, variant: str) -> Iterator[None]:
    """Add the stream and the variant to a UserError's message."""
    try:
        yield
    except UserError as error:
        raise UserError(f"sweep ({stream}, {variant}): {error}") from None


def _overrides(section: str, name: str, settings: Settings) -> dict[str, Any]:
    """Return a stream's or variant's overrides, without its space; UserError if they set what belongs to the whole sweep."""
    where = f"sweep.{section}.{name}"
    for key in SWEEP_WIDE:
        if key in settings:
            raise UserError(f"{where}.{key}: belongs to the whole sweep: set it at the top.")
    if not isinstance(settings.get("space", {}), Mapping):
        raise UserError(
            f"{where}.space={shortened(repr(settings['space']), 80)}: must be a mapping of keys to domains."
        )
    return {key: value for key, value in settings.items() if key != "space"}


def _check_stream(stream: Settings, variant: Settings, base: Settings) -> None:
    """Refuse a stream that adds a strategy to a variant."""
    settings = stream.get("strategies")
    known = [*names_in(base.get("strategies")), *names_in(variant.get("strategies"))]
    for name in names_in(settings):
        is_removed = isinstance(settings, Mapping) and settings[name] is None
        if name not in known and not is_removed:
            registry.check_name("strategies", name)
            raise UserError(
                f"strategies.{name}: the stream would add it to a variant that does not have it. "
                f"Add it to the variants, or to all of them: in `strategies` at the top."
            )


def _check_replaced(stream: Settings, variant: Settings) -> None:
    """Refuse a variant whose benchmark or model would replace the stream's."""
    for section in ("benchmark", "model"):
        ours, theirs = names_in(variant.get(section)), names_in(stream.get(section))
        if ours and theirs and ours != theirs:
            advice = f" {_STREAM_ADVICE}" if section == "benchmark" else ""
            raise UserError(
                f"{section}.{ours[0]}: the variant would replace the stream's {section}, {theirs[0]}.{advice}"
            )


def _check_added(experiment: Experiment, stream: Settings, variant: Settings) -> None:
    """Refuse an override of the whole sweep that adds a strategy to a variant that does not have it."""
    own = [*names_in(stream.get("strategies")), *names_in(variant.get("strategies"))]
    for override in experiment.origin.overrides:
        name = override.added
        if name in experiment.strategies and name not in own:
            raise UserError(
                f"override '{shortened(override.text, 80)}': would add {name} to this variant, which does not have it. "
                f"For one variant: sweep.variants.NAME.strategies.{name}={{...}}; for all: strategies={{{name}: {{...}}}}."
            )


def _holds(overrides: Any, part: Any) -> bool:
    """Return whether overrides still have the values of one of them."""
    if isinstance(part, Mapping) and isinstance(overrides, Mapping):
        return all(key in overrides and _holds(overrides[key], value) for key, value in part.items())
    return isinstance(part, str) or bool(
        overrides == part
    )  # a text may stand for a mapping: a name, or an interpolation


def _item_of(items: Any, index: int) -> Any:
    return items[index] if isinstance(items, list | tuple) and index < len(items) else MISSING


def _with_item(config: Settings, key: str, value: Any) -> Any:
    """Return the value to merge for a key of the space: itself, or the config's list with one item replaced."""
    whole, index = split_item(key)
    if index is None:
        return value
    items = value_of(config, split_key(whole))
    if not isinstance(items, list | tuple):
        raise UserError(
            f"sweep.space.{key}: {whole} is no list in this variant: give it a list, with one value for each experience."
        )
    if index >= len(items):
        raise UserError(
            f"sweep.space.{key}: {whole} has {len(items)} items; the last one is {whole}[{len(items) - 1}]."
        )
    return [*items[:index], value, *items[index + 1 :]]


def _check_key(config: Settings, key: str, value: Any) -> None:
    """Refuse a key of the search space that names a plugin that the config does not have, or another benchmark."""
    section, *rest = split_key(key)
    if section == "strategies" and not rest:
        raise UserError(
            f"sweep.space.{key}: a search space varies settings, not which strategies there are: "
            f"write a variant for each set of strategies: sweep.variants."
        )
    if section not in KINDS:
        return
    present = names_in(section_of_text(config.get(section), config))
    if section == "benchmark" and not rest and names_in(value) != present:
        raise UserError(
            f"sweep.space.{key}={value!r}: would replace the stream's benchmark, {present[0]}. {_STREAM_ADVICE}"
        )
    if not rest or rest[0] in present or (section == "probes" and rest[0] in DEFAULT_PROBES):
        return
    registry.check_name(KINDS[section], rest[0])
    has = f"has {comma_separated(present)}" if present else "has none"
    raise UserError(
        f"sweep.space.{key}: there is no '{rest[0]}' among this variant's {section}: it {has}. "
        f"Put the key into the space of the variants that have it: sweep.variants.NAME.space."
    )


def _spaces(shared: Space, *parts: Settings) -> tuple[dict[str, Settings], dict[str, Settings]]:
    """Return the sweep's domains and those that a stream and a variant add or replace; null removes a domain."""
    kept, added = dict(shared), dict[str, Settings]()
    for part in parts:
        for key, domain in part.get("space", {}).items():
            if domain is None and key not in {**kept, **added}:
                raise UserError(
                    f"space.{key}=null: there is no such domain to remove.{nearest(key, {**kept, **added})} "
                    f"Here: {comma_separated({**kept, **added}) or 'none'}."
                )
            kept.pop(key, None)
            added.pop(key, None)
            if domain is not None:
                added[key] = domain
    return kept, added


def _without_values(config: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """Return the config without values for what the sweep varies: a domain's bounds cannot depend on it."""
    for key in keys:
        key, index = split_item(key)
        if index is not None:  # the other items stay
            continue
        section = split_key(key)
        config = merge(config, nest_key(key, MISSING)) if len(section) > 1 else {**config, key: MISSING}
    return {**config, "seed": MISSING}


def _with_bounds(space: Space, config: Settings) -> dict[str, Settings]:
    """Resolve the interpolations of bounds and of whole lists; values in a list are resolved in each trial."""
    resolved = {}
    for key, domain in space.items():
        is_list = isinstance(domain, Mapping) and all(
            kind in ("grid", "choice") and isinstance(values, list | tuple) for kind, values in domain.items()
        )
        is_plain = is_list or not has_interpolation(domain)
        resolved[key] = domain if is_plain else resolve_value(domain, config, f"sweep.space.{key}")
    return resolved
