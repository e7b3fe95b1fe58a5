"""Training and evaluation of retain's learner against a bare PyTorch loop on the same work; see docs/speed.md.

    uv run python tests/speed/loops.py [--pairs 80] [--only mlp cnn resnet] [--rows lwf ...] [--no-stock] [--quick]

Both loops take turns, epoch by epoch, and each pair of epochs gives one ratio of CPU times: other load affects both alike. They
must end in the same bits, which is asserted. The first pair, with what is done once per experience, is not counted. The bare
loops are in bare.py.
"""

import argparse
import copy
import gc
import os
import statistics
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import bare
import stock
import torch
from bare import BATCH, LR, MOMENTUM, TEMPERATURE
from counters import Counters
from measure import Ratio, save
from torch import Tensor, nn

from retain.benchmarks import split_fashion_mnist, split_mnist
from retain.platform.config.schema import Optimizer, Training
from retain.platform.data import class_streams
from retain.platform.data.cache import DataFolders
from retain.platform.data.dataset import DataSet
from retain.platform.data.streams import Arrays, Part, Stream
from retain.platform.errors import UserError
from retain.platform.models.networks import mlp, resnet, small_cnn
from retain.platform.seeding import generator
from retain.platform.training.learner import Learner
from retain.strategies import early_stopping, ewc, lwf, replay

TRAINING_GOAL, EVALUATION_GOAL, CACHED_TEACHER_GOAL = 1.03, 1.05, 0.8
WARM_UP = 20  # iterations on the first experience, not timed: strategies need an old network
SEED, VALIDATION, MEMORY = 3, 0.1, 200
PLUGINS: dict[str, Callable[[], Any]] = {
    "lwf": lambda: lwf.LwFPlugin(lwf.Config(weight=1.0, temperature=TEMPERATURE), 0),
    "replay": lambda: replay.ReplayPlugin(replay.Config(memory=MEMORY), 0),
    "ewc": lambda: ewc.EWCPlugin(ewc.Config(weight=bare.WEIGHT, num_samples=100), 0),
    "early_stopping": lambda: early_stopping.EarlyStoppingPlugin(early_stopping.Config(patience=10**6), 0),
}


@dataclass(frozen=True)
class Case:
    """A row of training: the strategies, by name, and how both sides differ from the defaults here.

    Attributes:
        strategies: names in `PLUGINS`.
        clip: the largest norm of the gradients; None: any.
        recompute: whether the bare loop runs the teacher on each mini-batch; the learner caches its logits.
        goal: the ratio to reach.
    """

    strategies: tuple[str, ...] = ()
    clip: float | None = None
    recompute: bool = False
    goal: float = TRAINING_GOAL

    def __str__(self) -> str:
        """Return the row's name."""
        name = "+".join(self.strategies) or "naive"
        name += ", clipped gradients" if self.clip else ""
        return name + (", cached teacher / recomputed" if self.recompute else "")


CASES = (
    Case(),
    Case(clip=1.0),
    Case(("lwf",)),
    Case(("replay",)),
    Case(("ewc",)),
    Case(("lwf", "replay", "early_stopping")),
    Case(("lwf",), recompute=True, goal=CACHED_TEACHER_GOAL),
)


@dataclass(frozen=True)
class Work:
    """A network on the second experience of a stream.

    Attributes:
        name: the network's.
        stream: the stream; an epoch on its second experience takes 0.1 to 1 s.
        build: makes our network.
        bare: makes the same in plain PyTorch, for a number of classes.
    """

    name: str
    stream: Stream
    build: Callable[[Stream], nn.Module]
    bare: Callable[[int], nn.Module]

    def samples(self, part: str = "train") -> tuple[Tensor, Tensor]:
        """Return the second experience's samples of a part as the network's input."""
        samples = getattr(self.stream.experiences[1], part)
        return self.stream.normalise(samples.arrays.x[samples.indices]), samples.y

    def tests(self) -> tuple[Tensor, Tensor, list[int]]:
        """Return all test samples, concatenated, and how many each experience has."""
        parts = [experience.test for experience in self.stream.experiences]
        x = torch.cat([self.stream.normalise(part.arrays.x[part.indices]) for part in parts])
        return x, torch.cat([part.y for part in parts]), [len(part) for part in parts]

    def learner(self, case: Case, epochs: int) -> Learner:
        """Return a learner that has trained a few iterations on the first experience, to train `epochs` on the second."""
        second = -(-len(self.stream.experiences[1].train) // BATCH) * epochs
        lists = (WARM_UP, second, *[1] * (len(self.stream.experiences) - 2))
        optimizer = Optimizer(name="sgd", lr=LR, momentum=MOMENTUM, clip=case.clip)
        learner = Learner(
            model=self.build(self.stream),
            stream=self.stream,
            training=Training(iterations=lists, batch_size=BATCH, evaluation_batch_size=BATCH, optimizer=optimizer),
            plugins=[PLUGINS[name]() for name in case.strategies],
            seed_data=SEED,
        )
        learner.train_experience(0)
        return learner

    def extras(self, learner: Learner, case: Case, epochs: int) -> bare.Extras:
        """Return what the bare loop needs, from a learner that is about to train the second experience."""
        extras = bare.Extras(clip=case.clip, recompute=case.recompute)
        plugins = dict(zip(case.strategies, learner.strategies, strict=True))
        if "lwf" in plugins:
            extras = replace(extras, teacher=self.teacher(learner.model))
        if "replay" in plugins:
            columns = plugins["replay"].memory.columns
            where = range(epochs * -(-len(self.stream.experiences[1].train) // BATCH))
            orders = (torch.randperm(len(columns["y"]), generator=generator(0, "replay draw", 1, i)) for i in where)
            memory = self.stream.normalise(columns["x"]), columns["y"]
            extras = replace(extras, memory=memory, draws=[order[:BATCH].clone() for order in orders])
        if "ewc" in plugins:
            penalty = plugins["ewc"].penalty
            extras = replace(extras, penalty=(list(penalty.importances.values()), list(penalty.anchors.values())))
        if "early_stopping" in plugins:
            extras = replace(extras, validation=self.samples("validation"))
        return extras

    def copied(self, model: nn.Module) -> nn.Module:
        """Return the bare network with a network's weights."""
        weights, buffers = list(model.parameters()), list(model.buffers())
        net = self.bare(len(weights[-1]))
        with torch.no_grad():
            for own, source in zip([*net.parameters(), *net.buffers()], [*weights, *buffers], strict=True):
                own.copy_(source)
        return net

    def teacher(self, model: nn.Module) -> nn.Module:
        """Return a frozen bare network with a network's weights."""
        return self.copied(model).eval().requires_grad_(False)


class Turns:
    """The CPU seconds, and the instructions where they can be counted, of both sides' turns."""

    def __init__(self, counters: Counters) -> None:
        self.counters = counters
        self.ours: list[tuple[float, float]] = []
        self.bare: list[tuple[float, float]] = []
        self._started = (0.0, 0.0)

    def start(self) -> None:
        """Start the clock."""
        self._started = self.counters.read()

    def stop(self, side: list[tuple[float, float]]) -> None:
        """Add the time since `start` to a side."""
        seconds, instructions = self.counters.read()
        side.append((seconds - self._started[0], instructions - self._started[1]))

    def ratios(self, name: str, goal: float) -> list[Ratio]:
        """Return the ratio of CPU times of all pairs but the first, then that of the instructions if they were counted."""
        pairs = list(zip(self.ours, self.bare, strict=True))
        sides = [[turn[0] * 1000 for turn in side] for side in (self.ours, self.bare)]
        medians = [statistics.median(side[1:]) for side in sides]
        note = "{:.0f} / {:.0f} ms".format(*medians)
        note += "; first turn {:+.0f} / {:+.0f} ms".format(*(s[0] - m for s, m in zip(sides, medians, strict=True)))
        ratios = [Ratio(name, [a[0] / b[0] for a, b in pairs[1:]], goal, note=note)]
        if self.counters.has_instructions:
            counts = [a[1] / b[1] for a, b in pairs[1:]]
            ratios.append(Ratio(f"{name}: instructions", counts, note="for information"))
        return ratios


def training(work: Work, case: Case, pairs: int, counters: Counters) -> list[Ratio]:
    """Train the second experience on both sides, an epoch each in turn."""
    epochs = pairs + 1
    learner = work.learner(case, epochs)
    grown = copy.deepcopy(learner.model)
    grown.head.grow(1 + max(work.stream.experiences[1].classes), generator(0, "head", 1))
    net = work.copied(grown)
    rest = bare.training(net, *work.samples(), SEED, work.extras(learner, case, epochs))
    turns = Turns(counters)

    def let_the_bare_loop_train(learner: Learner) -> None:
        turns.stop(turns.ours)
        turns.start()
        loss = next(rest)
        turns.stop(turns.bare)
        assert loss == learner.epoch_loss, f"{work.name} {case}: the losses differ: {loss} {learner.epoch_loss}"
        if len(turns.bare) == epochs:  # only now: it would cost our side's next turn time
            tensors = zip(learner.model.state_dict().values(), net.state_dict().values(), strict=True)
            assert all(torch.equal(a, b) for a, b in tensors), f"{work.name} {case}: the weights differ"
        turns.start()

    learner.on_epoch = let_the_bare_loop_train
    gc.collect()
    turns.start()
    learner.train_experience(1)
    return turns.ratios(f"{work.name} training, {case}", case.goal)


def evaluation(work: Work, pairs: int, counters: Counters) -> list[Ratio]:
    """Evaluate all test samples on both sides, in turn."""
    learner = work.learner(Case(), 1)
    learner.model.head.grow(len(work.stream.class_names), generator(0, "head", 1))
    net = work.copied(learner.model)
    tests = work.tests()
    turns = Turns(counters)
    gc.collect()
    for _ in range(pairs + 1):
        turns.start()
        row = learner.evaluate().task_agnostic
        turns.stop(turns.ours)
        turns.start()
        other = bare.evaluation(net, *tests)
        turns.stop(turns.bare)
        assert row == other, f"{work.name}: the accuracies differ"
    return turns.ratios(f"{work.name} evaluation", EVALUATION_GOAL)


# --- data and networks ---


def stream_of(quick: bool) -> Stream:
    """Return Split Fashion-MNIST or Split MNIST if RETAIN_DATA has them, else random pictures of that shape and number."""
    if os.environ.get("RETAIN_DATA") and not quick:
        for module in (split_fashion_mnist, split_mnist):
            try:
                return module.build(module.Config(validation=VALIDATION), 0, DataFolders.of())
            except UserError as error:
                print(f"{module.__name__}: {error}", file=sys.stderr)
    draw = torch.Generator().manual_seed(0)
    arrays = []
    for count in (2000, 500) if quick else (60_000, 10_000):
        x = torch.randint(256, (count, 1, 28, 28), generator=draw, dtype=torch.uint8)
        arrays.append(Arrays(x, torch.arange(count) % 10))
    data = DataSet("random", tuple("0123456789"), (0.5,), (0.3,), *arrays)
    return class_streams.class_stream("random pictures", data, class_streams.ClassSplit(validation=VALIDATION), 0)


def cut(stream: Stream, fraction: float) -> Stream:
    """Return a stream with the first of each part's samples; a larger part of the test samples, which take less time each."""

    def shorter(part: Part, fraction: float) -> Part:
        return replace(part, indices=part.indices[: int(len(part) * min(1.0, fraction))])

    parts = {"train": fraction, "validation": fraction, "test": 4 * fraction}
    experiences = [
        replace(each, **{name: shorter(getattr(each, name), share) for name, share in parts.items()})
        for each in stream.experiences
    ]
    return replace(stream, experiences=tuple(experiences))


def works(stream: Stream, only: Sequence[str], quick: bool) -> Iterator[Work]:
    """Yield the networks, each with as many samples as an epoch of 0.1 to 1 s has."""
    draw = generator(0, "network")
    networks: dict[str, tuple[Any, Any, Callable[[int], nn.Module], float]] = {
        "mlp": (mlp, mlp.Config(), bare.mlp, 0.25),
        "cnn": (small_cnn, small_cnn.Config(), bare.cnn, 0.05),
        "resnet": (resnet, resnet.Config(depth=18, width=8), bare.resnet18, 0.015),
    }
    for name in only:
        module, config, plain, fraction = networks[name]
        # built once and copied, so that each learner starts from the same weights
        model = module.build(config, stream.shape, 1 + max(stream.experiences[0].classes), draw)
        samples = stream if quick else cut(stream, fraction)
        yield Work(name, samples, lambda _, model=model: copy.deepcopy(model), plain)


def main() -> None:
    """Compare the loops, and print and save the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=80, help="how many epochs each side trains, in turn")
    parser.add_argument("--only", nargs="+", choices=["mlp", "cnn", "resnet"], default=["mlp", "cnn", "resnet"])
    parser.add_argument("--rows", nargs="+", choices=[*map(str, CASES), "evaluation"], help="leave out the others")
    parser.add_argument("--no-stock", action="store_true", help="leave out stock Avalanche")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: whether it runs, not how fast")
    chosen = parser.parse_args()
    pairs = 2 if chosen.quick else chosen.pairs
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    counters = Counters()
    stream = stream_of(chosen.quick)
    ratios: list[Ratio] = []

    def add(more: list[Ratio]) -> None:
        ratios.extend(more)
        print(*more, sep="\n", file=sys.stderr, flush=True)

    for work in works(stream, chosen.only, chosen.quick):
        for case in CASES:
            if not chosen.rows or str(case) in chosen.rows:
                add(training(work, case, pairs, counters))
        if not chosen.rows or "evaluation" in chosen.rows:
            add(evaluation(work, pairs, counters))
        for strategy in () if chosen.no_stock else ("naive", "lwf"):
            add(stock.compare(work, strategy, 1 if chosen.quick else 3))
    save("loops", ratios, [f"{stream.name}, batch {BATCH}, 1 thread.", counters.explanation])


if __name__ == "__main__":
    main()
