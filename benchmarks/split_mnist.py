"""Split MNIST: ten classes, a few new ones in each experience (class-incremental)."""

from dataclasses import dataclass
from typing import ClassVar

from ..platform.data import class_streams
from ..platform.data.cache import DataFolders
from ..platform.data.datasets import mnist
from ..platform.data.streams import Stream


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(class_streams.ClassSplit):
    """Split MNIST: ten classes, a few new ones in each experience (class-incremental).

    num_experiences: 1, 2, 5 (default) or 10; other numbers with `first`.
    class_order: the classes 0..9 in order of appearance; null (default): shuffled by the seed.
    """

    NUM_CLASSES: ClassVar[int | None] = 10


def build(config: Config, seed: int, data: DataFolders) -> Stream:
    """Build the stream; `seed` determines the class order, the validation pictures and the subsets."""
    return class_streams.class_stream("split_mnist", mnist.build(mnist.Config(), data), config, seed)
