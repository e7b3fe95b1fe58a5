"""Digits of three sources as one data set with three domains. N samples, H height, W width, S side."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Interval

from ...config.settings import settings
from ..cache import DataFolders, load_or_make
from ..dataset import DataSet, DataSetOptions, make_data_set
from ..image_cache import statistics
from ..streams import Arrays
from . import digits, mfeat, mnist

_Array = np.ndarray[Any, np.dtype[Any]]
HAS_DOMAINS = True
DOMAINS = ("mnist", "optdigits", "mfeat")


@settings
class Config(DataSetOptions):
    """Handwritten digits of three real sources, the domains: MNIST, optdigits (the set `digits`) and mfeat; grey, light on dark.

    MNIST's digits fill the middle 20 of 28 pixels. Those of the other sources fill the whole picture, so they are scaled into
    the same frame. Otherwise a classifier trained on one would be at chance on another because of the digits' size alone.

    size: side of the pictures in pixels (default 28, as in MNIST).
    balance: reduce MNIST to the size of the largest other domain, 160 per class for training and 40 for testing, evenly spaced
        in the file's order; false: all 70,000.
    """

    size: Annotated[int, Interval(ge=8, le=64)] = 28
    balance: bool = True


def build(config: Config, folders: DataFolders) -> DataSet:
    """Open the prepared data set.

    Raises:
        UserError: the files of MNIST or mfeat are not found, or one is damaged.
    """
    built = (
        mnist.build(mnist.Config(), folders),
        digits.build(digits.Config(), folders),
        mfeat.build(mfeat.Config(), folders),
    )
    sources = dict(zip(DOMAINS, built, strict=True))
    settings = repr((config.size, config.balance, [source.key for source in built]))
    key = f"digit_domains{config.size}-{hashlib.sha256(settings.encode()).hexdigest()[:16]}"
    arrays = load_or_make(key, lambda: _join(sources, config), folders.cache)
    return make_data_set(key, arrays, tuple("0123456789"), domain_names=DOMAINS, normalise=config.normalise)


def _join(sources: Mapping[str, DataSet], config: Config) -> dict[str, _Array]:
    """Resize the domains and concatenate them."""
    arrays: dict[str, _Array] = {}
    for part in ("train", "test"):
        domains = [source.train if part == "train" else source.test for source in sources.values()]
        if config.balance:
            domains[0] = _reduced(domains[0], max(len(domain.y) for domain in domains[1:]))
        arrays[f"{part}_x"] = np.concatenate(_framed([domain.x.numpy() for domain in domains], config.size))
        arrays[f"{part}_y"] = torch.cat([domain.y for domain in domains]).numpy()
        arrays[f"{part}_d"] = np.repeat(np.arange(len(domains)), [len(domain.y) for domain in domains])
    arrays["mean"], arrays["std"] = statistics(arrays["train_x"])
    return arrays


def _reduced(domain: Arrays, total: int) -> Arrays:
    """Choose `total` samples, the same number per class, evenly spaced because MNIST's writers differ along its files."""
    chosen = []
    for label in range(10):
        members = torch.nonzero(domain.y == label).flatten()
        count = min(total // 10, len(members))
        chosen.append(members[torch.arange(count) * len(members) // count])
    rows = torch.cat(chosen).sort().values
    return Arrays(domain.x[rows], domain.y[rows])


def _framed(domains: Sequence[_Array], size: int) -> list[_Array]:
    """Bring each domain to (N, 1, S, S); the first is MNIST."""
    margin = round(size * 4 / 28)
    padding = ((0, 0), (0, 0), (margin, margin), (margin, margin))
    others = [np.pad(_resized(pictures, size - 2 * margin), padding) for pictures in domains[1:]]
    return [_resized(domains[0], size), *others]


def _resized(pictures: _Array, size: int) -> _Array:
    """Resize (N, 1, H, W) uint8 to (N, 1, S, S), bilinear with antialiasing, which PIL does in integer arithmetic."""
    from PIL import Image

    if pictures.shape[2:] == (size, size):
        return pictures
    bilinear = Image.Resampling.BILINEAR
    return np.stack(
        [np.asarray(Image.fromarray(picture).resize((size, size), bilinear)) for picture in pictures[:, 0]]
    )[:, None]
