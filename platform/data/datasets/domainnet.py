"""DomainNet."""

from collections.abc import Iterator
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

HAS_DOMAINS = True
DOMAINS = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")
_ADVICE = (
    "Unpack the six .zip files of http://ai.bu.edu/M3SDA into a folder domainnet, put the twelve lists (clipart_train.txt "
    "and so on) next to them, and set data.root or RETAIN_DATA to the folder that holds it."
)


@settings
class Config(DataSetOptions):
    """DomainNet: 345 classes in six styles, the domains, colour, about 409,000 for training and 176,000 for testing (Peng 2019).

    Read from domainnet in the data folder, with clipart/ and so on, and the official lists, such as clipart_train.txt and
    clipart_test.txt. A file's folder is its class; classes are numbered as in the lists. Other lists of that form work too.

    size: side of the prepared pictures in pixels (default 64, which takes 7 GB): the shorter side is resized to it and the centre
        is kept.
    """

    size: Annotated[int, Interval(ge=8, le=256)] = 64


def build(config: Config, folders: DataFolders) -> DataSet:
    """Open the prepared data set.

    Raises:
        UserError: the data set is not found, or one of its files is missing or damaged.
    """
    root = folder_with(
        "clipart_train.txt", "DomainNet", candidate_folders(folders, ("domainnet", "DomainNet", ".")), _ADVICE
    )
    lists = [root / f"{domain}_{part}.txt" for domain in DOMAINS for part in ("train", "test")]
    missing = [path for path in lists if not path.is_file()]
    if missing:
        raise UserError(f"{missing[0]}: is missing. {_ADVICE}")
    key = f"domainnet{config.size}-{VERSION}-{content_identity(lists)}"
    classes = _classes(lists[0])
    arrays = cached_images(key, lambda: _listed(root, classes), config.size, folders)
    return make_data_set(key, arrays, classes, domain_names=DOMAINS, normalise=config.normalise)


def _lines(path: Path) -> Iterator[tuple[str, str, int]]:
    """Yield (path below the root, class, label) for each line, such as ``clipart/anvil/x.jpg 7``."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        name, _, label = line.rpartition(" ")
        folders = name.split("/")
        if len(folders) != 3 or not label.isdecimal():
            raise UserError(f"{path}:{number}: {line!r} is not 'domain/class/picture label'; truncated or damaged?")
        yield name, folders[1], int(label)


def _classes(path: Path) -> tuple[str, ...]:
    """Return the class names in the order of their labels; the first list has them all."""
    names = {label: name for _, name, label in _lines(path)}
    if not names or sorted(names) != list(range(len(names))):
        raise UserError(f"{path}: its labels must be 0 to {max(names, default=0)} without a gap; truncated or damaged?")
    twice = {name: label for label, name in names.items()}
    if len(twice) < len(names):
        name, label = next((name, label) for label, name in names.items() if twice[name] != label)
        raise UserError(f"{path}: the class {name} has the labels {label} and {twice[name]}; it must have one.")
    return tuple(names[label] for label in range(len(names)))


def _listed(root: Path, classes: tuple[str, ...]) -> dict[str, Listing]:
    """List the pictures of both parts, domain by domain."""
    parts = {}
    for part in ("train", "test"):
        rows: list[tuple[Path, int, int]] = []
        for domain, style in enumerate(DOMAINS):
            path = root / f"{style}_{part}.txt"
            for name, class_name, label in _lines(path):
                if label >= len(classes) or classes[label] != class_name:
                    raise UserError(
                        f"{path}: label {label} of {name} is not that of its class in {DOMAINS[0]}_train.txt."
                    )
                rows.append((root / name, label, domain))
        parts[part] = Listing(*zip(*rows, strict=True))
    return parts
