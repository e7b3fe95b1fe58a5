"""CORe50."""

import hashlib
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Interval

from ...config.settings import settings
from ...errors import UserError
from ..cache import DataFolders
from ..dataset import DataSet, DataSetOptions, make_data_set
from ..image_cache import Listing, cached_images
from ..image_decoding import VERSION
from ._locate import candidate_folders, folder_with

HAS_DOMAINS = True
SESSIONS = tuple(f"s{number}" for number in range(1, 12))
TEST_SESSIONS = ("s3", "s7", "s10")
CATEGORIES = (
    "plug_adapter",
    "mobile_phone",
    "scissor",
    "light_bulb",
    "can",
    "glass",
    "ball",
    "marker",
    "cup",
    "remote_control",
)
CLASSES = {  # objects o1..o5 belong to the first category
    "object": tuple(f"{category}{number}" for category in CATEGORIES for number in range(1, 6)),
    "category": CATEGORIES,
}
_ADVICE = "Unpack core50_128x128.zip of https://vlomonaco.github.io/core50 into a folder and set data.root or RETAIN_DATA to it."


@settings
class Config(DataSetOptions):
    """CORe50: 50 handheld household objects of 10 categories, filmed in 11 sessions, the domains (Lomonaco & Maltoni 2017).

    Read from core50_128x128 in the data folder: 164,866 colour pictures. As in the paper, sessions 3, 7 and 10 are the test part
    and the other eight the training part, so no domain is in both. A stream over the domains trains on s1, s2, s4, s5, s6, s8,
    s9 and s11, and tests each experience on all three test sessions, the paper's fixed test set.

    size: side of the pictures in pixels (default 32; the files have 128, which takes 8 GB when prepared).
    level: "object" (default): 50 classes; "category": 10.
    """

    size: Annotated[int, Interval(ge=8, le=128)] = 32
    level: Literal["object", "category"] = "object"


def build(config: Config, folders: DataFolders) -> DataSet:
    """Open the prepared data set; one cache entry serves both levels.

    Raises:
        UserError: the data set is not found, or one of its files is missing or damaged.
    """
    root = folder_with(
        "s1", "CORe50", candidate_folders(folders, ("core50_128x128", "core50/core50_128x128", "core50", ".")), _ADVICE
    )
    key = f"core50-{config.size}-{VERSION}-{_identity(root)}"
    arrays = cached_images(key, lambda: _listed(root), config.size, folders)
    if config.level == "category":
        key += "-category"
        arrays |= {name: arrays[name] // 5 for name in ("train_y", "test_y")}
    return make_data_set(key, arrays, CLASSES[config.level], domain_names=SESSIONS, normalise=config.normalise)


def _cells(root: Path) -> list[tuple[Path, int, int]]:
    """Return (folder, object, session) of each object in each session, numbered from 0."""
    return [
        (root / name / f"o{item + 1}", item, session) for session, name in enumerate(SESSIONS) for item in range(50)
    ]


def _identity(root: Path) -> str:
    """Hash the times of the folders, which change when a file is added or removed; there are too many files for more.

    A file that is repaired in place goes unnoticed: delete the cache entry then.
    """
    digest = hashlib.sha256()
    for folder, _, _ in _cells(root):
        if not folder.is_dir():
            raise UserError(f"{folder}: is missing. {_ADVICE}")
        digest.update(f"{folder.relative_to(root)} {folder.stat().st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _listed(root: Path) -> dict[str, Listing]:
    """List the pictures of both parts, ordered by session, object and time."""
    rows: dict[str, list[tuple[Path, int, int]]] = {"train": [], "test": []}
    for folder, item, session in _cells(root):
        paths = sorted(folder.glob("C_*.png"))
        if not paths:
            raise UserError(f"{folder}: holds no picture C_*.png. {_ADVICE}")
        part = "test" if SESSIONS[session] in TEST_SESSIONS else "train"
        rows[part] += [(path, item, session) for path in paths]
    return {part: Listing(*zip(*part_rows, strict=True)) for part, part_rows in rows.items()}
