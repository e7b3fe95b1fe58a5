"""MNIST."""

from ...config.settings import settings
from ..cache import DataFolders
from ..dataset import DataSet, DataSetOptions
from ._idx import IdxSet, idx_set

FILES = IdxSet("MNIST", "MNIST", ("mnist", "MNIST/raw", "MNIST", "."), "")


NUM_CLASSES = 10


@settings
class Config(DataSetOptions):
    """MNIST: handwritten digits, 28x28 grey, 60,000 for training and 10,000 for testing (LeCun, Cortes, Burges)."""


def build(config: Config, folders: DataFolders) -> DataSet:
    """Open the prepared data set.

    Raises:
        UserError: the files are not found, or one is damaged.
    """
    return idx_set("mnist", FILES, tuple("0123456789"), 0.1307, 0.3081, folders, config.normalise)
