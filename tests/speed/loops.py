"""Training and evaluation of retain's learner against a bare PyTorch loop on the same work; see docs/speed.md.

    uv run python tests/speed/loops.py [--pairs 7] [--only mlp cnn] [--no-stock] [--quick]

The two run in turn (A B A B ...), so that other load on the machine affects both, and the ratio is taken pair by pair. They must
end in the same bits, which is asserted; times are only printed. The bare loop has the experience's samples as float tensors
before its clock starts; the learner's clock includes gathering and normalising them.

Shapes: n samples of the experience, B batch, C classes, K old classes.
"""

import argparse
import copy
import gc
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retain.benchmarks import split_fashion_mnist, split_mnist
from retain.platform.config.schema import Optimizer, Training
from retain.platform.data import class_streams
from retain.platform.data.cache import DataFolders
from retain.platform.data.dataset import DataSet
from retain.platform.data.streams import Arrays, Stream
from retain.platform.errors import UserError
from retain.platform.models.networks import mlp, small_cnn
from retain.platform.seeding import generator
from retain.platform.training.avalanche_learner import AvalancheLearner as Learner
from retain.strategies import lwf

BATCH, LR, MOMENTUM, TEMPERATURE = 64, 0.01, 0.9, 2.0
GOALS = {"training": 1.03, "evaluation": 1.05}
WARM_UP = 20  # iterations on the first experience, not timed: lwf needs an old network


# --- the bare loop ---


def bare_mlp(num_classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, num_classes)
    )


def bare_cnn(num_classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 128),
        nn.ReLU(),
        nn.Linear(128, num_classes),
    )


def bare_training(net: nn.Module, teacher: nn.Module | None, x: Tensor, y: Tensor, epochs: int, seed: int) -> float:
    """Train on x (n, 1, 28, 28) and y (n,) in the learner's order; return the last epoch's mean loss.

    The teacher's logits (n, K) are computed once.
    """
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=LR, momentum=MOMENTUM)
    if teacher is not None:
        with torch.no_grad():
            targets = torch.cat([teacher(part) for part in x.split(BATCH)])
    for epoch in range(epochs):
        order = torch.randperm(len(y), generator=generator(seed, "order", 1, epoch))
        total, iterations = 0.0, 0
        for index in order.split(BATCH):
            optimizer.zero_grad()
            logits = net(x[index])
            loss = F.cross_entropy(logits, y[index])
            if teacher is not None:
                log_q = F.log_softmax(logits[:, : targets.shape[1]] / TEMPERATURE, 1)
                log_p = F.log_softmax(targets[index] / TEMPERATURE, 1)
                loss = loss + TEMPERATURE**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
            total += loss.item()
            iterations += 1
            loss.backward()
            optimizer.step()
    return total / iterations


@torch.no_grad()
def bare_evaluation(net: nn.Module, x: Tensor, y: Tensor, sizes: list[int]) -> list[float]:
    """Return the accuracy on each experience's test samples, which are concatenated in x and y."""
    net.eval()
    correct = torch.cat([net(part).argmax(1) for part in x.split(BATCH)]) == y
    return [part.sum().item() / len(part) for part in correct.split(sizes)]


# --- the same work on the learner ---


@dataclass(frozen=True)
class Work:
    """A network on the second experience of a stream; `epochs` and `passes` (of evaluation) take about a second."""

    name: str
    stream: Stream
    build: Callable[[Stream], nn.Module]
    bare: Callable[[int], nn.Module]
    epochs: int
    passes: int

    def samples(self) -> tuple[Tensor, Tensor]:
        """Return the second experience's training samples as the network's input."""
        part = self.stream.experiences[1].train
        return self.stream.normalise(part.arrays.x[part.indices]), part.y

    def tests(self) -> tuple[Tensor, Tensor, list[int]]:
        """Return all test samples, concatenated, and how many each experience has."""
        parts = [experience.test for experience in self.stream.experiences]
        x = torch.cat([self.stream.normalise(part.arrays.x[part.indices]) for part in parts])
        return x, torch.cat([part.y for part in parts]), [len(part) for part in parts]

    def learner(self, strategy: str) -> Learner:
        """Return a learner that has trained a few iterations on the first experience."""
        iterations = -(-len(self.stream.experiences[1].train) // BATCH) * self.epochs
        lists = (WARM_UP, iterations, *[1] * (len(self.stream.experiences) - 2))
        optimizer = Optimizer(name="sgd", lr=LR, momentum=MOMENTUM, clip=None)
        training = Training(iterations=lists, batch_size=BATCH, evaluation_batch_size=BATCH, optimizer=optimizer)
        plugins = [lwf.LwFPlugin(lwf.Config(weight=1.0, temperature=TEMPERATURE), 0)] if strategy == "lwf" else []
        learner = Learner(
            model=self.build(self.stream), stream=self.stream, training=training, plugins=plugins, seed_data=3
        )
        learner.train_experience(0)
        return learner

    def filled(self, model: nn.Module) -> nn.Module:
        """Return the bare network with a model's weights."""
        weights = list(model.parameters())
        net = self.bare(len(weights[-1]))
        with torch.no_grad():
            for own, source in zip(net.parameters(), weights, strict=True):
                own.copy_(source)
        return net


def same(ours: nn.Module, bare: nn.Module) -> bool:
    """Return whether two networks have the same weights, bit for bit."""
    return all(torch.equal(a, b) for a, b in zip(ours.parameters(), bare.parameters(), strict=True))


def training(work: Work, strategy: str, pairs: int) -> None:
    x, y = work.samples()
    start = work.learner(strategy).model
    teacher = work.filled(start).eval().requires_grad_(False) if strategy == "lwf" else None
    grown = copy.deepcopy(start)
    grown.head.grow(1 + max(work.stream.experiences[1].classes), generator(0, "head", 1))
    rows = []
    for _ in range(pairs):
        learner, net = work.learner(strategy), work.filled(grown)
        ours = clocked(lambda learner=learner: learner.train_experience(1))
        loss: list[float] = []
        bare = clocked(lambda net=net, into=loss: into.append(bare_training(net, teacher, x, y, work.epochs, 3)))
        assert same(learner.model, net), f"{work.name} {strategy}: the weights differ"
        assert loss == [learner.epoch_loss], f"{work.name} {strategy}: the losses differ"
        rows.append((ours, bare))
    show(f"{work.name} training, {strategy}", rows, GOALS["training"])


def evaluation(work: Work, pairs: int) -> None:
    x, y, sizes = work.tests()
    learner = work.learner("naive")
    net = work.filled(learner.model)
    rows = []
    for _ in range(pairs):
        results: dict[str, Any] = {}
        ours = clocked(lambda store=results: store.update(ours=[learner.evaluate() for _ in range(work.passes)]))
        bare = clocked(
            lambda store=results: store.update(bare=[bare_evaluation(net, x, y, sizes) for _ in range(work.passes)])
        )
        row = results["ours"][0].task_agnostic
        known = [(a, b) for a, b in zip(row, results["bare"][0], strict=True) if a == a]  # NaN: classes not seen yet
        assert known and all(a == b for a, b in known), f"{work.name}: the accuracies differ"
        rows.append((ours, bare))
    show(f"{work.name} evaluation", rows, GOALS["evaluation"])


# --- stock Avalanche, for reference ---


class Pictures(torch.utils.data.Dataset[Any]):
    """A data set as torchvision gives it: PIL pictures and numbers."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.targets = x.numpy()[:, 0], y.tolist()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        from PIL import Image

        return Image.fromarray(self.x[index]), self.targets[index]


def stock_benchmark(stream: Stream) -> Any:
    from avalanche.benchmarks import benchmark_from_datasets
    from avalanche.benchmarks.utils.classification_dataset import _make_taskaware_classification_dataset
    from torchvision import transforms

    pipeline = transforms.Compose([transforms.ToTensor(), transforms.Normalize(stream.mean, stream.std)])
    groups = {"train": (pipeline, None), "eval": (pipeline, None)}

    def dataset(part: Any) -> Any:
        pictures = Pictures(part.arrays.x[part.indices], part.y)
        return _make_taskaware_classification_dataset(pictures, transform_groups=groups, task_labels=0)

    return benchmark_from_datasets(
        train=[dataset(experience.train) for experience in stream.experiences],
        test=[dataset(experience.test) for experience in stream.experiences],
    )


def stock(work: Work, strategy: str) -> None:
    """Measure training (an epoch) and evaluation once, against the bare loop on the same samples."""
    from avalanche.evaluation.metrics import accuracy_metrics
    from avalanche.training import LwF, Naive
    from avalanche.training.plugins import EvaluationPlugin

    benchmark = stock_benchmark(work.stream)
    net = work.bare(len(work.stream.class_names))  # all outputs: stock evaluation fails on a class that the head lacks
    arguments: dict[str, Any] = {"alpha": 1.0, "temperature": TEMPERATURE} if strategy == "lwf" else {}
    template = (LwF if strategy == "lwf" else Naive)(
        model=net,
        optimizer=torch.optim.SGD(net.parameters(), lr=LR, momentum=MOMENTUM),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=BATCH,
        eval_mb_size=BATCH,
        evaluator=EvaluationPlugin(accuracy_metrics(stream=True, experience=True), loggers=[]),
        **arguments,
    )
    with redirect_stdout(sys.stderr):
        if strategy == "lwf":
            template.train(benchmark.train_stream[0])
        trained = clocked(lambda: template.train(benchmark.train_stream[1]))
        x, y = work.samples()
        bare_net, teacher = copy.deepcopy(net), copy.deepcopy(net) if strategy == "lwf" else None
        bare = clocked(lambda: bare_training(bare_net, teacher, x, y, 1, 3))
        show(f"{work.name} training, {strategy}, stock", [(trained, bare)], None)
        if strategy == "lwf":
            return
        tested = clocked(lambda: template.eval(benchmark.test_stream))
        tests = work.tests()
        show(f"{work.name} evaluation, stock", [(tested, clocked(lambda: bare_evaluation(net, *tests)))], None)


# --- clock, table, data ---

Seconds = tuple[float, float]  # wall time, CPU time of this process


def clocked(action: Callable[[], Any]) -> Seconds:
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - wall, time.process_time() - cpu


def show(name: str, rows: list[tuple[Seconds, Seconds]], goal: float | None) -> None:
    """Print a line: medians of both times, median and range of the ratio by wall time and by CPU time."""
    ours, bare = (statistics.median(row[side][0] for row in rows) for side in (0, 1))
    text = f"{name:<34} {ours:7.2f} s {bare:7.2f} s"
    for clock in (0, 1):
        ratios = sorted(row[0][clock] / row[1][clock] for row in rows)
        text += f"   {statistics.median(ratios):6.3f} ({ratios[0]:.3f}-{ratios[-1]:.3f})"
    print(text + (f"   goal {goal}" if goal else ""), file=sys.__stdout__, flush=True)


def stream_of(quick: bool) -> Stream:
    """Return Split Fashion-MNIST or Split MNIST if RETAIN_DATA has them, else random pictures of that shape and number."""
    if os.environ.get("RETAIN_DATA") and not quick:
        for module in (split_fashion_mnist, split_mnist):
            try:
                return module.build(module.Config(), 0, DataFolders.of())
            except UserError as error:
                print(f"{module.__name__}: {error}", file=sys.stderr)
    draw = torch.Generator().manual_seed(0)
    arrays = []
    for count in (2000, 500) if quick else (60_000, 10_000):
        x = torch.randint(256, (count, 1, 28, 28), generator=draw, dtype=torch.uint8)
        arrays.append(Arrays(x, torch.arange(count) % 10))
    names = tuple("0123456789")
    return class_streams.class_stream(
        "random pictures", DataSet("random", names, (0.5,), (0.3,), *arrays), class_streams.ClassSplit(), 0
    )


def works(stream: Stream, only: list[str], quick: bool) -> Iterator[Work]:
    draw = generator(0, "network")
    networks: dict[str, tuple[Any, Any, Callable[[int], nn.Module], int, int]] = {
        "mlp": (mlp, mlp.Config(), bare_mlp, 10, 10),
        "cnn": (small_cnn, small_cnn.Config(), bare_cnn, 1, 1),
    }
    for name in only:
        module, config, bare, epochs, passes = networks[name]
        # built once and copied, so that each learner starts from the same weights
        model = module.build(config, stream.shape, 1 + max(stream.experiences[0].classes), draw)
        work = Work(name, stream, lambda _, model=model: copy.deepcopy(model), bare, epochs, passes)
        yield replace(work, epochs=1, passes=1) if quick else work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7, help="how often each of the two runs")
    parser.add_argument("--only", nargs="+", choices=["mlp", "cnn"], default=["mlp", "cnn"])
    parser.add_argument("--no-stock", action="store_true", help="leave out stock Avalanche")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: whether it runs, not how fast")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    stream = stream_of(chosen.quick)
    print(f"{stream.name}, batch {BATCH}, 1 thread; torch {torch.__version__}; load {os.getloadavg()[0]:.1f}")
    print(f"{'':<34} {'ours':>9} {'bare':>9}   {'ratio, wall (range)':<20}   ratio, CPU time (range)")
    for work in works(stream, chosen.only, chosen.quick):
        for strategy in ("naive", "lwf"):
            training(work, strategy, chosen.pairs)
        evaluation(work, chosen.pairs)
        if not chosen.no_stock:
            for strategy in ("naive", "lwf"):
                stock(work, strategy)
    print(f"load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
