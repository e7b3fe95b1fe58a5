"""Split MNIST: ten classes in experiences of a few new ones each (class-incremental)."""

from dataclasses import dataclass
from typing import ClassVar

from ..platform import splits
from ..platform.cache import DataFolders
from ..platform.datasets import mnist
from ..platform.streams import Stream


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(splits.ClassSplit):
    """Split MNIST: ten classes in experiences of a few new ones each (class-incremental).

    num_experiences: 1, 2, 5 (default) or 10, and others with `first`.
    class_order: the classes 0..9 in their order of appearance; null (default): shuffled by the seed.
    """

    NUM_CLASSES: ClassVar[int | None] = 10


def build(config: Config, seed: int, data: DataFolders) -> Stream:
    """Build the stream; `seed` draws the order of classes and the validation pictures."""
    return splits.by_class("split_mnist", mnist.build(mnist.Config(), data), config, seed)
