"""The contract of a data set."""

import torch

from ..data.dataset import DataSet
from .errors import require
from .outcome import same


def check_arrays(data_set: DataSet) -> None:
    """Require pictures (N, C, H, W) uint8, labels (N,) int64 in the range of the class names, and statistics per channel."""
    require(isinstance(data_set, DataSet), f"build returned a {type(data_set).__name__}, no retain.DataSet")
    for name, arrays in (("train", data_set.train), ("test", data_set.test)):
        x, y = arrays.x, arrays.y
        require(
            x.dtype == torch.uint8 and x.ndim == 4, f"{name}.x: must be (N, C, H, W) uint8, not {x.dtype}, {x.ndim}-d"
        )
        require(y.dtype == torch.int64 and len(x) == len(y) > 0, f"{name}.y: must be (N,) int64, as many as pictures")
        labels = sorted(set(y.tolist()))
        expected = list(range(len(data_set.class_names)))
        require(
            labels == expected, f"{name}.y: has the labels {labels[:20]}, and there are {len(expected)} class names"
        )
    channels = data_set.shape[0]
    statistics = len(data_set.mean) == len(data_set.std) == channels and all(value > 0 for value in data_set.std)
    require(statistics, f"mean and std need {channels} numbers, one for each channel, and std numbers above 0")


def check_domains(data_set: DataSet) -> None:
    """Require a domain for each sample where the data set has domains."""
    given = (data_set.train_domains, data_set.test_domains)
    if not data_set.domain_names:
        require(given == (None, None), "train_domains or test_domains are given without domain_names")
        return
    for name, arrays, domains in zip(("train", "test"), (data_set.train, data_set.test), given, strict=True):
        fits = domains is not None and len(domains) == len(arrays.y) and int(domains.max()) < len(data_set.domain_names)
        require(fits, f"{name}_domains: must hold the number of a domain in domain_names for each sample")


def check_repeatable(first: DataSet, again: DataSet) -> None:
    """Require that building it again gives the same key, classes and pictures: a resumed trial builds it again."""
    facts = [(each.key, each.class_names, each.mean, each.std) for each in (first, again)]
    require(facts[0] == facts[1], "key, class names, mean or std differ when it is built again")
    pairs = ((first.train, again.train), (first.test, again.test))
    equal = all(same(own.x, other.x) and same(own.y, other.y) for own, other in pairs)
    require(equal, "pictures or labels differ when it is built again: seed what is random")
