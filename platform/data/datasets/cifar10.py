"""CIFAR-10."""

from ...config.settings import settings
from ..cache import DataFolders
from ..dataset import DataSet, DataSetOptions, make_data_set
from ._cifar import CifarSet, open_cifar

_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
FILES = CifarSet(
    name="cifar10",
    title="CIFAR-10",
    torchvision="CIFAR10",
    binary="cifar-10-batches-bin",
    binary_files=tuple(f"{name}.bin" for name in (*_BATCHES, "test_batch")),
    pickled="cifar-10-batches-py",
    pickled_files=(*_BATCHES, "test_batch"),
    num_classes=10,
)
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@settings
class Config(DataSetOptions):
    """CIFAR-10: ten kinds of animals and vehicles, 32x32 colour, 50,000 for training and 10,000 for testing (Krizhevsky 2009).

    Read from cifar-10-batches-bin or cifar-10-batches-py in the data folder; downloaded if absent.
    """


def build(config: Config, folders: DataFolders) -> DataSet:
    """Open the prepared data set.

    Raises:
        UserError: the files are not found, or one is damaged.
    """
    key, arrays = open_cifar(FILES, folders)
    return make_data_set(
        key, arrays, CLASSES, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), normalise=config.normalise
    )
