"""Emoji as three houses draw them."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import UserError
from ..cache import DataFolders
from ..dataset import DataSet, make_data_set
from ..image_cache import Listing, cached_images, identity

HAS_DOMAINS = True
STYLES = {"google": ".png", "twitter": ".png", "fluent": ".webp"}  # in the order of the domains
_TEST = 5  # every fifth emoji of a category is for testing


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Emoji in three styles, the domains (google: Noto, twitter: Twemoji, fluent: Fluent 3D), in Unicode's nine categories.

    The 1,852 emoji that all three draw, on white, in RGB; every fifth of a category, in Unicode's order, is for testing in all
    styles: training and testing never share one. `make data` fetches the files, which lie in data.root/emoji.

    size: side of the pictures in pixels (default 64); the files have 64 (google, twitter) and 256 (fluent).
    """

    size: int = 64

    def __post_init__(self) -> None:
        if not 8 <= self.size <= 256:
            raise ValueError(f"size={self.size!r}: must be from 8 to 256")


def build(config: Config, folders: DataFolders) -> DataSet:
    """Open the set, prepared.

    Raises:
        UserError: its files are not there.
    """
    root = _find(folders)
    parts, categories = _listed(root)
    key = f"emoji{config.size}-{identity(parts, root, config.size)}"
    arrays = cached_images(key, parts, config.size, folders)
    return make_data_set(key, arrays, categories, domain_names=tuple(STYLES))


def _find(folders: DataFolders) -> Path:
    """The folder with the table and the three styles."""
    if folders.root is None:
        raise UserError(
            "emoji: is fetched by `make data`; then set data.root or RETAIN_DATA to the folder that it names."
        )
    root = folders.root / "emoji"
    lacking = [name for name in ("emoji.json", *STYLES) if not (root / name).exists()]
    if lacking:
        raise UserError(
            f"{root}: has no {', '.join(lacking)}; `make data` fetches the emoji (into RETAIN_DATA, else data/)."
        )
    return root


def _listed(root: Path) -> tuple[dict[str, Listing], tuple[str, ...]]:
    """The two parts, style by style, and the categories' names: only emoji that all styles have."""
    try:
        table: list[dict[str, Any]] = json.loads((root / "emoji.json").read_text(encoding="utf-8"))
        known = sorted((one for one in table if one["category"] != "Component"), key=lambda one: int(one["sort_order"]))
        there = {style: set(os.listdir(root / style)) for style in STYLES}
        drawn = [(one["category"], found) for one in known if (found := _drawn(root, one, there)) is not None]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{root / 'emoji.json'}: is no table of emoji ({error!r}); fetch it again with `make data`."
        ) from error
    categories = tuple(sorted({category for category, _ in drawn}))
    rows: dict[str, list[tuple[Path, int, int]]] = {"train": [], "test": []}
    for label, category in enumerate(categories):
        for number, found in enumerate(found for one, found in drawn if one == category):
            part = "test" if number % _TEST == _TEST - 1 else "train"
            rows[part] += [(path, label, domain) for domain, path in enumerate(found)]
    return {part: Listing(*zip(*sorted(some, key=_by_domain), strict=True)) for part, some in rows.items()}, categories


def _by_domain(row: tuple[Path, int, int]) -> tuple[int, int]:
    """Sorts by domain, then by label; what is equal stays in its order."""
    return row[2], row[1]


def _drawn(root: Path, emoji: dict[str, Any], there: dict[str, set[str]]) -> list[Path] | None:
    """An emoji's picture in each style; None where one lacks it. Fluent's names may lack the variation selector fe0f."""
    name = str(emoji["image"]).removesuffix(".png")
    plain = str(emoji["non_qualified"] or "").lower()
    found = []
    for style, suffix in STYLES.items():
        names = [name, name.replace("-fe0f", ""), plain] if style == "fluent" else [name]
        found += [root / style / f"{one}{suffix}" for one in names if f"{one}{suffix}" in there[style]][:1]
    return found if len(found) == len(STYLES) else None
