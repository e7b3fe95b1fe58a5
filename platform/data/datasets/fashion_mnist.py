"""Fashion-MNIST."""

from ...config.settings import settings
from ..cache import DataFolders
from ..dataset import DataSet, DataSetOptions
from ._idx import IdxSet, idx_set

FILES = IdxSet(
    "Fashion-MNIST",
    "FashionMNIST",
    ("fashion-mnist", "FashionMNIST/raw", "fashion_mnist", "FashionMNIST", "."),
    "`apt-get install dataset-fashion-mnist` (Debian, Ubuntu), or ",
)
_CLOTHES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


NUM_CLASSES = 10


@settings
class Config(DataSetOptions):
    """Fashion-MNIST: clothes, 28x28 grey, 60,000 for training and 10,000 for testing (Xiao, Rasul, Vollgraf 2017)."""


def build(config: Config, folders: DataFolders) -> DataSet:
    """Open the prepared data set.

    Raises:
        UserError: the files are not found, or one is damaged.
    """
    return idx_set("fashion_mnist", FILES, _CLOTHES, 0.2860, 0.3530, folders, config.normalise)
