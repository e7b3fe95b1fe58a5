"""Tiny ImageNet."""

from collections import Counter
from pathlib import Path
from typing import Annotated

from annotated_types import Interval

from ...config.settings import settings
from ...errors import UserError
from ..cache import DataFolders
from ..dataset import DataSet, DataSetOptions, make_data_set
from ..image_cache import Listing, cached_images
from ..image_decoding import VERSION
from ._locate import candidate_folders, content_identity, folder_with

_LISTS = ("wnids.txt", "words.txt", "val/val_annotations.txt")
_ADVICE = (
    "Unpack tiny-imagenet-200.zip of http://cs231n.stanford.edu/tiny-imagenet-200.zip into a folder and set data.root or "
    "RETAIN_DATA to it."
)


@settings
class Config(DataSetOptions):
    """Tiny ImageNet: 200 classes of ImageNet, 64x64 colour, 100,000 for training and 10,000 for testing (Le & Yang 2015).

    Read from tiny-imagenet-200 in the data folder. The test part is the official validation part, because the official test
    part has no labels. Classes are numbered as in wnids.txt and named by their first word in words.txt.

    size: side of the pictures in pixels (default 64, as in the files).
    """

    size: Annotated[int, Interval(ge=8, le=64)] = 64


def build(config: Config, folders: DataFolders) -> DataSet:
    """Open the prepared data set.

    Raises:
        UserError: the data set is not found, or one of its files is missing or damaged.
    """
    tried = candidate_folders(folders, ("tiny-imagenet-200", "tiny_imagenet", "."))
    root = folder_with("wnids.txt", "Tiny ImageNet", tried, _ADVICE)
    missing = [root / name for name in _LISTS if not (root / name).is_file()]
    if missing:
        raise UserError(f"{missing[0]}: is missing. {_ADVICE}")
    key = f"tiny_imagenet{config.size}-{VERSION}-{content_identity(root / name for name in _LISTS)}"
    classes = (root / "wnids.txt").read_text(encoding="utf-8").split()
    names = _names(root / "words.txt", classes)
    arrays = cached_images(key, lambda: _listed(root, classes), config.size, folders)
    return make_data_set(key, arrays, names, normalise=config.normalise)


def _names(path: Path, classes: list[str]) -> tuple[str, ...]:
    """Return the first word of each class, or all of its words if two classes share the first."""
    lines = (line.split("\t") for line in path.read_text(encoding="utf-8").splitlines())
    words = {line[0]: line[1] for line in lines if len(line) == 2}
    missing = [name for name in classes if name not in words]
    if missing:
        raise UserError(f"{path}: has no line for the class {missing[0]}; truncated or damaged? {_ADVICE}")
    first = {name: words[name].split(",")[0] for name in classes}
    shared = Counter(first.values())
    return tuple(first[name] if shared[first[name]] == 1 else words[name] for name in classes)


def _listed(root: Path, classes: list[str]) -> dict[str, Listing]:
    """List the pictures of both parts."""
    label_of = {name: label for label, name in enumerate(classes)}
    train = [
        (path, label_of[name]) for name in classes for path in sorted((root / "train" / name / "images").glob("*.JPEG"))
    ]
    present = {label for _, label in train}
    empty = [name for name, label in label_of.items() if label not in present]
    if empty:
        raise UserError(f"{root / 'train' / empty[0] / 'images'}: holds no .JPEG file. {_ADVICE}")
    annotations = root / "val" / "val_annotations.txt"
    test = []
    for number, line in enumerate(annotations.read_text(encoding="utf-8").splitlines(), 1):
        name, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0]
        if wnid not in label_of:
            raise UserError(f"{annotations}:{number}: {line!r} names no class of wnids.txt; damaged? {_ADVICE}")
        test.append((root / "val" / "images" / name, label_of[wnid]))
    untested = sorted(label_of.keys() - {classes[label] for _, label in test})
    if untested:
        raise UserError(f"{annotations}: has no picture of the class {untested[0]}; truncated or damaged? {_ADVICE}")
    return {part: Listing(*zip(*rows, strict=True)) for part, rows in (("train", train), ("test", test))}
