"""SVHN. N samples."""

from pathlib import Path
from typing import Any

import numpy as np

from ...config.settings import settings
from ...errors import UserError
from ..cache import DataFolders, load_or_make
from ..dataset import DataSet, DataSetOptions, make_data_set
from ._download import fetch, verified
from ._locate import candidate_folders, content_identity

_Array = np.ndarray[Any, np.dtype[Any]]
_FILES = {"train": "train_32x32.mat", "test": "test_32x32.mat"}
_PARTS = tuple({"split": part} for part in _FILES)  # torchvision's keywords
_ADVICE = (
    f"put {' and '.join(_FILES.values())} of http://ufldl.stanford.edu/housenumbers into a folder svhn and set data.root or "
    f"RETAIN_DATA to the folder that holds it."
)


@settings
class Config(DataSetOptions):
    """SVHN: digits of house numbers, cropped, 32x32 colour, 73,257 for training and 26,032 for testing (Netzer et al. 2011).

    Read from svhn/train_32x32.mat and test_32x32.mat in the data folder; downloaded if absent. The 531,131 extra pictures are
    not used.
    """


def build(config: Config, folders: DataFolders) -> DataSet:
    """Open the prepared data set; a label is the digit.

    Raises:
        UserError: the files are not found, or one is damaged.
    """
    root = _find(folders)
    key = f"svhn-{content_identity(root / name for name in _FILES.values())}"
    arrays = load_or_make(key, lambda: _read(root, again=root == _downloads(folders)), folders.cache)
    return make_data_set(
        key, arrays, tuple("0123456789"), (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970), normalise=config.normalise
    )


def _downloads(folders: DataFolders) -> Path:
    return folders.cache / "downloads" / "SVHN"


def _find(folders: DataFolders) -> Path:
    """Return the folder with the two files: in the data folder, of an earlier download, or of a download now."""
    tried = candidate_folders(folders, ("svhn", "SVHN", "."))
    downloads = _downloads(folders)
    for folder in [*tried, downloads]:
        missing = [folder / name for name in _FILES.values() if not (folder / name).is_file()]
        if not missing:
            return folder
        if len(missing) < len(_FILES) and folder != downloads:
            raise UserError(f"{missing[0]}: is missing; SVHN has two files, {' and '.join(_FILES.values())}.")
    fetch("SVHN", "SVHN", downloads, tried, _ADVICE, _PARTS)
    return downloads


def _read(root: Path, again: bool) -> dict[str, _Array]:
    """Read the Matlab files with torchvision, which verifies them first: a damaged one would crash scipy.

    In the files the digit 0 has label 10; torchvision maps it to 0.
    """
    arrays: dict[str, _Array] = {}
    for part, source in zip(_FILES, verified("SVHN", root, _PARTS, again), strict=True):
        arrays |= {f"{part}_x": source.data, f"{part}_y": source.labels}
    return arrays
