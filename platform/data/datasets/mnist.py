"""MNIST."""

from ...config.settings import settings
from ..cache import DataFolders
from ..dataset import DataSet
from ._idx import IdxSet, idx_set

FILES = IdxSet("MNIST", "MNIST", ("mnist", "MNIST/raw", "MNIST", "."), "")


NUM_CLASSES = 10


@settings
class Config:
    """MNIST: handwritten digits, 28x28 grey, 60,000 for training and 10,000 for testing (LeCun, Cortes, Burges).

    normalise: scale to mean 0 and deviation 1; false: the network gets values in [0, 1], as in Mammoth and van de Ven's code.
    """

    normalise: bool = True


def build(config: Config, folders: DataFolders) -> DataSet:
    """Open the prepared data set.

    Raises:
        UserError: the files are not found, or one is damaged.
    """
    mean, std = (0.1307, 0.3081) if config.normalise else (0.0, 1.0)
    return idx_set("mnist", FILES, tuple("0123456789"), mean, std, folders)
