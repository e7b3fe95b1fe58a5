"""What an experiment is: frozen dataclasses, filled from YAML and ``key=value`` overrides; the only place that knows OmegaConf.

Names and the platform's own keys are checked here without torch; a plugin's settings need its module (`check_plugins`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from . import plugins
from .errors import UserError, listed, nearest
from .loading import read_yaml, with_overrides

SCHEMA = 1
_CONFIGS = Path(__file__).resolve().parent.parent / "configs"
Settings = Mapping[str, Any]
PerExperience = float | tuple[float, ...]
IntPerExperience = int | tuple[int, ...]


def _positive(name: str, value: PerExperience | None, *, zero: bool = False) -> None:
    """Refuse values, or lists of values, that are not above (or at least) zero."""
    if value is None:
        return
    values = value if isinstance(value, tuple) else (value,)
    if not values or any(not (v >= 0 if zero else v > 0) or v == float("inf") for v in values):
        shown = list(value) if isinstance(value, tuple) else value
        raise ValueError(f"{name}={shown}: must be {'at least' if zero else 'above'} 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimizer:
    """The optimizer: `name` sgd, adam or adamw; `reset`: a new one for each experience (its moments start from zero)."""

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: PerExperience = 0.05
    momentum: float = 0.9
    weight_decay: PerExperience = 0.0
    clip: PerExperience | None = None
    reset: bool = True

    def __post_init__(self) -> None:
        _positive("lr", self.lr)
        _positive("weight_decay", self.weight_decay, zero=True)
        _positive("clip", self.clip)
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum={self.momentum}: must be in [0, 1)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """The learning rate within an experience, restarting with each: constant, step or cosine, after a linear warm-up.

    `warmup` and `steps` are fractions of the experience's iterations; a step multiplies the rate by `gamma`.
    """

    name: Literal["constant", "step", "cosine"] = "constant"
    warmup: float = 0.0
    steps: tuple[float, ...] = (0.5, 0.75)
    gamma: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup={self.warmup}: must be in [0, 1), a fraction of the iterations")
        if any(not 0 < step < 1 for step in self.steps) or list(self.steps) != sorted(self.steps):
            raise ValueError(f"steps={list(self.steps)}: must be rising fractions in (0, 1)")
        _positive("gamma", self.gamma)


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """How each experience is trained: by `epochs`, or by `iterations` when that is given. Values may be a list per experience."""

    epochs: IntPerExperience = 10
    iterations: IntPerExperience | None = None
    batch_size: IntPerExperience = 64
    evaluation_batch_size: int = 512
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)

    def __post_init__(self) -> None:
        _positive("epochs", self.epochs)
        _positive("iterations", self.iterations)
        _positive("batch_size", self.batch_size)
        _positive("evaluation_batch_size", self.evaluation_batch_size)


@dataclass(frozen=True, kw_only=True, slots=True)
class Seeds:
    """Separate seeds; each one left out is the trial's `seed`."""

    class_order: int | None = None
    initialisation: int | None = None
    data: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """Where data sets are looked for (`root`, else RETAIN_DATA) and prepared (`cache`, else RETAIN_CACHE or ~/.cache/retain)."""

    root: str | None = None
    cache: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """What one trial takes: fractions of CPUs and GPUs for Ray, and torch's `threads` (part of the result's bits)."""

    cpus: float = 1.0
    gpus: float = 0.0
    threads: int = 1

    def __post_init__(self) -> None:
        _positive("cpus", self.cpus)
        _positive("gpus", self.gpus, zero=True)
        _positive("threads", self.threads)


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """Checkpoints at experience boundaries; `keep` of them are kept."""

    keep: int = 2

    def __post_init__(self) -> None:
        _positive("keep", self.keep)


@dataclass(frozen=True, kw_only=True, slots=True)
class Wandb:
    """Weights & Biases: `mode` null means online where a key is found, else offline."""

    mode: Literal["online", "offline", "disabled"] | None = None
    project: str = "retain"
    entity: str | None = None
    group: str | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Ray:
    """The cluster: `address` null starts a local one (or follows RAY_ADDRESS); `max_failures`: restarts of a trial."""

    address: str | None = None
    max_failures: int = 2
    max_concurrent: int | None = None

    def __post_init__(self) -> None:
        _positive("max_failures", self.max_failures, zero=True)
        _positive("max_concurrent", self.max_concurrent)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """The trials of an experiment: streams x variants x seeds x points of the search space.

    `streams` and `variants` map a name to overrides (nested as in the file). `space` maps a dotted key to one of
    ``{choice: [..]}``, ``{uniform: [a, b]}``, ``{loguniform: [a, b]}``, ``{randint: [a, b]}`` or ``{grid: [..]}``;
    `samples` points are drawn for each grid point, the same for every variant.
    """

    seeds: tuple[int, ...] = (0,)
    variants: Mapping[str, Settings] = field(default_factory=dict)
    streams: Mapping[str, Settings] = field(default_factory=dict)
    space: Mapping[str, Settings] = field(default_factory=dict)
    samples: int = 1
    space_seed: int = 0

    def __post_init__(self) -> None:
        _positive("samples", self.samples)
        if not self.seeds:
            raise ValueError(f"seeds={list(self.seeds)}: must hold at least one seed")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds={list(self.seeds)}: each seed once")


@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """A whole experiment. `benchmark` and `model` hold one name with its settings, `strategies` any number, in order."""

    name: str
    benchmark: Settings
    model: Settings
    strategies: Settings = field(default_factory=dict)
    seed: int = 0
    seeds: Seeds = field(default_factory=Seeds)
    training: Training = field(default_factory=Training)
    data: Data = field(default_factory=Data)
    resources: Resources = field(default_factory=Resources)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    wandb: Wandb = field(default_factory=Wandb)
    tensorboard: bool = False
    ray: Ray = field(default_factory=Ray)
    output: str = "runs"
    sweep: Sweep = field(default_factory=Sweep)


T = TypeVar("T")


def build(cls: type[T], data: Mapping[str, Any], path: str = "") -> T:
    """Turn a mapping into the dataclass `cls`; types are strict (no ``"1"`` for 1), lists become tuples.

    Raises:
        UserError: an unknown key (with the nearest known one), a wrong type or a refused value, each with its full path.
    """
    _check_keys(cls, data, path)
    try:
        return TypeAdapter(cls).validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        raise UserError("\n".join(dict.fromkeys(_explain(cls, item, path) for item in error.errors()))) from None
    except TypeError as error:
        raise UserError(f"{path or 'config'}: holds something that is no plain YAML value: {error}.") from None


def _check_keys(cls: Any, data: Any, path: str) -> None:
    """Refuse unknown keys, at any depth."""
    if not is_dataclass(cls) or not isinstance(data, Mapping):
        return
    hints = get_type_hints(cls)
    for key, value in data.items():
        where = f"{path}.{key}" if path else str(key)
        if key not in hints:
            raise UserError(f"{where}: unknown key.{nearest(str(key), hints)} Known here: {listed(hints)}.")
        _check_keys(hints[key], value, where)


def _explain(cls: Any, item: Any, path: str) -> str:
    """One pydantic finding as a sentence that starts with the key's full path."""
    keys: list[str] = []
    hint: Any = cls
    for part in item["loc"]:
        if is_dataclass(hint) and part in get_type_hints(hint):
            hint = get_type_hints(hint)[part]
            keys.append(str(part))
        elif isinstance(part, int):
            keys.append(str(part))
    where = ".".join([path, *keys] if path else keys)
    if item["type"] == "value_error":
        return f"{where}.{item['ctx']['error']}." if where else f"{item['ctx']['error']}."
    if item["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"{where}: is missing."
    value = item["input"]
    suggestion = nearest(str(value), item["ctx"]["expected"].split("'")) if item["type"] == "literal_error" else ""
    return f"{where}={value!r}: {item['msg'][0].lower()}{item['msg'][1:]}.{suggestion}"


def config_names() -> list[str]:
    """Names of the shipped experiment files."""
    return sorted(path.relative_to(_CONFIGS).with_suffix("").as_posix() for path in _CONFIGS.rglob("*.yaml"))


def config_path(name: str) -> Path:
    """The file of a shipped name or of a path."""
    shipped = _CONFIGS / f"{name}.yaml"
    if shipped.is_file():
        return shipped
    path = Path(name).expanduser()
    if path.is_file():
        return path
    known = config_names()
    raise UserError(
        f"config '{name}': neither a shipped name nor a file.{nearest(name, known)} Shipped: {listed(known)}."
    )


def load_config(name: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read a shipped name or a path, apply ``key=value`` overrides, check names and the platform's keys.

    Raises:
        UserError: with the key's full path, the value, and what is allowed.
    """
    return from_dict(with_overrides(read_yaml(config_path(str(name))), overrides))


def from_dict(data: Mapping[str, Any]) -> Experiment:
    """Build and check an experiment from plain data, as `to_dict` gives it; without importing a plugin's module."""
    plain = dict(data)
    schema = plain.pop("schema", SCHEMA)
    if schema != SCHEMA:
        raise UserError(f"schema={schema!r}: this version of retain reads schema {SCHEMA}.")
    for key in ("benchmark", "model", "strategies"):
        if key in plain:
            plain[key] = _named(key, plain[key])
    experiment = build(Experiment, plain)
    _check_one_name("benchmark", experiment.benchmark, "benchmarks")
    _check_one_name("model", experiment.model, "networks")
    for strategy in experiment.strategies:
        plugins.check_name("strategies", strategy)
    return experiment


def _named(key: str, value: Any) -> Any:
    """``benchmark: split_digits`` means ``benchmark: {split_digits: {}}``; a name without settings has none."""
    if isinstance(value, str):
        return {value: {}}
    if not isinstance(value, Mapping):
        raise UserError(f"{key}={value!r}: must be a name, or a mapping of a name to its settings.")
    for name, settings in value.items():
        if settings is not None and not isinstance(settings, Mapping):
            raise UserError(f"{key}.{name}={settings!r}: must be a mapping of settings.")
    return {str(name): dict(settings or {}) for name, settings in value.items()}


def _check_one_name(key: str, value: Settings, kind: plugins.Kind) -> None:
    """The benchmark and the model are one each."""
    if len(value) != 1:
        raise UserError(f"{key}={list(value)}: must hold exactly one name, of {listed(plugins.names(kind))}.")
    plugins.check_name(kind, next(iter(value)))


def to_dict(experiment: Experiment) -> dict[str, Any]:
    """The experiment as plain data for YAML and JSON, with its schema version first; `from_dict` reads it back."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(experiment)))
    return {"schema": SCHEMA, **plain}


def check_plugins(experiment: Experiment) -> Experiment:
    """Check every plugin's settings against its `Config` and return the experiment with all defaults filled in.

    Imports the modules that are named, so it takes as long as ``import torch``.
    """
    from dataclasses import replace

    filled: dict[str, Any] = {}
    for key, kind in (("benchmark", "benchmarks"), ("model", "networks"), ("strategies", "strategies")):
        named: Settings = getattr(experiment, key)
        filled[key] = {name: _filled(kind, key, name, settings) for name, settings in named.items()}  # type: ignore[arg-type]
    return replace(experiment, **filled)


def _filled(kind: plugins.Kind, key: str, name: str, settings: Settings) -> Settings:
    """One plugin's settings with its defaults; an Avalanche class keeps the arguments it was given."""
    module = plugins.resolve(kind, name)
    if isinstance(module, type):
        return settings
    built = build(module.Config, settings, f"{key}.{name}")
    plain: Settings = json.loads(json.dumps(asdict(built)))
    return plain


def settings_of(experiment: Experiment, kind: plugins.Kind) -> list[tuple[Any, Any]]:
    """The (module, Config) pairs of a kind, in the order of the YAML; an Avalanche class comes with its arguments."""
    key = {"benchmarks": "benchmark", "networks": "model", "strategies": "strategies"}[kind]
    pairs = []
    for name, settings in getattr(experiment, key).items():
        module = plugins.resolve(kind, name)
        pairs.append(
            (module, settings if isinstance(module, type) else build(module.Config, settings, f"{key}.{name}"))
        )
    return pairs


def fields_of(cls: Any) -> list[tuple[str, str, Any]]:
    """Name, type and default of each setting of a `Config`, for `retain list`."""
    return [(f.name, str(f.type), f.default) for f in fields(cls)]
