"""CORe50."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...errors import UserError
from ..cache import DataFolders
from ..dataset import DataSet, make_data_set
from ..image_cache import Listing, cached_images
from ..image_decoding import VERSION
from ._locate import folder_with, places

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
CLASSES = {  # objects o1..o5 are of the first category
    "object": tuple(f"{category}{number}" for category in CATEGORIES for number in range(1, 6)),
    "category": CATEGORIES,
}
_ADVICE = "Unpack core50_128x128.zip of https://vlomonaco.github.io/core50 into a folder and set data.root or RETAIN_DATA to it."


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """CORe50: 50 household objects of 10 categories, in the hand, filmed in 11 sessions, the domains (Lomonaco & Maltoni 2017).

    The data folder's core50_128x128: 164,866 colour pictures. As in the paper, sessions 3, 7 and 10 are the test part and the
    other eight the training part: no domain is in both. A stream over its domains trains on the eight, s1, s2, s4, s5, s6, s8,
    s9, s11, and tests on all of the three, which is the one fixed test set of the paper.

    size: side of the pictures in pixels (default 32; the files have 128, which take 8 GB prepared).
    level: "object" (default): 50 classes; "category": 10.
    """

    size: int = 32
    level: Literal["object", "category"] = "object"

    def __post_init__(self) -> None:
        if not 8 <= self.size <= 128:
            raise ValueError(f"size={self.size!r}: must be from 8 to 128")
        if self.level not in CLASSES:
            raise ValueError(f"level={self.level!r}: must be 'object' (50 classes) or 'category' (10)")


def build(config: Config, folders: DataFolders) -> DataSet:
    """Open the set, prepared; one cache entry serves both levels.

    Raises:
        UserError: it is nowhere to be found, or one of its files is missing or damaged.
    """
    root = folder_with(
        "s1", "CORe50", places(folders, ("core50_128x128", "core50/core50_128x128", "core50", ".")), _ADVICE
    )
    key = f"core50-{config.size}-{VERSION}-{_identity(root)}"
    arrays = cached_images(key, lambda: _listed(root), config.size, folders)
    if config.level == "category":
        key += "-category"
        arrays |= {name: arrays[name] // 5 for name in ("train_y", "test_y")}
    return make_data_set(key, arrays, CLASSES[config.level], domain_names=SESSIONS)


def _cells(root: Path) -> list[tuple[Path, int, int]]:
    """(folder, object, session) of each object in each session, from 0."""
    return [
        (root / name / f"o{item + 1}", item, session) for session, name in enumerate(SESSIONS) for item in range(50)
    ]


def _identity(root: Path) -> str:
    """Name the files by their folders' times, which change when a file comes or goes: there are too many for more.

    A file that is mended in its place is not noticed: delete the cache's entry then.
    """
    found = hashlib.sha256()
    for folder, _, _ in _cells(root):
        if not folder.is_dir():
            raise UserError(f"{folder}: is missing. {_ADVICE}")
        found.update(f"{folder.relative_to(root)} {folder.stat().st_mtime_ns}\n".encode())
    return found.hexdigest()[:16]


def _listed(root: Path) -> dict[str, Listing]:
    """The pictures of both parts, in the order of session, object and time."""
    rows: dict[str, list[tuple[Path, int, int]]] = {"train": [], "test": []}
    for folder, item, session in _cells(root):
        paths = sorted(folder.glob("C_*.png"))
        if not paths:
            raise UserError(f"{folder}: holds no picture C_*.png. {_ADVICE}")
        part = "test" if SESSIONS[session] in TEST_SESSIONS else "train"
        rows[part] += [(path, item, session) for path in paths]
    return {part: Listing(*zip(*some, strict=True)) for part, some in rows.items()}
