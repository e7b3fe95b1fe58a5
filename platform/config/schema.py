"""The schema of an experiment: a frozen dataclass for each section of the file, which checks its values."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Settings = Mapping[str, Any]
PerExperience = float | tuple[float, ...]
IntPerExperience = int | tuple[int, ...]
GROUP_FACTORS = ("lr", "weight_decay")  # the settings that a parameter group may multiply by a factor


def _positive(name: str, value: PerExperience | None, *, zero: bool = False) -> None:
    """Raise ValueError for a value, or a list of values, that is not above (with `zero`: at least) zero and finite."""
    if value is None:
        return
    values = value if isinstance(value, tuple) else (value,)
    if not values or any(not (v >= 0 if zero else v > 0) or v == float("inf") for v in values):
        shown = list(value) if isinstance(value, tuple) else value
        raise ValueError(f"{name}={shown}: must be {'at least' if zero else 'above'} 0 and finite")


def seconds(name: str, time: str | float) -> float:
    """Return a time in seconds.

    Args:
        name: the setting, for the error message.
        time: a number of seconds, or a text such as 60s, 5m, 1.5h.

    Raises:
        ValueError: anything else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([smh]?)", str(time).strip())
    if match is None or not math.isfinite(float(match[1])):
        raise ValueError(f"{name}={time!r}: must be a time: a number of seconds, or like 60s, 5m, 1.5h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def _seed(name: str, value: int | None) -> None:
    """Raise ValueError for a negative seed: NumPy's generators refuse it."""
    if value is not None and value < 0:
        raise ValueError(f"{name}={value}: must be at least 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimizer:
    """The optimizer.

    Attributes:
        name: sgd, adam or adamw.
        lr: learning rate, one value or a list per experience.
        momentum: of sgd; in [0, 1).
        weight_decay: one value or a list per experience.
        clip: maximum norm of the gradient, one value or a list per experience; null: no clipping.
        groups: patterns on parameter names -> factors of `lr` and `weight_decay`, e.g. {"head.*": {lr: 10}}. The first pattern
            that matches a parameter applies to it; parameters without a match have factors of 1.
        layer_decay: the learning rate of a trunk of L blocks is multiplied by layer_decay^(L - l) in block l = 0 .. L - 1, so by
            layer_decay in the last; that of the head is not (1: no decay; BEiT 0.65-0.75, ULMFiT 1 / 2.6).
        reset: make a new optimizer for each experience (its moments start from zero).
    """

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: PerExperience = 0.05
    momentum: float = 0.9
    weight_decay: PerExperience = 0.0
    clip: PerExperience | None = None
    groups: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    layer_decay: float = 1.0
    reset: bool = True

    def __post_init__(self) -> None:
        _positive("lr", self.lr)
        _positive("layer_decay", self.layer_decay)
        if self.layer_decay > 1:
            raise ValueError(f"layer_decay={self.layer_decay}: must be at most 1, which is no decay")
        _positive("weight_decay", self.weight_decay, zero=True)
        _positive("clip", self.clip)
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum={self.momentum}: must be in [0, 1)")
        for pattern, factors in self.groups.items():
            for key, value in factors.items():
                if key not in GROUP_FACTORS:
                    raise ValueError(
                        f"groups.{pattern}.{key}={value}: unknown key; must be one of {', '.join(GROUP_FACTORS)}"
                    )
                _positive(f"groups.{pattern}.{key}", value, zero=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """The learning rate within an experience: constant, step or cosine, after a linear warm-up. It restarts with each experience.

    `warmup` and `steps` are fractions of the experience's iterations. Each step multiplies the rate by `gamma`.
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
    """How each experience is trained. Values may be a list per experience where the type allows it.

    Attributes:
        epochs: passes over the experience's samples; unused if `iterations` is set.
        iterations: mini-batches per experience; null: `epochs` decides.
        batch_size: samples per mini-batch in training.
        evaluation_batch_size: samples per mini-batch in evaluation.
        precision: of the forward pass in training (autocast; float16 scales the loss); weights and evaluation are float32.
        optimizer: see `Optimizer`.
        schedule: see `Schedule`.
        augmentation: a preset's name, or a list of transformations, each a mapping of a name to its settings; null: none.
        full_head: give the head outputs for all of the stream's classes from the start, as most peers do, instead of a head that
            grows. The loss is over all of them, and `lwf` distils all of them.
        label_smoothing: this share of each target is spread over the classes (of a task-incremental stream, those of its task).
    """

    epochs: IntPerExperience = 10
    iterations: IntPerExperience | None = None
    batch_size: IntPerExperience = 64
    evaluation_batch_size: int = 512
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    augmentation: str | tuple[str | Settings, ...] | None = None
    full_head: bool = False
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing={self.label_smoothing}: must be in [0, 1)")
        _positive("epochs", self.epochs)
        _positive("iterations", self.iterations)
        _positive("batch_size", self.batch_size)
        _positive("evaluation_batch_size", self.evaluation_batch_size)


@dataclass(frozen=True, kw_only=True, slots=True)
class Seeds:
    """Separate seeds for class order, initialisation and data; null: the trial's `seed`."""

    class_order: int | None = None
    initialisation: int | None = None
    data: int | None = None

    def __post_init__(self) -> None:
        _seed("class_order", self.class_order)
        _seed("initialisation", self.initialisation)
        _seed("data", self.data)


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """Folders of data sets (`root`, else RETAIN_DATA) and of prepared data (`cache`, else RETAIN_CACHE or ~/.cache/retain)."""

    root: str | None = None
    cache: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """Resources of one trial: CPUs and GPUs for Ray, which may be fractions, and torch's `threads`, which affect the bits.

    `deterministic`: use only algorithms that give the same bits each time (torch.use_deterministic_algorithms); for GPUs.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    threads: int = 1
    deterministic: bool = False

    def __post_init__(self) -> None:
        _positive("cpus", self.cpus)
        _positive("gpus", self.gpus, zero=True)
        _positive("threads", self.threads)


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """Checkpoints at experience boundaries and, mid-experience, once `every` so often (null: at boundaries only).

    `every` is a number of seconds or a text: 90, 60s, 5m, 1.5h. The newest `keep` checkpoints stay.
    """

    every: str | float | None = "60s"
    keep: int = 2

    def __post_init__(self) -> None:
        if self.every is not None:
            seconds("every", self.every)
        _positive("keep", self.keep)


@dataclass(frozen=True, kw_only=True, slots=True)
class Wandb:
    """Weights & Biases. `mode` null: online if an API key is found, else offline."""

    mode: Literal["online", "offline", "disabled"] | None = None
    project: str = "retain"
    entity: str | None = None
    group: str | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Ray:
    """The Ray cluster.

    Attributes:
        address: of a running cluster; null: RAY_ADDRESS, or else a new local cluster.
        max_failures: restarts of a failed trial.
        max_concurrent: limit on trials that run at the same time; null: none.
        hang_timeout: a trial without an iteration for this long hangs: its process is ended and restarted (null: never).
    """

    address: str | None = None
    max_failures: int = 2
    max_concurrent: int | None = None
    hang_timeout: str | float | None = "30m"

    def __post_init__(self) -> None:
        if self.hang_timeout is not None and not seconds("hang_timeout", self.hang_timeout) > 0:
            raise ValueError(f"hang_timeout={self.hang_timeout!r}: must be above 0, or null for none")
        _positive("max_failures", self.max_failures, zero=True)
        _positive("max_concurrent", self.max_concurrent)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """The trials of an experiment: streams x variants x seeds x points of the search space.

    `streams` and `variants` map a name to overrides (nested as in the file). `space` maps a dotted key to one of
    ``{choice: [..]}``, ``{uniform: [a, b]}``, ``{loguniform: [a, b]}``, ``{randint: [a, b]}`` or ``{grid: [..]}``. For each
    grid point, `samples` points are sampled from the other domains, the same for every variant.
    """

    seeds: tuple[int, ...] = (0,)
    variants: Mapping[str, Settings] = field(default_factory=dict)
    streams: Mapping[str, Settings] = field(default_factory=dict)
    space: Mapping[str, Settings] = field(default_factory=dict)
    samples: int = 1
    space_seed: int = 0

    def __post_init__(self) -> None:
        _positive("samples", self.samples)
        _seed("space_seed", self.space_seed)
        if any(seed < 0 for seed in self.seeds):
            raise ValueError(f"seeds={list(self.seeds)}: each must be at least 0")
        if not self.seeds:
            raise ValueError(f"seeds={list(self.seeds)}: must hold at least one seed")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds={list(self.seeds)}: each seed once")


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """Published results for variants of the sweep: final average accuracies in [0, 1], as means over seeds.

    Trials ignore this section; `make published` compares them with ours.

    Attributes:
        source: the publication.
        figures: variant -> [published value, tolerance of ours]; the tolerance was stated before our result was known.
        note: known differences between the protocols.
    """

    source: str
    figures: Mapping[str, tuple[float, float]]
    note: str = ""

    def __post_init__(self) -> None:
        for name, (value, tolerance) in self.figures.items():
            if not 0 <= value <= 1:
                raise ValueError(f"figures.{name}={value}: must be in [0, 1]")
            _positive(f"figures.{name} (tolerance)", tolerance)


@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """A whole experiment. `benchmark` and `model` map one name to its settings, `strategies` and `probes` any number."""

    name: str
    benchmark: Settings
    model: Settings
    strategies: Settings = field(default_factory=dict)
    probes: Settings = field(default_factory=dict)
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
    published: Published | None = None

    def __post_init__(self) -> None:
        _seed("seed", self.seed)
        unknown = [
            name for name in (self.published.figures if self.published else ()) if name not in self.sweep.variants
        ]
        if unknown:
            raise ValueError(f"published.figures.{unknown[0]}: is no variant of the sweep")
