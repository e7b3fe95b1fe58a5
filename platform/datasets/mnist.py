"""MNIST."""

from dataclasses import dataclass

from ..cache import DataFolders, prepared
from ..data_set import DataSet, data_set
from ._files import identity
from ._idx import IdxSet, find, read_set

FILES = IdxSet("MNIST", "MNIST", ("mnist", "MNIST/raw", "MNIST", "."), "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """MNIST: handwritten digits, 28x28 grey, 60,000 for training and 10,000 for testing (LeCun, Cortes, Burges)."""


def build(config: Config, folders: DataFolders) -> DataSet:
    """Open the set, prepared.

    Raises:
        UserError: the files are nowhere to be found, or one is damaged.
    """
    files = find(FILES, folders)
    key = f"mnist-{identity(files.values())}"
    arrays = prepared(key, lambda: read_set(files), folders.cache)
    return data_set(key, arrays, tuple("0123456789"), (0.1307,), (0.3081,))
