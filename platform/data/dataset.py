"""A data set as the benchmarks see it: prepared arrays with a fixed test part, class names and, in some sets, domains.

Shapes: N samples of a part, C channels, H height, W width.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch

from ..config.settings import settings
from .streams import Arrays

_log = logging.getLogger(__name__)


@settings
class DataSetOptions:
    """Settings that every data set has.

    normalise: scale to mean 0 and deviation 1 (of the training pictures, per channel); false: the network gets values in [0, 1],
        as in Mammoth and van de Ven's code.
    """

    normalise: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class DataSet:
    """A data set with a fixed test part: `train.x`, `test.x` (N, C, H, W) uint8, `y` (N,) int64 in its original numbering.

    `key` identifies these arrays in the cache keys of anything prepared from them. `mean` and `std` are per channel, of the
    training pictures scaled to [0, 1]. `domain_names` names its domains (styles, sources, sessions); () if it has none.
    `train_domains` and `test_domains` (N,) int64 hold the domain of each sample; None without domains. `notes` are sentences
    that a user should read, such as how many files were left out.
    """

    key: str
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: Arrays
    test: Arrays
    domain_names: tuple[str, ...] = ()
    train_domains: torch.Tensor | None = None
    test_domains: torch.Tensor | None = None
    notes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Return (C, H, W)."""
        return tuple(self.train.x.shape[1:])


def make_data_set(
    key: str,
    arrays: Mapping[str, torch.Tensor],
    class_names: tuple[str, ...],
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    domain_names: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
    normalise: bool = True,
) -> DataSet:
    """Build a data set from the arrays of a cache entry.

    `arrays` holds `train_x`, `train_y`, `test_x`, `test_y` and, with domains, `train_d`, `test_d`. `mean` and `std` default to
    those of the entry, which `image_cache.statistics` computes; without `normalise` they are 0 and 1.
    """
    if not normalise:
        num_channels = arrays["train_x"].shape[1]
        mean, std = (0.0,) * num_channels, (1.0,) * num_channels
    mean = tuple(arrays["mean"].tolist()) if mean is None else mean
    std = tuple(arrays["std"].tolist()) if std is None else std
    train, test = Arrays(arrays["train_x"], arrays["train_y"]), Arrays(arrays["test_x"], arrays["test_y"])
    domains = arrays.get("train_d"), arrays.get("test_d")
    return DataSet(key, class_names, mean, std, train, test, domain_names, *domains, notes)


@cache  # once per process, however many streams are built
def warn_once(note: str) -> None:
    """Log a sentence that a user should read; the command line prints it."""
    _log.warning("%s", note)
