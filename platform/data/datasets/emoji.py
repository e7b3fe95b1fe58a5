"""Emoji as three vendors draw them."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Interval

from ...config.settings import settings
from ...errors import UserError
from ..cache import DataFolders
from ..dataset import DataSet, DataSetOptions, make_data_set
from ..image_cache import Listing, cached_images, files_identity

HAS_DOMAINS = True
STYLES = {"google": ".png", "twitter": ".png", "fluent": ".webp"}  # in the order of the domains
_TEST = 5  # every fifth emoji of a category is for testing


@settings
class Config(DataSetOptions):
    """Emoji in three styles, the domains (google: Noto, twitter: Twemoji, fluent: Fluent 3D), in Unicode's nine categories.

    The 1,852 emoji that all three draw, on white, in RGB. Every fifth of a category, in Unicode's order, is for testing in all
    styles, so training and testing never share an emoji. `make data` fetches the files to data.root/emoji.

    size: side of the pictures in pixels (default 64); the files have 64 (google, twitter) and 256 (fluent).
    """

    size: Annotated[int, Interval(ge=8, le=256)] = 64


def build(config: Config, folders: DataFolders) -> DataSet:
    """Open the prepared data set.

    Raises:
        UserError: its files are not found.
    """
    root = _find(folders)
    parts, categories = _listed(root)
    key = f"emoji{config.size}-{files_identity(parts, root, config.size)}"
    arrays = cached_images(key, parts, config.size, folders)
    return make_data_set(key, arrays, categories, domain_names=tuple(STYLES), normalise=config.normalise)


def _find(folders: DataFolders) -> Path:
    """Return the folder with the table and the three styles."""
    if folders.root is None:
        raise UserError(
            "emoji: is fetched by `make data`; then set data.root or RETAIN_DATA to the folder that it names."
        )
    root = folders.root / "emoji"
    missing = [name for name in ("emoji.json", *STYLES) if not (root / name).exists()]
    if missing:
        raise UserError(
            f"{root}: has no {', '.join(missing)}; `make data` fetches the emoji (into RETAIN_DATA, else data/)."
        )
    return root


def _listed(root: Path) -> tuple[dict[str, Listing], tuple[str, ...]]:
    """List both parts, style by style, and the category names; only emoji that all styles have."""
    try:
        table: list[dict[str, Any]] = json.loads((root / "emoji.json").read_text(encoding="utf-8"))
        rows = sorted((row for row in table if row["category"] != "Component"), key=lambda row: int(row["sort_order"]))
        files = {style: set(os.listdir(root / style)) for style in STYLES}
        drawn = [(row["category"], paths) for row in rows if (paths := _style_paths(root, row, files)) is not None]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{root / 'emoji.json'}: is no table of emoji ({error!r}); fetch it again with `make data`."
        ) from error
    categories = tuple(sorted({category for category, _ in drawn}))
    parts: dict[str, list[tuple[Path, int, int]]] = {"train": [], "test": []}
    for label, category in enumerate(categories):
        for number, paths in enumerate(paths for name, paths in drawn if name == category):
            part = "test" if number % _TEST == _TEST - 1 else "train"
            parts[part] += [(path, label, domain) for domain, path in enumerate(paths)]
    return {part: Listing(*zip(*sorted(rows, key=_by_domain), strict=True)) for part, rows in parts.items()}, categories


def _by_domain(row: tuple[Path, int, int]) -> tuple[int, int]:
    """Return the sort key: domain, then label; equal rows keep their order."""
    return row[2], row[1]


def _style_paths(root: Path, emoji: dict[str, Any], files: dict[str, set[str]]) -> list[Path] | None:
    """Return an emoji's picture in each style, or None if a style lacks it.

    Fluent's names may lack the variation selector fe0f.
    """
    name = str(emoji["image"]).removesuffix(".png")
    plain = str(emoji["non_qualified"] or "").lower()
    paths = []
    for style, suffix in STYLES.items():
        names = [name, name.replace("-fe0f", ""), plain] if style == "fluent" else [name]
        paths += [root / style / f"{stem}{suffix}" for stem in names if f"{stem}{suffix}" in files[style]][:1]
    return paths if len(paths) == len(STYLES) else None
