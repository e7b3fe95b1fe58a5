"""Your own pictures, with classes and domains given by the names of their folders."""

import hashlib
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Interval

from ...config.settings import PositiveInt, settings
from ...errors import UserError, comma_separated
from ...run_folders import run_folder_of
from ..cache import DataFolders, entry_folder
from ..dataset import DataSet, DataSetOptions, make_data_set, warn_once
from ..image_cache import SKIPPED, Listing, cached_images, files_identity
from ..image_decoding import MAX_PIXELS, printable
from ._folder_scan import Row, Scan, scan
from ._path_pattern import SPLIT_OF, compiled
from ._spellings import check_spellings

HAS_DOMAINS = True  # if the pattern has {domain}
_TEST = 0.2
_KEY = "data.image_folder"


@settings
class Config(DataSetOptions):
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
    allow_skipped: accept that more than a tenth of the files is left out (because the pattern does not fit them, their extension
        is not read, they are hidden or unreadable), and that folders of classes or domains have no picture that is taken. By
        default that is refused; fewer files are reported.
    max_pixels: a picture of more pixels (by its header, before it is decoded) counts as unreadable (default 89,478,485, Pillow's
        limit): a small file can be a picture of gigabytes.
    """

    path: str
    pattern: str = "{class}/*"
    size: Annotated[int, Interval(ge=4, le=1024)] = 64
    test: Annotated[float, Interval(gt=0, lt=1)] | None = None
    unreadable: Literal["refuse", "skip"] = "refuse"
    colour: Literal["rgb", "grey"] = "rgb"
    allow_skipped: bool = False
    max_pixels: PositiveInt = MAX_PIXELS

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
    scanned = _scanned(root, config.pattern)
    classes, domains = (_names(scanned, placeholder) for placeholder in ("class", "domain"))
    parts = _by_split(root, scanned) if "{split}" in config.pattern else _by_hash(scanned.rows, config.test or _TEST)
    _check_left_out(root, scanned, config)
    for part, rows in parts.items():
        _check_classes(root, part, {values["class"] for _, values in rows}, classes)
    listings = {part: _listing(root, rows, classes, domains) for part, rows in parts.items()}
    channels = 3 if config.colour == "rgb" else 1
    form: list[object] = [config.size, channels, config.unreadable]
    if config.unreadable == "skip" and config.max_pixels != MAX_PIXELS:
        form.append(config.max_pixels)  # only then the prepared arrays depend on it
    key = f"image_folder{config.size}-{files_identity(listings, root, *form)}"
    arrays = cached_images(
        key,
        listings,
        config.size,
        folders,
        channels=channels,
        unreadable=config.unreadable,
        max_pixels=config.max_pixels,
    )
    for part in parts:
        present = {classes[label] for label in arrays[f"{part}_y"].unique().tolist()}
        _check_classes(root, part, present, classes)  # a class may have been skipped as a whole
    num_decoded = sum(len(arrays[f"{part}_y"]) for part in parts)
    scanned.leave_out("unreadable", "", sum(map(len, parts.values())) - num_decoded)
    scanned.examples["unreadable"] = f"listed in {entry_folder(key, folders.cache) / SKIPPED}"
    _check_left_out(root, scanned, config)
    note = f"{_KEY}.path={printable(root)}: {report}" if (report := scanned.report()) else ""
    if note:
        warn_once(note)
    return make_data_set(
        key, arrays, classes, domain_names=domains, notes=(note,) if note else (), normalise=config.normalise
    )


def _scanned(root: Path, pattern: str) -> Scan:
    """Return the content of the folder."""
    if not root.is_dir():
        raise UserError(f"{_KEY}.path={root}: there is no such folder.")
    run = run_folder_of(root)
    if run is not None:
        raise UserError(f"{_KEY}.path={root}: must not be in a run's folder, as {run} is.")
    scanned = scan(root, pattern)
    if not scanned.rows:
        raise UserError(f"{_KEY}.pattern={pattern}: no picture in {root} fits it; {scanned.content()}.")
    return scanned


def _names(scanned: Scan, placeholder: str) -> tuple[str, ...]:
    """Return the names of the classes or domains, sorted."""
    names = scanned.places.get(placeholder, {})
    check_spellings(names, f"{_KEY}.pattern={scanned.pattern}", {"class": "classes", "domain": "domains"}[placeholder])
    return tuple(sorted(map(printable, names)))


def _check_left_out(root: Path, scanned: Scan, config: Config) -> None:
    """Refuse a folder of which too much is left out, unless the config allows it."""
    if not config.allow_skipped and (scanned.empty or scanned.exceeds_limit()):
        why = "More than 10 % are left out. " if scanned.exceeds_limit() else ""
        raise UserError(
            f"{_KEY}.path={printable(root)}: {scanned.report()} {why}Change the pattern or the folder, or accept it with "
            f"{_KEY}.allow_skipped=true."
        )


def _by_split(root: Path, scanned: Scan) -> dict[str, list[Row]]:
    """Split by the folder names in {split}."""
    parts: dict[str, list[Row]] = defaultdict(list)
    for row in scanned.rows:
        split = row[1]["split"].lower()
        if split not in SPLIT_OF:
            raise UserError(
                f"{_KEY}.path={root}: {row[0]} is of the split {split!r}, which is none of {comma_separated(SPLIT_OF)}."
            )
        parts[SPLIT_OF[split]].append(row)
    test = parts["test"] or parts["validation"]
    if not parts["train"] or not test:
        splits = comma_separated({row[1]["split"] for row in scanned.rows})
        raise UserError(
            f"{_KEY}.path={root}: must have pictures for training and for testing; its splits are {splits}."
        )
    if parts["test"] and parts["validation"]:
        scanned.leave_out("split", parts["validation"][0][0], len(parts["validation"]))
    return {"train": parts["train"], "test": test}


def _by_hash(rows: list[Row], fraction: float) -> dict[str, list[Row]]:
    """Split each class in each domain by the hashes of the paths; of two or more pictures at least one is for testing."""
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
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


def _hash(row: Row) -> str:
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


def _listing(root: Path, rows: list[Row], classes: tuple[str, ...], domains: tuple[str, ...]) -> Listing:
    """Convert rows to a listing with numbered classes and domains."""
    label = {name: number for number, name in enumerate(classes)}
    domain = {name: number for number, name in enumerate(domains)}
    return Listing(
        [root / path for path, _ in rows],
        [label[values["class"]] for _, values in rows],
        [domain[values["domain"]] for _, values in rows] if domains else None,
    )
