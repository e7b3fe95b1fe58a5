"""The schema of an experiment: a frozen dataclass for each section of the file, which checks its values."""

import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Interval, MinLen

from .settings import Fraction, NonNegativeFloat, NonNegativeInt, PerExperience, PositiveFloat, PositiveInt, settings

Settings = Mapping[str, Any]
GROUP_FACTORS = ("lr", "weight_decay")  # the settings that a parameter group may multiply by a factor
DEFAULT_PROBES: Settings = {"curves": {}}  # on by default


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


@settings
class Optimizer:
    """The optimizer.

    Attributes:
        name: sgd, adam or adamw.
        lr: learning rate, one value or a list per experience.
        momentum: of sgd; in [0, 1).
        weight_decay: one value or a list per experience.
        clip: maximum norm of the gradient, one value or a list per experience; null: no clipping. Without it the first steps of
            an experience, whose loss starts large, can make the weights diverge: see docs/training.md.
        groups: patterns on parameter names -> factors of `lr` and `weight_decay`, e.g. {"head.*": {lr: 10}}. The first pattern
            that matches a parameter applies to it; parameters without a match have factors of 1.
        layer_decay: the learning rate of a trunk of L blocks is multiplied by layer_decay^(L - l) in block l = 0 .. L - 1, so by
            layer_decay in the last; that of the head is not (1: no decay; BEiT 0.65-0.75, ULMFiT 1 / 2.6).
        reset: make a new optimizer for each experience (its moments start from zero).
    """

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: PerExperience[PositiveFloat] = 0.05
    momentum: Fraction = 0.9
    weight_decay: PerExperience[NonNegativeFloat] = 0.0
    clip: PerExperience[PositiveFloat] | None = 1.0
    groups: Mapping[str, Mapping[str, NonNegativeFloat]] = field(default_factory=dict)
    layer_decay: Annotated[float, Interval(gt=0, le=1)] = 1.0
    reset: bool = True

    def __post_init__(self) -> None:
        for pattern, factors in self.groups.items():
            for key, value in factors.items():
                if key not in GROUP_FACTORS:
                    raise ValueError(
                        f"groups.{pattern}.{key}={value}: unknown key; must be one of {', '.join(GROUP_FACTORS)}"
                    )


@settings
class Schedule:
    """The learning rate within an experience: constant, step or cosine, after a linear warm-up. It restarts with each experience.

    `warmup` and `steps` are fractions of the experience's iterations. Each step multiplies the rate by `gamma`.
    """

    name: Literal["constant", "step", "cosine"] = "constant"
    warmup: Fraction = 0.0
    steps: tuple[float, ...] = (0.5, 0.75)
    gamma: PositiveFloat = 0.1

    def __post_init__(self) -> None:
        if any(not 0 < step < 1 for step in self.steps) or list(self.steps) != sorted(self.steps):
            raise ValueError(f"steps={list(self.steps)}: must be rising fractions in (0, 1)")


@settings
class Training:
    """How each experience is trained. Values may be a list per experience where the type allows it.

    Attributes:
        epochs: passes over the experience's samples; unused if `iterations` is set.
        iterations: mini-batches per experience; null: `epochs` decides.
        batch_size: samples per mini-batch in training.
        evaluation_batch_size: samples per mini-batch in evaluation.
        precision: of the forward pass in training (autocast; float16 scales the loss); weights and evaluation are float32.
        channels_last: store the weights of convolutions so that the channels of a pixel are neighbours, which is faster on GPUs
            at low precision and changes the last bits.
        compile: null, "graph" (replay whole iterations as a CUDA graph; for GPUs) or "inductor" (torch.compile of the network).
        optimizer: see `Optimizer`.
        schedule: see `Schedule`.
        augmentation: a preset's name, or a list of transformations, each a mapping of a name to its settings; null: none.
        full_head: give the head outputs for all of the stream's classes from the start, as most peers do, instead of a head that
            grows. The loss is over all of them, and `lwf` distils all of them.
        label_smoothing: this share of each target is spread over the classes (of a task-incremental stream, those of its task).
    """

    epochs: PerExperience[PositiveInt] = 10
    iterations: PerExperience[PositiveInt] | None = None
    batch_size: PerExperience[PositiveInt] = 64
    evaluation_batch_size: PositiveInt = 512
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    channels_last: bool = False
    compile: Literal["graph", "inductor"] | None = None
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    augmentation: str | tuple[str | Settings, ...] | None = None
    full_head: bool = False
    label_smoothing: Fraction = 0.0

    def __post_init__(self) -> None:
        if self.compile == "graph" and self.precision == "float16":
            raise ValueError(
                "compile='graph': cannot run with precision='float16', where the host reads in each iteration whether a gradient "
                "overflowed; use bfloat16"
            )


@settings
class Seeds:
    """Separate seeds for class order, initialisation and data; null: the trial's `seed`."""

    class_order: NonNegativeInt | None = None
    initialisation: NonNegativeInt | None = None
    data: NonNegativeInt | None = None


@settings
class Data:
    """Folders of data sets (`root`, else RETAIN_DATA) and of prepared data (`cache`, else RETAIN_CACHE or ~/.cache/retain)."""

    root: str | None = None
    cache: str | None = None


@settings
class Resources:
    """Resources of one trial: CPUs and GPUs for Ray, which may be fractions, and torch's `threads`, which affect the bits.

    `deterministic`: use only algorithms that give the same bits each time (torch.use_deterministic_algorithms); for GPUs.
    `tf32`: whether a GPU may round the factors of float32 products to 10 bits (TF32), in training and evaluation; null: in
    convolutions only, as torch does.
    """

    cpus: PositiveFloat = 1.0
    gpus: NonNegativeFloat = 0.0
    threads: PositiveInt = 1
    deterministic: bool = False
    tf32: bool | None = None

    def __post_init__(self) -> None:
        if self.tf32 is not None and self.gpus == 0:
            raise ValueError(f"tf32={str(self.tf32).lower()}: is for GPUs: set gpus above 0, or leave tf32 null")


@settings
class Checkpoint:
    """Checkpoints at experience boundaries and, mid-experience, once `every` so often (null: at boundaries only).

    `every` is a number of seconds or a text: 90, 60s, 5m, 1.5h. The newest `keep` checkpoints stay.
    """

    every: str | float | None = "60s"
    keep: PositiveInt = 2

    def __post_init__(self) -> None:
        if self.every is not None:
            seconds("every", self.every)


@settings
class Wandb:
    """Weights & Biases.

    Attributes:
        mode: null: online if an API key is found, else offline.
        project: of the runs; 1 to 128 characters, none of them / \\ # ? % :
        entity: the user or team that owns the project; null: W&B's default.
        group: of the runs, at most 128 characters; null: the folder's name.
        tags: of the runs, besides variant, stream and strategies; W&B shows 64 characters of each.
    """

    mode: Literal["online", "offline", "disabled"] | None = None
    project: str = "retain"
    entity: str | None = None
    group: str | None = None
    tags: tuple[str, ...] = ()


@settings
class Ray:
    """The Ray cluster.

    Attributes:
        address: of a running cluster; null: RAY_ADDRESS, or else a new local cluster.
        max_failures: restarts of a failed trial.
        max_concurrent: limit on trials that run at the same time; null: none.
        hang_timeout: a trial without an iteration for this long hangs: its process is ended and restarted (null: never).
    """

    address: str | None = None
    max_failures: NonNegativeInt = 2
    max_concurrent: PositiveInt | None = None
    hang_timeout: str | float | None = "30m"

    def __post_init__(self) -> None:
        if self.hang_timeout is not None and not seconds("hang_timeout", self.hang_timeout) > 0:
            raise ValueError(f"hang_timeout={self.hang_timeout!r}: must be above 0, or null for none")


@settings
class StreamPart:
    """The part of its benchmark that a trial sees; a search sets it, so that a choice cannot depend on what it must not see.

    Attributes:
        first: only the first experiences, as many; null: all. Normalisation is then computed from their training samples.
        after: leave out as many experiences at the start.
        test: "validation": the validation samples stand in for the test samples, which the trial never reads.
    """

    first: PositiveInt | None = None
    after: NonNegativeInt = 0
    test: Literal["test", "validation"] = "test"

    def __post_init__(self) -> None:
        if self.first is not None and self.after >= self.first:
            raise ValueError(f"after={self.after}: must be below first={self.first}")


@settings
class Sweep:
    """The trials of an experiment: streams x variants x seeds x points of the search space; or a search of that space.

    `space` maps a dotted key, which may end in ``[i]`` for an item of a list, to one of ``{choice: [..]}``,
    ``{uniform: [a, b]}``, ``{loguniform: [a, b]}``, ``{quniform: [a, b, step]}``, ``{randint: [a, b]}`` (b excluded) or
    ``{grid: [..]}``. A stream or a variant may have a `space` too: its keys are added, replace others, or remove them (null).

    Without `objective`, every point runs with every seed: for each grid point, `samples` different points are sampled from the
    other domains, the same for every variant. With it, each variant with a space is searched on each stream; then its chosen
    configuration, like each variant without a space, is trained from scratch with the `seeds`. See docs/search.md.

    Attributes:
        seeds: of the trials; with `objective`, of the reported ones.
        variants: name -> overrides, nested as in the file.
        streams: name -> overrides.
        space: key -> domain.
        samples: points for each stream and variant.
        space_seed: of the points.
        objective: the metric to search by, ``{maximize: KEY}`` or ``{minimize: KEY}``, or a list of these; null: no search.
        choose: with several objectives, how to choose from the Pareto front: by one of them, or "balanced".
        search: how points are suggested: random, grid, tpe or nsga2, or a mapping of one to its settings.
        search_seeds: seeds of the search's trials; none of `seeds`.
        seeds_first: with how many of them every configuration runs; those that are not stopped run with the others too.
        prune_seeds: "wilcoxon": no further seeds for a configuration that is worse than the best one on its first seeds.
        scheduler: asha or median, or a mapping of one to its settings: stops poor configurations early; null: none.
        protocol: what the search may look at: first_experiences, end_of_stream, transfer or oracle, or a mapping of one to its
            settings; null: first_experiences.
        points_to_evaluate: points to begin with; keys that one leaves out are suggested.
        time_limit: of the search, such as 2h; after it no configuration is begun.
        from_: (`from` in the file) folders of earlier searches, whose results this one begins with.
    """

    seeds: Annotated[tuple[NonNegativeInt, ...], MinLen(1)] = (0,)
    variants: Mapping[str, Settings] = field(default_factory=dict)
    streams: Mapping[str, Settings] = field(default_factory=dict)
    space: Mapping[str, Any] = field(default_factory=dict)  # checked where its points are made
    samples: PositiveInt = 1
    space_seed: NonNegativeInt = 0
    # checked in config/search.py
    objective: str | Mapping[str, str] | tuple[str | Mapping[str, str], ...] | None = None
    choose: str | None = None
    search: str | Settings = "random"
    search_seeds: Annotated[tuple[NonNegativeInt, ...], MinLen(1)] = (100,)
    seeds_first: PositiveInt = 1
    prune_seeds: Literal["wilcoxon"] | None = None
    scheduler: str | Settings | None = None
    protocol: str | Settings | None = None
    points_to_evaluate: tuple[Settings, ...] = ()
    time_limit: str | float | None = None
    from_: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for section in ("variants", "streams"):
            seen: dict[str, str] = {}  # as they look -> the name
            for name in getattr(self, section):
                if not name.strip():
                    raise ValueError(f"{section}={name!r}: a name must not be blank")
                same = seen.setdefault(unicodedata.normalize("NFC", " ".join(name.split())), name)
                if same != name:
                    raise ValueError(f"{section}: {ascii(same)} and {ascii(name)} look the same: rename one of them")
        for key, seeds in (("seeds", self.seeds), ("search_seeds", self.search_seeds)):
            if len(set(seeds)) != len(seeds):
                raise ValueError(f"{key}={list(seeds)}: each seed once")
        if self.time_limit is not None and not seconds("time_limit", self.time_limit) > 0:
            raise ValueError(f"time_limit={self.time_limit!r}: must be above 0, or null for none")


@settings
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
            if not 0 <= value <= 1 or not 0 < tolerance < math.inf:
                raise ValueError(
                    f"figures.{name}={[value, tolerance]}: must be a value in [0, 1] and a tolerance above 0"
                )


@dataclass(frozen=True, slots=True)
class Override:
    """A ``key=value`` that was merged into a config.

    Attributes:
        text: as it was written.
        keys: the keys of nested mappings that lead to its value.
        added: the strategy that it added to the config; "": none.
    """

    text: str
    keys: tuple[str, ...]
    added: str


@dataclass(frozen=True, slots=True)
class Origin:
    """How a config was written, which its values do not say: a sweep resolves and checks it again for each trial.

    Attributes:
        interpolations: for each value with a ``${...}``: the keys that lead to it, the value as written, and the resolved one.
        overrides: what was merged into the file.
    """

    interpolations: tuple[tuple[tuple[str, ...], Any, Any], ...] = ()
    overrides: tuple[Override, ...] = ()


@settings
class Experiment:
    """A whole experiment. `benchmark` and `model` map one name to its settings, `strategies` and `probes` any number."""

    name: str
    benchmark: Settings
    model: Settings
    strategies: Settings = field(default_factory=dict)
    probes: Settings = field(default_factory=dict)
    seed: NonNegativeInt = 0
    seeds: Seeds = field(default_factory=Seeds)
    stream_part: StreamPart = field(default_factory=StreamPart)
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
    origin: Origin = field(default_factory=Origin, repr=False, compare=False)  # no key of the file

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ValueError(f"name={self.name!r}: must not be blank")
        if self.training.compile == "graph" and self.resources.gpus == 0:
            raise ValueError(
                "training.compile='graph': needs a GPU (CUDA graphs): set resources.gpus above 0, or use null"
            )
        unknown = [
            name for name in (self.published.figures if self.published else ()) if name not in self.sweep.variants
        ]
        if unknown:
            raise ValueError(f"published.figures.{unknown[0]}: is no variant of the sweep")
