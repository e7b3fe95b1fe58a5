"""A user's benchmark: a stream of Avalanche, as a module and as a function."""

from dataclasses import dataclass

import torch
from avalanche.benchmarks import class_incremental_benchmark
from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.benchmarks.utils.data_attribute import DataAttribute
from torch.utils.data import TensorDataset

from retain import stream_of

ORDER = [3, 1, 0, 2, 5, 4]


@dataclass(frozen=True, kw_only=True)
class Config:
    num_experiences: int = 2


def build(config, seed, data):
    return stream_of("plugins.streams", make, {"num_experiences": config.num_experiences})


def dataset(size):
    y = torch.arange(size) % 6
    x = torch.zeros(size, 1, 4, 4)
    x.view(size, -1)[torch.arange(size), y] = 2.0
    labels = [DataAttribute(y.tolist(), "targets"), DataAttribute([0] * size, "targets_task_labels")]
    return AvalancheDataset([TensorDataset(x, y)], data_attributes=labels)


def make(num_experiences):
    streams = {"train": dataset(120), "test": dataset(60)}
    return class_incremental_benchmark(streams, num_experiences=num_experiences, class_order=ORDER)
