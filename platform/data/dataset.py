"""What a data set is to the benchmarks: prepared arrays with a fixed test part, class names, and domains where it has some.

Shapes: N samples of a part, C channels, H height, W width.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from .streams import Arrays


@dataclass(frozen=True, slots=True, eq=False)
class DataSet:
    """A data set with its fixed test part: `train.x`, `test.x` (N, C, H, W) uint8, `y` (N,) int64 in its own numbering.

    `key` names these very arrays, for what is prepared from them. `mean` and `std` are per channel, of the training
    pictures scaled to [0, 1]. `domain_names` are those of its domains (styles, sources, sessions), () where it has none;
    `train_domains` and `test_domains` (N,) int64 then say of each sample which one it is of.
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

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return tuple(self.train.x.shape[1:])


def make_data_set(
    key: str,
    arrays: Mapping[str, torch.Tensor],
    class_names: tuple[str, ...],
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    domain_names: tuple[str, ...] = (),
) -> DataSet:
    """Put a data set together from a cache entry: `train_x`, `train_y`, `test_x`, `test_y`; with domains, `train_d`, `test_d`.

    Without `mean` and `std` they are those of the entry, as `pictures` computes them.
    """
    mean = tuple(arrays["mean"].tolist()) if mean is None else mean
    std = tuple(arrays["std"].tolist()) if std is None else std
    train, test = Arrays(arrays["train_x"], arrays["train_y"]), Arrays(arrays["test_x"], arrays["test_y"])
    return DataSet(key, class_names, mean, std, train, test, domain_names, arrays.get("train_d"), arrays.get("test_d"))
