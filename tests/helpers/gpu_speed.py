"""What `make gpu` measures: training against a bare loop, compiled and at several precisions, and four trials at once.

The pictures are random, of CIFAR-100's shape: speed does not depend on what they show.
Shapes: n samples of an experience, B mini-batch, C classes, K old classes.
"""

import copy
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retain.platform.config.load import from_dict
from retain.platform.contract.errors import require
from retain.platform.data.class_streams import ClassSplit, class_stream
from retain.platform.data.dataset import DataSet
from retain.platform.data.streams import Arrays, Stream
from retain.platform.seeding import generator
from retain.platform.training.inductor import InductorCompiler
from retain.platform.training.learner import Learner
from retain.platform.trial.builder import build_trial
from retain.platform.trial.resolve import resolve_experiment
from retain.platform.trial.torch_settings import torch_settings

LR, MOMENTUM, TEMPERATURE = 0.001, 0.9, 2.0  # a low rate: without clipping, a higher one may diverge
NETWORKS: Mapping[str, Mapping[str, Any]] = {
    "mlp": {"mlp": {}},
    "small_cnn": {"small_cnn": {}},
    "resnet18": {"resnet": {}},
}
# settings whose speed is compared with the defaults; `tf32` belongs to resources, the others to training
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "defaults": {},
    "tf32": {"tf32": True},
    "bfloat16": {"precision": "bfloat16"},
    "bfloat16, channels_last": {"precision": "bfloat16", "channels_last": True},
    "graph": {"compile": "graph"},
    "graph, bfloat16": {"compile": "graph", "precision": "bfloat16"},
    "inductor": {"compile": "inductor"},
}


@dataclass(frozen=True)
class Sizes:
    """How much is trained.

    Attributes:
        classes: of the stream; experiences: that they are divided into.
        per_class: training samples of each class.
        batch: samples in a mini-batch.
        epochs: of each experience, for the ratio to a bare loop; timed: epochs for the speed of a variant.
        trials: that run at once.
    """

    classes: int = 100
    experiences: int = 10
    per_class: int = 500
    batch: int = 128
    epochs: int = 2
    timed: int = 7
    trials: int = 4


TINY = Sizes(classes=4, experiences=2, per_class=24, batch=16, epochs=1, timed=4, trials=2)


def stream_of(sizes: Sizes) -> Stream:
    """Return random pictures in experiences of new classes."""
    draw = torch.Generator().manual_seed(0)
    arrays = []
    for count in (sizes.classes * sizes.per_class, sizes.classes * 2):
        x = torch.randint(256, (count, 3, 32, 32), generator=draw, dtype=torch.uint8)
        arrays.append(Arrays(x, torch.arange(count) % sizes.classes))
    names = tuple(str(label) for label in range(sizes.classes))
    data_set = DataSet("random", names, (0.5, 0.5, 0.5), (0.3, 0.3, 0.3), *arrays)
    split = ClassSplit(num_experiences=sizes.experiences, validation=0.0)
    return class_stream("random pictures", data_set, split, 0)


@dataclass(frozen=True)
class Work:
    """Training of a network with lwf on the stream."""

    name: str
    stream: Stream
    device: torch.device
    sizes: Sizes
    settings: Mapping[str, Any] = field(default_factory=dict)

    def learner(self, epochs: int, on_epoch: Callable[[Learner], None] = lambda learner: None) -> Learner:
        """Return a new learner; the gradients are not clipped, as in the bare loop."""
        training = {key: value for key, value in self.settings.items() if key != "tf32"}
        config = from_dict(
            {
                "name": "speed",
                "benchmark": {"retain.platform.contract.random_pictures": {}},  # not built: the stream is given
                "model": dict(NETWORKS[self.name]),
                "strategies": {"lwf": {"temperature": TEMPERATURE}},
                "training": {
                    "epochs": epochs,
                    "batch_size": self.sizes.batch,
                    "optimizer": {"lr": LR, "momentum": MOMENTUM, "clip": None},
                    **training,
                },
                "resources": self.resources,
            }
        )
        builder = build_trial(resolve_experiment(config), stream=self.stream)
        return builder.learner(on_epoch, lambda text: None)

    @property
    def resources(self) -> dict[str, Any]:
        """Return the trial's resources."""
        tf32 = {"tf32": self.settings["tf32"]} if "tf32" in self.settings else {}
        return {"gpus": 1.0, **tf32} if self.device.type == "cuda" else {}

    def wait(self) -> None:
        """Wait for the GPU."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def clocked(self, action: Callable[[], Any]) -> tuple[float, Any]:
        """Return the wall time of an action, until the GPU has finished, and its result."""
        self.wait()
        started = time.perf_counter()
        result = action()
        self.wait()
        return time.perf_counter() - started, result


def bare_experience(work: Work, net: Any, learner: Learner, number: int) -> float:
    """Train a network on an experience by lwf in plain PyTorch; return the last epoch's mean loss.

    The order of the samples and the head's new rows are the learner's.
    """
    part, device, batch = work.stream.experiences[number].train, work.device, work.sizes.batch
    x = work.stream.normalise(part.arrays.x[part.indices].to(device))
    y, targets = part.y.to(device), None
    if number:
        teacher = copy.deepcopy(net).eval().requires_grad_(False)
        with torch.no_grad():
            targets = torch.cat([teacher(each) for each in x.split(batch)])
    net.head.grow(1 + int(y.max()), generator(learner.seed_initialisation, "head", number))
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=LR, momentum=MOMENTUM)
    for epoch in range(work.sizes.epochs):
        order = torch.randperm(len(y), generator=generator(learner.seed_data, "order", number, epoch)).to(device)
        total = torch.zeros((), device=device)
        for index in order.split(batch):
            optimizer.zero_grad()
            logits = net(x[index])
            loss = F.cross_entropy(logits, y[index])
            if targets is not None:
                loss = loss + distillation(logits[:, : targets.shape[1]], targets[index])
            total += loss.detach()
            loss.backward()
            optimizer.step()
    return float(total) / len(order.split(batch))


def distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """Return lwf's term, a scalar, for logits (B, K)."""
    log_q, log_p = (F.log_softmax(logits / TEMPERATURE, 1) for logits in (student, teacher))
    return TEMPERATURE**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def against_bare_loop(work: Work) -> dict[str, Any]:
    """Return the ratio of our time to the bare loop's, experience by experience in turn, and samples per second."""
    learner = work.learner(work.sizes.epochs)
    net: nn.Module = copy.deepcopy(learner.model)
    ours, bare, losses = [], [], []
    for number in range(work.sizes.experiences):
        train, train_bare = (
            partial(learner.train_experience, number),
            partial(bare_experience, work, net, learner, number),
        )
        for is_ours in (
            (True, False) if number % 2 else (False, True)
        ):  # the one that comes first may be at a disadvantage
            seconds, result = work.clocked(train if is_ours else train_bare)
            (ours if is_ours else bare).append(seconds)
            losses += [] if is_ours else [result]
        difference = abs(learner.epoch_loss - losses[-1]) / losses[-1]
        require(difference < 0.1, f"{work.name}: the loops differ: losses {learner.epoch_loss} and {losses[-1]}")
    kept = slice(1, None)  # in the first experience libraries load, and there is no teacher
    ratios = [a / b for a, b in zip(ours[kept], bare[kept], strict=True)]
    samples = work.sizes.epochs * sum(len(each.train) for each in work.stream.experiences[kept])
    low, high = interval(ratios)
    return {
        "network": work.name,
        "ratio": statistics.median(ratios),
        "interval": [low, high],
        "samples_per_second": samples / sum(ours[kept]),
        "bare_samples_per_second": samples / sum(bare[kept]),
    }


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the median (scipy, which measure.py uses, need not be there)."""
    draws = np.random.default_rng(0).choice(np.array(values), (2000, len(values)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return float(low), float(high)


def variant(work: Work) -> dict[str, Any]:
    """Return the speed of the second experience's later epochs, after what is compiled or recorded once."""
    stamps: list[float] = []

    def on_epoch(learner: Learner) -> None:
        work.wait()
        stamps.append(time.perf_counter())

    with torch_settings(resolve_experiment_resources(work)):
        learner = work.learner(work.sizes.timed, on_epoch)
        compiler = learner._compiler
        if isinstance(compiler, InductorCompiler):
            learner.__dict__["_compiler"] = None  # the first experience only makes a teacher: compiling takes minutes
        learner.train_experience(0)
        learner.__dict__["_compiler"] = compiler
        stamps.clear()
        learner.train_experience(1)
    times = [after - before for before, after in zip(stamps[1:-1], stamps[2:], strict=True)]
    require(len(times) > 0, "too few epochs to time")
    rate = len(work.stream.experiences[1].train) / statistics.median(times)
    return {"network": work.name, "variant": ", ".join(work.settings) or "defaults", "samples_per_second": rate}


def resolve_experiment_resources(work: Work) -> Any:
    """Return the trial's resources as the platform has them."""
    minimal = {"name": "speed", "benchmark": "split_digits", "model": "mlp", "resources": work.resources}
    return from_dict(minimal).resources


def one_trial(device: str, sizes: Sizes) -> float:
    """Train a small CNN on the stream, in a worker; return its seconds."""
    work = Work("small_cnn", _stream_in_worker(sizes), torch.device(device), sizes)
    learner = work.learner(sizes.epochs)
    return work.clocked(lambda: [learner.train_experience(number) for number in range(sizes.experiences)])[0]


_streams: dict[Sizes, Stream] = {}


def _stream_in_worker(sizes: Sizes) -> Stream:
    """Return the stream; a worker makes it once."""
    if sizes not in _streams:
        torch.set_num_threads(1)
        _streams[sizes] = stream_of(sizes)
    return _streams[sizes]


def trials_at_once(device: torch.device, sizes: Sizes) -> dict[str, Any]:
    """Return the wall time of trials one after the other and at once, in processes that are warm."""
    sizes = replace(sizes, per_class=max(16, sizes.per_class // 5))
    context, arguments = get_context("spawn"), (str(device), sizes)
    pools = [context.Pool(1) for _ in range(sizes.trials)]
    try:
        for result in [
            pool.apply_async(one_trial, arguments) for pool in pools
        ]:  # each starts, and loads its libraries
            result.get(240)
        started = time.perf_counter()
        for _ in pools:
            pools[0].apply(one_trial, arguments)
        in_turn = time.perf_counter() - started
        started = time.perf_counter()
        for result in [pool.apply_async(one_trial, arguments) for pool in pools]:
            result.get(240)
        at_once = time.perf_counter() - started
    finally:
        for pool in pools:
            pool.terminate()
            pool.join()
    return {
        "trials": sizes.trials,
        "in_turn_seconds": in_turn,
        "at_once_seconds": at_once,
        "speed_up": in_turn / at_once,
    }
