"""The search space of a sweep: its points, each once, and the texts that name them."""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from ..config.schema import Settings, Sweep
from ..config.yaml_files import flow_yaml
from ..errors import UserError, comma_separated, nearest
from ..visible_text import shortened

# Sections and keys that a stream, a variant or the search space cannot override.
SWEEP_WIDE = ("sweep", "published", "seed", "name", "output", "ray", "wandb", "tensorboard", "checkpoint", "resources")
_KINDS = ("choice", "uniform", "loguniform", "quniform", "randint", "grid")
_ITEM = re.compile(r"(.+)\[(\d+)\]")
_MAX_STEPS = 10**9
_REPEATS = 1000  # draws in a row that repeat a point, after which a space of numbers counts as exhausted
Point = dict[str, Any]  # dotted key -> value
Space = Mapping[str, Settings]  # dotted key -> domain


def search_points(sweep: Sweep, added: Space | None = None) -> list[Point]:
    """Return the points of the search space: at each point of the grid's product, `samples` different random draws.

    The points depend on `space_seed` only: they are the same for every variant. The draws of a variant's own domains do not
    change those of the sweep's.

    Args:
        sweep: its space, samples and space_seed.
        added: more domains, of a variant; a key of the sweep's space is replaced.

    Raises:
        UserError: a domain is malformed, a grid repeats a value, or there is one random draw of several possible ones.
    """
    added = added or {}
    own = {key: domain for key, domain in sweep.space.items() if key not in added}
    grids = {key: domain["grid"] for key, domain in own.items() if _kind(key, domain) == "grid"}
    added_grids = {key: domain["grid"] for key, domain in added.items() if _kind(key, domain) == "grid"}
    random = {key: domain for key, domain in own.items() if key not in grids}
    added_random = {key: domain for key, domain in added.items() if key not in added_grids}
    several = [key for key, domain in {**random, **added_random}.items() if _size(domain) > 1]
    if several and sweep.samples == 1:
        raise UserError(
            f"sweep.samples=1: is a single random draw of {several[0]}, whose result would stand for all values. "
            f"Set sweep.samples to the number of draws, or give {several[0]} a value or a grid."
        )
    points = []
    for combination in product(*added_grids.values()):
        rng, added_rng = np.random.default_rng(sweep.space_seed), np.random.default_rng([sweep.space_seed, 1])
        for fixed in product(*grids.values()):
            at = dict(zip(grids, fixed, strict=True)) | dict(zip(added_grids, combination, strict=True))
            drawn = _draws(sweep.samples, random, added_random, rng, added_rng)
            points += [at | draw for draw in drawn]
    return points


def _draws(
    samples: int, random: Space, added: Space, rng: np.random.Generator, added_rng: np.random.Generator
) -> list[Point]:
    """Return `samples` different draws of the random domains, or all that there are, which is reported."""
    if not random and not added:
        return [{}]
    target = min(samples, math.prod(_size(domain) for domain in (*random.values(), *added.values())))
    is_discrete = all(_size(domain) < math.inf for domain in (*random.values(), *added.values()))
    drawn: dict[Any, Point] = {}
    repeats = 0
    while len(drawn) < target and (is_discrete or repeats < _REPEATS):
        point = {key: _sample(key, domain, rng) for key, domain in random.items()}
        point |= {key: _sample(key, domain, added_rng) for key, domain in added.items()}
        known = len(drawn)
        drawn.setdefault(identity(point), point)
        repeats = 0 if len(drawn) > known else repeats + 1
    return list(drawn.values())


def shortage(sweep: Sweep, added: Space, points: Sequence[Point]) -> str:
    """Return why there are fewer points than `samples` at each grid point; an empty text if there are as many."""
    domains = {**sweep.space, **added}
    random = [key for key, domain in domains.items() if is_random(key, domain)]
    cells = math.prod(len(domain["grid"]) for key, domain in domains.items() if key not in random)
    if not random or len(points) == sweep.samples * cells:
        return ""
    count = len(points) // cells
    return f"sweep.samples={sweep.samples}: {comma_separated(random)}: only {count} different draws; each runs once"


def is_random(key: str, domain: Settings) -> bool:
    """Return whether a domain is sampled at random."""
    return _kind(key, domain) != "grid"


def split_item(key: str) -> tuple[str, int | None]:
    """Split ``training.epochs[0]`` into the key of the list and the item's number; None: the key is no item."""
    match = _ITEM.fullmatch(key)
    return (match[1], int(match[2])) if match else (key, None)


def _size(domain: Settings) -> float:
    """Return how many different values a random domain has."""
    kind, values = next(iter(domain.items()))
    if kind in ("choice", "grid"):
        return len({identity(value) for value in values})
    if kind == "quniform":
        return steps(values) + 1
    return int(values[1] - values[0]) if kind == "randint" else math.inf


def num_points(space: Space) -> float:
    """Return how many different points a space has; infinity if a domain is continuous."""
    return math.prod(_size(domain) for domain in space.values())


def steps(values: Sequence[float]) -> int:
    """Return the number of whole steps of a quniform domain; a little rounding error is allowed."""
    low, high, step = values
    return int((high - low) / step + 1e-9)


def identity(value: Any) -> Any:
    """Return a value to compare by: 1 equals 1.0, true does not; the order of a mapping matters, as that of strategies does."""
    if isinstance(value, Mapping):
        return dict, *((key, identity(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return list, *map(identity, value)
    return (bool, value) if isinstance(value, bool) else value


def domain_kind(domain: Settings) -> tuple[str, Sequence[Any]]:
    """Return a checked domain's kind and its values."""
    kind, values = next(iter(domain.items()))
    return str(kind), values


def check_search_space(space: Space) -> None:
    """Refuse a malformed domain, and what a search's journal could not give back: a repeated value, or one that JSON lacks."""
    for key, domain in space.items():
        kind, values = _kind(key, domain), next(iter(domain.values()))
        if kind not in ("choice", "grid"):
            continue
        path = f"sweep.space.{key}.{kind}"
        for number, value in enumerate(values):
            _check_stored(f"{path}[{number}]", value)
        if len({identity(value) for value in values}) < len(values):
            raise UserError(f"{path}={shortened(repr(list(values)), 80)}: a search takes each value once.")


def _check_stored(path: str, value: Any) -> None:
    """Refuse a value of a list that a JSON file does not give back as it is."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise UserError(
                    f"{path}: has the key {key!r}: keys must be texts in a search, whose journal is JSON: write '{key}'."
                )
            _check_stored(f"{path}.{key}", item)
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            _check_stored(f"{path}[{number}]", item)
    elif not isinstance(value, str | int | float | None) or (isinstance(value, float) and not math.isfinite(value)):
        raise UserError(
            f"{path}={value!r}: must be a finite number, a text, true, false, null, or a list or mapping of these: a search "
            f"keeps its points in a JSON file."
        )


def _kind(key: str, domain: Settings) -> str:
    """Return a domain's kind (choice, uniform, ...); UserError for an unknown or malformed domain."""
    path = f"sweep.space.{key}"
    if key.partition(".")[0] in SWEEP_WIDE:
        raise UserError(f"{path}: belongs to the whole sweep: set it at the top (seeds: sweep.seeds).")
    if not isinstance(domain, Mapping) or len(domain) != 1 or next(iter(domain)) not in _KINDS:
        shown = shortened(repr(dict(domain) if isinstance(domain, Mapping) else domain), 80)
        known = comma_separated(_KINDS)
        raise UserError(f"{path}={shown}: must be a mapping of one of {known} to its values.{_advice(key, domain)}")
    kind, values = next(iter(domain.items()))
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise UserError(f"{path}.{kind}={values!r}: must be a list of values.")
    if kind == "grid" and len({identity(value) for value in values}) < len(values):
        raise UserError(f"{path}.{kind}={list(values)}: each value once.")
    if kind == "quniform":
        _check_steps(f"{path}.{kind}", values)
    if kind in ("uniform", "loguniform", "randint"):
        allowed = int if kind == "randint" else int | float
        numbers = all(isinstance(v, allowed) and not isinstance(v, bool) and math.isfinite(v) for v in values)
        if len(values) != 2 or not numbers or values[0] >= values[1]:
            what = "integers" if kind == "randint" else "finite numbers"
            raise UserError(f"{path}.{kind}={list(values)}: must be two {what}, the smaller first.")
        if kind == "loguniform" and values[0] <= 0:
            raise UserError(f"{path}.{kind}={list(values)}: must be above 0.")
    return str(kind)


def _check_steps(path: str, values: Sequence[Any]) -> None:
    """Refuse what is no [low, high, step] with at least one step."""
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values)
    if len(values) != 3 or not numbers or values[0] >= values[1] or values[2] <= 0 or values[0] + values[2] > values[1]:
        raise UserError(f"{path}={list(values)}: must be [low, high, step]: finite numbers, low + step at most high.")
    if (values[1] - values[0]) / values[2] > _MAX_STEPS:
        raise UserError(f"{path}={list(values)}: has more than {_MAX_STEPS} steps: use uniform.")


def _advice(key: str, domain: Any) -> str:
    """Return how to write what a malformed domain probably means; an empty text if that is unclear."""
    if not isinstance(domain, Mapping):
        values = [domain] if isinstance(domain, bool | int | float | str) else domain
        return (
            f" Write {shortened(flow_yaml({'grid': values}), 80)}."
            if isinstance(values, list | tuple) and values
            else ""
        )
    first = str(next(iter(domain), ""))
    if suggestion := nearest(first, _KINDS):
        return suggestion
    is_section = domain and all(isinstance(value, Mapping) for value in domain.values())
    return f" A key of the space has dots: {key}.{first}." if is_section else ""


def _sample(key: str, domain: Settings, rng: np.random.Generator) -> Any:
    """Sample a random domain; return a plain Python value. randint excludes the upper bound, as in Ray Tune."""
    kind, values = _kind(key, domain), next(iter(domain.values()))
    if kind == "choice":
        return values[int(rng.integers(len(values)))]
    if kind == "quniform":
        return step_value(values, int(rng.integers(steps(values) + 1)))
    low, high = values
    if kind == "randint":
        return int(rng.integers(low, high))
    if kind == "uniform":
        return float(rng.uniform(low, high))
    return float(np.clip(np.exp(rng.uniform(np.log(low), np.log(high))), low, high))  # rounding may leave the range


def step_value(values: Sequence[float], number: int) -> float | int:
    """Return a value of a quniform domain; integers stay integers."""
    low, _, step = values
    value = low + number * step
    return value if isinstance(value, int) else round(value, 12)


def corner_points(space: Space) -> list[Point]:
    """Return points in which each value of a list, and both ends of a range, occur at least once."""
    values = {key: _corners(domain) for key, domain in space.items()}
    base = {key: each[0] for key, each in values.items()}
    return [base, *({**base, key: value} for key, each in values.items() for value in each[1:])]


def _corners(domain: Mapping[str, Any]) -> list[Any]:
    kind, values = domain_kind(domain)
    if kind in ("choice", "grid"):
        return list(values)
    if kind == "quniform":
        return [step_value(values, 0), step_value(values, steps(values))]
    return [values[0], values[1] - 1] if kind == "randint" else [float(values[0]), float(values[1])]


def point_names(points: Sequence[Point]) -> list[str]:
    """Return a text for each point: ``lr=0.1 weight=2``, or ``ewc.weight=1 lwf.weight=2``. Different values differ in it."""
    texts: dict[str, list[str]] = {}
    for key in points[0] if points else ():
        values = [point[key] for point in points]
        number = len({identity(value) for value in values})
        for digits in (3, 6, 9, 12, 17, None):  # None: as Python writes it, with quotes around texts
            texts[key] = [_text(value, digits) for value in values]
            if len(set(texts[key])) >= number:
                break
    names = _short_names(texts)
    return [" ".join(f"{names[key]}={texts[key][index]}" for key in point) for index, point in enumerate(points)]


def _short_names(keys: Collection[str]) -> dict[str, str]:
    """Return for each dotted key as many of its last parts as tell it from the others."""
    names = {}
    for key in keys:
        parts = key.split(".")
        suffixes = (".".join(parts[-length:]) for length in range(1, len(parts) + 1))
        names[key] = next((s for s in suffixes if sum(f".{k}".endswith(f".{s}") for k in keys) == 1), key)
    return names


def _text(value: Any, digits: int | None) -> str:
    if digits is None:
        return repr(value)
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)
