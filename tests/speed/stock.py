"""Training and evaluation with stock Avalanche on the work of loops.py, for reference: its templates, on PIL pictures."""

import sys
from contextlib import redirect_stdout
from typing import Any

import bare
import torch
from measure import Ratio, cpu_seconds
from torch import Tensor, nn

from retain.platform.data.streams import Stream


class Pictures(torch.utils.data.Dataset[Any]):
    """A data set as torchvision gives it: PIL pictures and numbers."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.targets = x.numpy()[:, 0], y.tolist()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        from PIL import Image

        return Image.fromarray(self.x[index]), self.targets[index]


def benchmark(stream: Stream) -> Any:
    """Return a stream as a benchmark of Avalanche, with torchvision's transforms."""
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


def compare(work: Any, strategy: str, pairs: int) -> list[Ratio]:
    """Return the ratios to the bare loop of training (an epoch) and, for naive, of evaluation."""
    from avalanche.evaluation.metrics import accuracy_metrics
    from avalanche.training import LwF, Naive
    from avalanche.training.plugins import EvaluationPlugin

    streams = benchmark(work.stream)
    net = work.bare(len(work.stream.class_names))  # all outputs: stock evaluation fails on a class that the head lacks
    arguments: dict[str, Any] = {"alpha": 1.0, "temperature": bare.TEMPERATURE} if strategy == "lwf" else {}
    template = (LwF if strategy == "lwf" else Naive)(
        model=net,
        optimizer=torch.optim.SGD(net.parameters(), lr=bare.LR, momentum=bare.MOMENTUM),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=bare.BATCH,
        eval_mb_size=bare.BATCH,
        evaluator=EvaluationPlugin(accuracy_metrics(stream=True, experience=True), loggers=[]),
        **arguments,
    )
    trained, tested = [], []
    x, y = work.samples()
    tests = work.tests()
    with redirect_stdout(sys.stderr):
        if strategy == "lwf":
            template.train(streams.train_stream[0])
        for _ in range(pairs):
            theirs = cpu_seconds(lambda: template.train(streams.train_stream[1]))
            teacher = work.teacher(net) if strategy == "lwf" else None
            epochs = bare.training(work.copied(net), x, y, 3, bare.Extras(teacher))
            trained.append(theirs / cpu_seconds(lambda epochs=epochs: next(epochs)))
            if strategy == "naive":
                theirs = cpu_seconds(lambda: template.eval(streams.test_stream))
                tested.append(theirs / cpu_seconds(lambda: bare.evaluation(net, *tests)))
    ratios = [Ratio(f"{work.name} training, {strategy}: stock Avalanche", trained)]
    return ratios + [Ratio(f"{work.name} evaluation: stock Avalanche", tested)] * bool(tested)
