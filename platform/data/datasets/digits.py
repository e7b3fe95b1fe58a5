"""scikit-learn's digits. N samples."""

from typing import Any

import numpy as np

from ...config.settings import settings
from ..cache import DataFolders, load_or_make
from ..dataset import DataSet, DataSetOptions, make_data_set

NUM_CLASSES = 10


@settings
class Config(DataSetOptions):
    """Handwritten digits, 8x8 grey, 1,442 for training and 355 for testing; bundled with scikit-learn.

    Grey values 0..16 are stored as 0..255. Every fifth picture of a class, in the file's order, is for testing, so the split
    never changes. Source: Alpaydin & Kaynak 1998 (UCI optdigits, its test file).
    """


def build(config: Config, folders: DataFolders) -> DataSet:
    """Open the prepared data set."""
    arrays = load_or_make("digits", _read, folders.cache)
    return make_data_set("digits", arrays, tuple("0123456789"), (0.3052,), (0.3760,), normalise=config.normalise)


def _read() -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
    """Read scikit-learn's digits and split them."""
    from sklearn.datasets import load_digits

    source = load_digits()
    x = np.round(source.images * (255 / 16)).astype(np.uint8)[:, None]
    y = source.target.astype(np.int64)
    test = np.zeros(len(y), dtype=bool)
    for label in range(10):
        test[np.flatnonzero(y == label)[4::5]] = True
    return {"train_x": x[~test], "train_y": y[~test], "test_x": x[test], "test_y": y[test]}
