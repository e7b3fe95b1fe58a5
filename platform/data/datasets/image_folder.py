"""Your own pictures, with classes and domains given by the names of their folders."""

import hashlib
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Interval

from ...config.settings import settings
from ...errors import UserError, comma_separated
from ...run_folders import run_folder_of
from ..cache import DataFolders
from ..dataset import DataSet, make_data_set
from ..image_cache import Listing, cached_images, files_identity
from ._path_pattern import compiled, examples, matches

HAS_DOMAINS = True  # if the pattern has {domain}
_SPLITS = {  # accepted names of a folder {split}
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "validation": ("val", "valid", "validation"),  # used as the test part if there is none, as with ImageNet
}
_TEST = 0.2
_KEY = "data.image_folder"
_Row = tuple[str, dict[str, str]]  # path below the folder, values of the placeholders


@settings
class Config:
    """Your own pictures: folder names are the classes and, optionally, the domains; both are sorted by name.

    path: the folder; ~ and paths relative to the working folder are made absolute.
    pattern: where pictures are below it (default "{class}/*"), with {class}, {domain}, {split}, * and ? for a part of a name and
        ** for any number of folders: "{domain}/{class}/*.jpg" (PACS, OfficeHome), "{split}/{class}/*" (ImageNet).
        {split} is train and test or, if there is no test, val. If there are both, val is left out.
    size: side of the prepared pictures in pixels (default 64): the shorter side is resized to it and the centre is kept.
    test: without {split}, the fraction of each class (in each domain) that is for testing; null: 0.2. The choice depends on the
        paths, never on the seed.
    unreadable: "refuse" (default) files that cannot be decoded, or "skip" them; `retain prepare` lists them.
    colour: "rgb" (default) or "grey".
    """

    path: str
    pattern: str = "{class}/*"
    size: Annotated[int, Interval(ge=4, le=1024)] = 64
    test: Annotated[float, Interval(gt=0, lt=1)] | None = None
    unreadable: Literal["refuse", "skip"] = "refuse"
    colour: Literal["rgb", "grey"] = "rgb"

    def __post_init__(self) -> None:
        compiled(self.pattern)
        if not self.path:
            raise ValueError(f"path={self.path!r}: must be a folder")
        if self.test is not None and "{split}" in self.pattern:
            raise ValueError(
                f"test={self.test!r}: must be null, since the pattern {self.pattern!r} says it by {{split}}"
            )
        object.__setattr__(self, "path", str(Path(self.path).expanduser().absolute()))  # workers run in other folders


def build(config: Config, folders: DataFolders) -> DataSet:
    """Open the prepared data set.

    Raises:
        UserError: no such folder, no picture matches the pattern, a part lacks a class, or files are unreadable.
    """
    root = Path(config.path)
    rows = _found(root, config.pattern)
    parts = _by_split(root, rows) if "{split}" in config.pattern else _by_hash(rows, config.test or _TEST)
    classes = tuple(sorted({values["class"] for _, values in rows}))
    domains = tuple(sorted({values["domain"] for _, values in rows if "domain" in values}))
    for part, part_rows in parts.items():
        _check_classes(root, part, {values["class"] for _, values in part_rows}, classes)
    listings = {part: _listing(root, part_rows, classes, domains) for part, part_rows in parts.items()}
    channels = 3 if config.colour == "rgb" else 1
    key = f"image_folder{config.size}-{files_identity(listings, root, config.size, channels, config.unreadable)}"
    arrays = cached_images(key, listings, config.size, folders, channels=channels, unreadable=config.unreadable)
    for part in parts:
        present = {classes[label] for label in arrays[f"{part}_y"].unique().tolist()}
        _check_classes(root, part, present, classes)  # a class may have been skipped as a whole
    return make_data_set(key, arrays, classes, domain_names=domains)


def _found(root: Path, pattern: str) -> list[_Row]:
    """Return the pictures that match the pattern, sorted by path."""
    if not root.is_dir():
        raise UserError(f"{_KEY}.path={root}: there is no such folder.")
    run = run_folder_of(root)
    if run is not None:
        raise UserError(f"{_KEY}.path={root}: must not be in a run's folder, as {run} is.")
    rows = matches(root, pattern)
    if not rows:
        raise UserError(f"{_KEY}.pattern={pattern}: no picture in {root} fits it; {examples(root)}.")
    return rows


def _by_split(root: Path, rows: list[_Row]) -> dict[str, list[_Row]]:
    """Split by the folder names in {split}."""
    names = {name: part for part, aliases in _SPLITS.items() for name in aliases}
    parts: dict[str, list[_Row]] = defaultdict(list)
    for row in rows:
        split = row[1]["split"].lower()
        if split not in names:
            raise UserError(
                f"{_KEY}.path={root}: {row[0]} is of the split {split!r}, which is none of {comma_separated(names)}."
            )
        parts[names[split]].append(row)
    test = parts["test"] or parts["validation"]
    if not parts["train"] or not test:
        splits = comma_separated({row[1]["split"] for row in rows})
        raise UserError(
            f"{_KEY}.path={root}: must have pictures for training and for testing; its splits are {splits}."
        )
    return {"train": parts["train"], "test": test}


def _by_hash(rows: list[_Row], fraction: float) -> dict[str, list[_Row]]:
    """Split each class in each domain by the hashes of the paths; of two or more pictures at least one is for testing."""
    groups: dict[tuple[str, str], list[_Row]] = defaultdict(list)
    for row in rows:
        groups[row[1]["class"], row[1].get("domain", "")].append(row)
    chosen = set()
    for group in groups.values():
        num = min(max(round(fraction * len(group)), 1), len(group) - 1)
        chosen |= {path for path, _ in sorted(group, key=_hash)[:num]}
    return {
        "train": [row for row in rows if row[0] not in chosen],
        "test": [row for row in rows if row[0] in chosen],
    }


def _hash(row: _Row) -> str:
    return hashlib.sha256(row[0].encode("utf-8", "surrogateescape")).hexdigest()


def _check_classes(root: Path, part: str, present: set[str], classes: tuple[str, ...]) -> None:
    """Raise a UserError if a part lacks classes."""
    missing = [name for name in classes if name not in present]
    if missing:
        shown = ", ".join(missing[:10]) + (", ..." if len(missing) > 10 else "")
        purpose = "training" if part == "train" else "testing"
        raise UserError(
            f"{_KEY}.path={root}: {len(missing)} of {len(classes)} classes have no picture for {purpose}: {shown}."
        )


def _listing(root: Path, rows: list[_Row], classes: tuple[str, ...], domains: tuple[str, ...]) -> Listing:
    """Convert rows to a listing with numbered classes and domains."""
    label = {name: number for number, name in enumerate(classes)}
    domain = {name: number for number, name in enumerate(domains)}
    return Listing(
        [root / path for path, _ in rows],
        [label[values["class"]] for _, values in rows],
        [domain[values["domain"]] for _, values in rows] if domains else None,
    )
