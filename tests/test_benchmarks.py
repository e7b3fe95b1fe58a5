"""The laws of every file in benchmarks/, the reading of their data, and the cache under them.

The idx sets run on tiny files in their true format, written here; the golden digests need the real ones: RETAIN_DATA,
or a folder shared/data in or beside the checkout. After a change that is meant, write the digests anew:
``RETAIN_UPDATE_GOLDEN=1 pytest tests/test_benchmarks.py -k golden``.
"""

import dataclasses
import gzip
import hashlib
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from retain.platform import cache, plugins, splits
from retain.platform.cache import DataFolders, prepared
from retain.platform.datasets import _idx, fashion_mnist, mnist
from retain.platform.errors import UserError
from retain.platform.streams import Part, Stream

BENCHMARKS = plugins.names("benchmarks")
GOLDEN = Path(__file__).parent / "golden" / "benchmarks.json"
REPOSITORY = Path(__file__).resolve().parent.parent
SPLIT, DOMAIN = ([n for n in BENCHMARKS if n.startswith("split_") == wanted] for wanted in (True, False))
_REAL_NAMES = {"mnist": "mnist", "fashion_mnist": "fashion-mnist"}


def _real_root() -> Path | None:
    places = (REPOSITORY / "shared" / "data", REPOSITORY.parent / "shared" / "data")
    root = os.environ.get("RETAIN_DATA") or next((str(place) for place in places if place.is_dir()), None)
    return Path(root) if root else None


REAL_ROOT = _real_root()


def _real(name: str) -> bool:
    """Whether the real files of a benchmark's data set are here."""
    source = name.split("_", 1)[1]
    if source not in _REAL_NAMES:
        return True
    roots = [_idx.DEBIAN] + ([REAL_ROOT] if REAL_ROOT else [])
    return any(len(_idx.files_in(root / _REAL_NAMES[source])) == 4 for root in roots)


# --- tiny data in the true format ---


def write_idx(path: Path, array: np.ndarray[Any, Any]) -> None:
    """Write bytes as an idx file, gzipped where the name says so."""
    raw = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(raw, 1) if path.suffix == ".gz" else raw)


def write_set(folder: Path, dot: str = "-", end: str = ".gz", seed: int = 0) -> Path:
    """Write a data set of 200 + 50 noisy pictures, ten classes of unequal sizes."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    for part, count in (("train", 200), ("t10k", 50)):
        labels = np.concatenate([np.arange(10), generator.integers(0, 10, count - 10)])
        write_idx(folder / f"{part}-images{dot}idx3-ubyte{end}", generator.integers(0, 256, (count, 28, 28)))
        write_idx(folder / f"{part}-labels{dot}idx1-ubyte{end}", labels)
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> DataFolders:
    """Folders with a tiny MNIST, gzipped, and a tiny Fashion-MNIST, plain."""
    root = tmp_path_factory.mktemp("tiny")
    write_set(root / "mnist")
    write_set(root / "fashion-mnist", end="", seed=1)
    return DataFolders.of(str(root), str(tmp_path_factory.mktemp("tiny-cache")))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> DataFolders:
    """Folders with the real sets, and a fresh cache."""
    return DataFolders(REAL_ROOT, tmp_path_factory.mktemp("real-cache"))


def build(name: str, data: DataFolders, seed: int = 0, **settings: Any) -> Stream:
    """Build a benchmark by name."""
    module = plugins.resolve("benchmarks", name)
    stream: Stream = module.build(module.Config(**settings), seed, data)
    return stream


def indices(part: Part) -> set[int]:
    """The base pictures of a part."""
    return set(part.indices.tolist())


def digest(stream: Stream) -> str:
    """Digest of what a stream consists of: names, classes, indices, labels, and some pictures of each part."""
    found = hashlib.sha256(repr((stream.scenario, stream.class_names, stream.shape, stream.mean, stream.std)).encode())
    for experience in stream.experiences:
        found.update(repr((experience.name, experience.classes)).encode())
        for part in (experience.train, experience.validation, experience.test):
            some = part.indices[[0, 1, -1]] if len(part) else part.indices
            for tensor in (part.indices, part.y, part.arrays.x[some]):
                found.update(tensor.numpy().tobytes())
    return found.hexdigest()


# --- the laws ---


@pytest.mark.parametrize("name", BENCHMARKS)
def test_settings_are_documented(name: str) -> None:
    """The docstring of `Config` says what each field is, and its first line what the benchmark is."""
    config = plugins.resolve("benchmarks", name).Config
    assert config.__doc__.splitlines()[0].endswith(".")
    for field in dataclasses.fields(config):
        assert f"    {field.name}: " in config.__doc__, field.name


def test_imports_are_light(tiny: DataFolders) -> None:
    """No benchmark imports a heavy library; digits come from a warm cache without scikit-learn."""
    build("rotated_digits", tiny)
    code = f"""
import sys
from pathlib import Path
from retain.platform import plugins
from retain.platform.cache import DataFolders
modules = [plugins.resolve("benchmarks", name) for name in {BENCHMARKS!r}]
for module in modules:
    if module.__name__.endswith("digits"):
        module.build(module.Config(), 0, DataFolders(None, Path({str(tiny.cache)!r})))
print(sorted({{"avalanche", "torchvision", "sklearn", "scipy", "ray", "wandb"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", SPLIT)
@pytest.mark.parametrize("settings", [{}, {"num_experiences": 10, "validation": 0.3}, {"num_experiences": 1}], ids=str)
def test_class_streams_are_disjoint_and_complete(name: str, settings: dict[str, Any], tiny: DataFolders) -> None:
    """Each class is in one experience, numbered in order of appearance, and no sample is lost or used twice."""
    stream = build(name, tiny, **settings)
    assert stream.scenario == "class"
    assert [label for e in stream.experiences for label in e.classes] == list(range(10))
    for experience in stream.experiences:
        for part in (experience.train, experience.test):
            assert set(part.y.tolist()) == set(experience.classes)
    first = stream.experiences[0]
    for parts, arrays in (
        ([p for e in stream.experiences for p in (e.train, e.validation)], first.train.arrays),
        ([e.test for e in stream.experiences], first.test.arrays),
    ):
        assert sorted(i for part in parts for i in part.indices.tolist()) == list(range(len(arrays.y)))


@pytest.mark.parametrize("name", SPLIT)
def test_class_order(name: str, tiny: DataFolders) -> None:
    """A given order is kept; under any order a picture keeps its class's name and its side of the validation split."""
    order = (9, 8, 7, 6, 5, 4, 3, 2, 1, 0)
    given, plain = build(name, tiny, class_order=order), build(name, tiny, class_order=tuple(range(10)))
    assert given.class_names == plain.class_names[::-1]
    streams = [given, plain, build(name, tiny)]
    named = [[s.class_names[label] for label in s.experiences[0].train.arrays.y] for s in streams]
    assert named[0] == named[1] == named[2]
    held = [set().union(*(indices(e.validation) for e in s.experiences)) for s in streams]
    assert held[0] == held[1] == held[2]


@pytest.mark.parametrize("name", DOMAIN)
def test_domain_streams_share_classes_and_split(name: str, tiny: DataFolders) -> None:
    """Every domain has all classes, the same split and the same labels; the pictures differ."""
    stream = build(name, tiny)
    first = stream.experiences[0]
    assert stream.scenario == "domain"
    assert len({e.name for e in stream.experiences}) == 5
    for experience in stream.experiences:
        assert experience.classes == tuple(range(10)) == tuple(sorted(set(experience.test.y.tolist())))
        for part, base in zip(_parts(experience), _parts(first), strict=True):
            assert torch.equal(part.indices, base.indices)
            assert torch.equal(part.y, base.y)
            assert (part is base) or not torch.equal(part.arrays.x, base.arrays.x)


def _parts(experience: Any) -> tuple[Part, Part, Part]:
    return experience.train, experience.validation, experience.test


@pytest.mark.parametrize("name", BENCHMARKS)
def test_train_validation_and_test_never_meet(name: str, tiny: DataFolders) -> None:
    """Over the whole stream no base picture is on two sides: by index, and by content between training and test."""
    stream = build(name, tiny)
    train, held, test = (set().union(*(indices(_parts(e)[i]) for e in stream.experiences)) for i in range(3))
    assert not train & held
    first = stream.experiences[0]
    assert len(train) + len(held) == len(first.train.arrays.y)
    assert len(test) == len(first.test.arrays.y)
    for experience in stream.experiences:
        seen = {x.numpy().tobytes() for x in experience.train.arrays.x}
        assert not seen & {x.numpy().tobytes() for x in experience.test.arrays.x}


@pytest.mark.parametrize("name", BENCHMARKS)
@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.25, 0.99])
def test_validation_is_a_fraction_of_each_class(name: str, fraction: float, tiny: DataFolders) -> None:
    """The split is stratified, and never takes a class whole."""
    for experience in build(name, tiny, validation=fraction).experiences:
        for label in experience.classes:
            fit, held = (int((part.y == label).sum()) for part in (experience.train, experience.validation))
            assert held == min(round(fraction * (fit + held)), fit + held - 1)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_seed(name: str, tiny: DataFolders) -> None:
    """The same seed gives the same stream, another seed another."""
    assert digest(build(name, tiny, seed=3)) == digest(build(name, tiny, seed=3)) != digest(build(name, tiny, seed=4))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_pickles(name: str, tiny: DataFolders) -> None:
    """Settings and streams survive pickling."""
    config = plugins.resolve("benchmarks", name).Config(validation=0.2)
    assert pickle.loads(pickle.dumps(config)) == config
    stream = build(name, tiny)
    assert digest(pickle.loads(pickle.dumps(stream))) == digest(stream)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_normalise(name: str, tiny: DataFolders) -> None:
    """Stored bytes become float32 of the declared shape, by the declared mean and deviation."""
    stream = build(name, tiny)
    for part in _parts(stream.experiences[-1]):
        assert part.arrays.x.dtype == torch.uint8
        stored = part.arrays.x[part.indices[:3]]
        x = stream.normalise(stored)
        assert (x.dtype, x.shape) == (torch.float32, (3, *stream.shape))
        expected = (stored.double() / 255 - stream.mean[0]) / stream.std[0]
        torch.testing.assert_close(x, expected.float())


@pytest.mark.parametrize("name", BENCHMARKS)
def test_golden(name: str, real: DataFolders) -> None:
    """Indices, labels and pictures are what they were when the published numbers were made."""
    if not _real(name):
        pytest.skip(f"the files of {name.split('_', 1)[1]} are not here; set RETAIN_DATA")
    settings: dict[str, Any] = {}
    if not name.endswith("digits") and name in DOMAIN:  # two domains of the large sets: the others are made alike
        settings = {"angles": (0.0, 30.0)} if name.startswith("rotated") else {"num_experiences": 2}
    digests = {f"seed {seed}": digest(build(name, real, seed, **settings)) for seed in (0, 1)}
    known = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if os.environ.get("RETAIN_UPDATE_GOLDEN"):
        GOLDEN.write_text(json.dumps(known | {name: digests}, indent=1, sort_keys=True) + "\n")
    else:
        assert known.get(name) == digests, "meant? RETAIN_UPDATE_GOLDEN=1 pytest tests/test_benchmarks.py -k golden"


@pytest.mark.parametrize("name", [n for n in SPLIT if not n.endswith("digits")] + ["split_digits"])
def test_statistics_are_of_the_training_pictures(name: str, real: DataFolders) -> None:
    """The mean and deviation stated in the code are those of the data, to 4 digits."""
    if not _real(name):
        pytest.skip(f"the files of {name.split('_', 1)[1]} are not here; set RETAIN_DATA")
    stream = build(name, real)
    x = stream.experiences[0].train.arrays.x.numpy()
    shares = np.bincount(x.ravel(), minlength=256) / x.size
    values = np.arange(256) / 255
    mean = float(shares @ values)
    assert stream.mean[0] == pytest.approx(mean, abs=6e-5)
    assert stream.std[0] == pytest.approx(float(shares @ (values - mean) ** 2) ** 0.5, abs=6e-5)


def test_real_data_is_here_in_ci() -> None:
    """The golden digests of the large sets must not go unchecked in CI."""
    found = _real("split_mnist") or _real("split_fashion_mnist")
    if not os.environ.get("CI") and not found:
        pytest.skip("neither MNIST nor Fashion-MNIST is here; it would fail in CI")
    assert found, "set RETAIN_DATA to a folder with mnist/ or fashion-mnist/, or install dataset-fashion-mnist"


# --- settings ---

_CLASS, _PERMUTED, _ROTATED = splits.ClassSplit, splits.Permuted, splits.Rotated


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (_CLASS, {"num_experiences": 11}, r"^num_experiences=11: must be between 1 and 10, the number of classes"),
        (_CLASS, {"num_experiences": 0}, r"^num_experiences=0: must be between 1 and 10"),
        (_CLASS, {"num_experiences": 3}, r"^num_experiences=3: must divide .* 1, 2, 5, 10$"),
        (_CLASS, {"class_order": (0, 1, 2)}, r"^class_order=\(0, 1, 2\): must hold each class from 0 to 9 once"),
        (_CLASS, {"class_order": (0, *range(9))}, r"^class_order="),
        (_CLASS, {"validation": 1.0}, r"^validation=1.0: must be at least 0 and less than 1"),
        (_PERMUTED, {"validation": -0.1}, r"^validation=-0.1: "),
        (_PERMUTED, {"num_experiences": 0}, r"^num_experiences=0: must be at least 1"),
        (_ROTATED, {"validation": float("nan")}, r"^validation=nan: "),
        (_ROTATED, {"angles": ()}, r"^angles=\(\): must be one or more"),
        (_ROTATED, {"angles": (0.0, float("inf"))}, r"^angles=\(0.0, inf\): "),
        (_ROTATED, {"angles": (0.0, 360.0)}, r"^angles=\(0.0, 360.0\): must differ"),
    ],
)
def test_settings_are_refused(config: Any, settings: dict[str, Any], message: str) -> None:
    """A wrong setting is refused with its name first, its value, and what is allowed."""
    with pytest.raises(ValueError, match=message):
        config(**settings)


# --- transformations ---


def test_permutations(tiny: DataFolders) -> None:
    """The first domain is the data as they are; each other is one permutation of the pixels of all pictures."""
    stream = build("permuted_mnist", tiny, num_experiences=3)
    source = mnist.build(mnist.Config(), tiny)
    assert torch.equal(stream.experiences[0].train.arrays.x, source.train.x)
    columns = source.train.x.flatten(1).T.tolist()
    for experience in stream.experiences[1:]:
        moved = [columns.index(column) for column in experience.train.arrays.x.flatten(1).T.tolist()]
        assert sorted(moved) == list(range(784)) != moved
        assert torch.equal(experience.test.arrays.x.flatten(1), source.test.x.flatten(1)[:, moved])


@pytest.mark.parametrize("angle", [0.0, 17.0, 45.0, 90.0, 180.0, 222.5, -30.0])
@pytest.mark.parametrize("shape", [(5, 1, 28, 28), (3, 2, 8, 9)], ids=str)
def test_rotation_equals_torch(angle: float, shape: tuple[int, ...]) -> None:
    """Our integer rotation is torch's bilinear one, within a rounding; counter-clockwise."""
    x = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    turn, (height, width) = torch.deg2rad(torch.tensor(angle, dtype=torch.float64)), shape[2:]
    cos, sin, zero = turn.cos(), turn.sin(), torch.zeros((), dtype=torch.float64)
    rows = torch.stack([cos, -sin * height / width, zero]), torch.stack([sin * width / height, cos, zero])
    theta = torch.stack(rows).expand(shape[0], 2, 3)
    grid = torch.nn.functional.affine_grid(theta, list(shape), align_corners=False)
    expected = torch.nn.functional.grid_sample(torch.from_numpy(x).double(), grid, align_corners=False).numpy()
    assert np.abs(splits.rotate(x, angle) - expected).max() < 1
    if angle == 90 and height == width:
        assert np.array_equal(splits.rotate(x, angle), np.rot90(x, axes=(2, 3)))


# --- finding and reading idx files ---


@pytest.mark.parametrize("end", [".gz", ""])
@pytest.mark.parametrize("dot", ["-", "."])
@pytest.mark.parametrize("layout", [".", "mnist", "MNIST/raw"])
def test_idx_layouts(layout: str, dot: str, end: str, tmp_path: Path, tiny: DataFolders) -> None:
    """Every usual place and name is found, and gives the same pictures."""
    write_set(tmp_path / "data" / layout, dot, end)
    found = mnist.build(mnist.Config(), DataFolders.of(str(tmp_path / "data"), str(tmp_path / "cache")))
    known = mnist.build(mnist.Config(), tiny)
    assert torch.equal(found.train.x, known.train.x)
    assert torch.equal(found.test.y, known.test.y)


def test_new_files_are_read_anew(tmp_path: Path) -> None:
    """Files that changed under the same names do not meet the old ones' cache entry."""
    folders = DataFolders.of(str(tmp_path), str(tmp_path / "cache"))
    write_set(tmp_path / "mnist", seed=0)
    old = mnist.build(mnist.Config(), folders).train.x.clone()
    shutil.rmtree(tmp_path / "mnist")
    write_set(tmp_path / "mnist", seed=1)
    assert not torch.equal(mnist.build(mnist.Config(), folders).train.x, old)


def _edit(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        raw = path.read_bytes()
        path.write_bytes(gzip.compress(change(gzip.decompress(raw))))

    return edit


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("train-images-idx3", lambda path: path.write_bytes(path.read_bytes()[:-100]), "cannot be read .*Get it again"),
        (
            "train-images-idx3",
            lambda path: path.write_bytes(b"<html>no such file"),
            "cannot be read .*Get it again",
        ),
        (
            "train-images-idx3",
            _edit(lambda raw: raw[:-1]),
            "truncated or damaged: .* needs 156816 bytes, .* 156815",
        ),
        ("t10k-images-idx3", _edit(lambda raw: raw[:10]), "truncated: its header"),
        ("t10k-images-idx3", _edit(lambda raw: b"\0\0\x0d\3" + raw[4:]), "not an idx file .* 00000d03, not 00000803"),
        ("t10k-labels-idx1", _edit(lambda raw: b""), "not an idx file"),
        ("t10k-labels-idx1", lambda path: write_idx(path, np.arange(10)), "10 labels for the 50 pictures"),
        ("t10k-labels-idx1", lambda path: write_idx(path, np.arange(50) % 11), "must be the ten from 0 to 9"),
        ("train-labels-idx1", lambda path: write_idx(path, np.arange(200) % 9), "must be the ten from 0 to 9"),
        ("train-images-idx3", lambda path: write_idx(path, np.zeros((200, 8, 8))), "must be 28x28, not 8x8"),
    ],
)
def test_damaged_idx_files_are_refused(file: str, damage: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    """A wrong file is refused with its name, and leaves no cache entry."""
    folder = write_set(tmp_path / "mnist")
    damage(folder / f"{file}-ubyte.gz")
    with pytest.raises(UserError, match=f"{file}-ubyte.gz: .*{message}"):
        mnist.build(mnist.Config(), DataFolders.of(str(tmp_path), str(tmp_path / "cache")))
    assert not list((tmp_path / "cache").glob("*/manifest.json"))


def test_incomplete_set_is_refused(tmp_path: Path) -> None:
    """Three of four files: the fourth is named."""
    (write_set(tmp_path / "mnist") / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UserError, match="has 3 of the four files of MNIST; t10k-labels-idx1-ubyte.gz is missing"):
        mnist.build(mnist.Config(), DataFolders.of(str(tmp_path), str(tmp_path / "cache")))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send downloads to a port where nobody listens."""
    for variable in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("read", "words"),
    [
        (mnist, ["MNIST was not found in", "train-images-idx3-ubyte.gz", "data.root", "RETAIN_DATA"]),
        (fashion_mnist, ["Fashion-MNIST was not found", "apt-get install dataset-fashion-mnist", "data.root"]),
    ],
)
def test_missing_data_says_what_to_do(read: Any, words: list[str], tmp_path: Path) -> None:
    """Where nothing is found and nothing can be fetched, the message says what to put where."""
    if (_idx.DEBIAN / "fashion-mnist").exists() and read is fashion_mnist:
        pytest.skip("the package dataset-fashion-mnist is installed")
    with pytest.raises(UserError) as caught:
        read.build(read.Config(), DataFolders.of(str(tmp_path), str(tmp_path / "cache")))
    for word in [*words, str(tmp_path)]:
        assert word in str(caught.value)


@pytest.mark.usefixtures("no_network")
def test_one_set_is_not_taken_for_the_other(tmp_path: Path) -> None:
    """Both sets use the same file names: MNIST's own folder as the data folder is no Fashion-MNIST."""
    if REAL_ROOT is None or not _real("split_mnist"):
        pytest.skip("the files of MNIST are not here; set RETAIN_DATA")
    folder = next(REAL_ROOT / name for name in ("mnist", "MNIST/raw") if _idx.files_in(REAL_ROOT / name))
    assert set(_idx.find(mnist.FILES, DataFolders(folder, tmp_path))["train_y"].parents) >= {folder}
    try:
        found = _idx.find(fashion_mnist.FILES, DataFolders(folder, tmp_path))
    except UserError:
        return
    assert folder not in found["train_y"].parents


# --- the cache ---


def _numbers() -> dict[str, np.ndarray[Any, Any]]:
    return {"x": np.arange(5000, dtype=np.uint8).reshape(50, 100), "y": np.arange(50)}


class Maker:
    """Makes `_numbers` and counts how often."""

    calls = 0

    def __call__(self) -> dict[str, np.ndarray[Any, Any]]:
        """Count and make."""
        self.calls += 1
        return _numbers()


def _check(found: dict[str, torch.Tensor]) -> None:
    assert {name: tensor.tolist() for name, tensor in found.items()} == {n: a.tolist() for n, a in _numbers().items()}
    assert (found["x"].dtype, found["y"].dtype) == (torch.uint8, torch.int64)


def test_prepared_once(tmp_path: Path) -> None:
    """The second opening makes nothing; what one opening writes into its tensors stays there."""
    make = Maker()
    first = prepared("numbers", make, tmp_path)
    first["x"].fill_(7)
    _check(prepared("numbers", make, tmp_path))
    assert make.calls == 1


def _flip(path: Path, place: int = -3) -> None:
    raw = bytearray(path.read_bytes())
    raw[place] ^= 4
    path.write_bytes(bytes(raw))


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: _flip(folder / "x.npy"),
        lambda folder: _flip(folder / "y.npy", 70),
        lambda folder: (folder / "x.npy").write_bytes((folder / "x.npy").read_bytes()[:-1]),
        lambda folder: (folder / "y.npy").unlink(),
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: (folder / "manifest.json").write_text((folder / "manifest.json").read_text()[:50]),
        lambda folder: (folder / "manifest.json").write_text("[]"),
        lambda folder: _flip(folder / "manifest.json", (folder / "manifest.json").read_bytes().index(b"sha256") + 12),
    ],
    ids=["bit", "header", "truncated", "lost", "no manifest", "half manifest", "other manifest", "sum"],
)
def test_damaged_entry_is_made_again(damage: Callable[[Path], None], tmp_path: Path) -> None:
    """A flipped bit, a lost or half-written file: another process makes the entry again, once."""
    make = Maker()
    prepared("numbers", make, tmp_path)
    damage(next(tmp_path.glob("numbers-v*/manifest.json")).parent)
    cache._hashed.clear()  # as in another process, which has verified nothing
    _check(prepared("numbers", make, tmp_path))
    assert make.calls == 2
    _check(prepared("numbers", make, tmp_path))
    assert make.calls == 2


def test_flip_is_seen_by_the_process_that_verified(tmp_path: Path) -> None:
    """Sums are taken again for a file that changed since."""
    make = Maker()
    prepared("numbers", make, tmp_path)
    path = next(tmp_path.glob("numbers-v*/x.npy"))
    _flip(path)
    os.utime(path, (0, 0))  # file systems tick in milliseconds: this test is faster
    _check(prepared("numbers", make, tmp_path))
    assert make.calls == 2


def test_large_entries_are_checked_by_size_and_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the limit nothing is hashed, but a short file or another header is seen."""
    monkeypatch.setattr(cache, "HASHED_BELOW", 0)
    make = Maker()
    prepared("numbers", make, tmp_path)
    path = next(tmp_path.glob("numbers-v*/x.npy"))
    _flip(path)
    prepared("numbers", make, tmp_path)
    assert make.calls == 1
    np.save(path, _numbers()["x"].reshape(100, 50))
    _check(prepared("numbers", make, tmp_path))
    path.write_bytes(path.read_bytes()[:-1])
    _check(prepared("numbers", make, tmp_path))
    assert make.calls == 3


_CHILD = """
import os, sys, time
from pathlib import Path
import numpy as np
from retain.platform.cache import prepared
folder, mine, other = Path(sys.argv[1]), sys.argv[2], sys.argv[3]

class Dying(dict):
    def items(self):
        yield "x", self["x"]
        os._exit(9)  # between the first file and the second

def make():
    with (folder / "made").open("a") as file:
        file.write(mine)
    time.sleep(0.2)
    return {"x": np.full((1000, 10), 3, dtype=np.uint8)}

(folder / mine).touch()
while not (folder / other).exists():
    time.sleep(0.001)
found = prepared("shared", (lambda: Dying(make())) if mine == "dies" else make, folder / "cache")
print(int(found["x"].sum()))
"""


def _child(folder: Path, mine: str, other: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", _CHILD, str(folder), mine, other], stdout=subprocess.PIPE, text=True)


def test_two_processes_prepare_once(tmp_path: Path) -> None:
    """Of two processes that start together one makes the entry, the other waits and reads it."""
    children = [_child(tmp_path, "a", "b"), _child(tmp_path, "b", "a")]
    outputs = [child.communicate(timeout=60)[0].strip() for child in children]
    assert outputs == ["30000", "30000"]
    assert len((tmp_path / "made").read_text()) == 1
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"shared-v1", "shared-v1.lock"}


def test_a_process_that_dies_while_writing_leaves_no_entry(tmp_path: Path) -> None:
    """Its lock and its half-written folder are no hindrance to the next."""
    child = _child(tmp_path, "dies", "dies")
    child.communicate(timeout=60)
    assert child.returncode == 9
    assert (tmp_path / "cache" / ".shared-v1.tmp" / "x.npy").exists()
    make = Maker()
    _check(prepared("shared", make, tmp_path / "cache"))
    assert make.calls == 1
    assert not (tmp_path / "cache" / ".shared-v1.tmp").exists()


def test_cache_that_is_a_file(tmp_path: Path) -> None:
    """A cache folder that cannot be one is refused with the setting's name."""
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=f"data.cache={folder}: cannot be written .* RETAIN_CACHE"):
            prepared("numbers", _numbers, folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into a read-only folder")
def test_read_only_cache(tmp_path: Path) -> None:
    """A complete entry opens in a read-only cache; a missing one is refused."""
    prepared("numbers", _numbers, tmp_path)
    tmp_path.chmod(0o500)
    _check(prepared("numbers", _numbers, tmp_path))
    with pytest.raises(UserError, match="data.cache=.*: cannot be written"):
        prepared("others", _numbers, tmp_path)


def test_error_in_making_is_not_the_caches(tmp_path: Path) -> None:
    """What goes wrong in `make` comes out as it is, and the lock is free afterwards."""

    def make() -> dict[str, np.ndarray[Any, Any]]:
        raise OSError("source gone")

    with pytest.raises(OSError, match="source gone"):
        prepared("numbers", make, tmp_path)
    _check(prepared("numbers", _numbers, tmp_path))


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings come before the environment, which comes before the home folder; paths become absolute."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RETAIN_DATA", raising=False)
    monkeypatch.delenv("RETAIN_CACHE", raising=False)
    assert DataFolders.of() == DataFolders(None, tmp_path / ".cache" / "retain")
    monkeypatch.setenv("RETAIN_DATA", "a")
    monkeypatch.setenv("RETAIN_CACHE", "c")
    assert DataFolders.of() == DataFolders(tmp_path / "a", tmp_path / "c")
    assert DataFolders.of("~/b", "d") == DataFolders(tmp_path / "b", tmp_path / "d")
    with pytest.raises(UserError, match="^data.root=nowhere: there is no such folder"):
        DataFolders.of("nowhere")
    monkeypatch.setenv("RETAIN_DATA", "nowhere")
    with pytest.raises(UserError, match="^RETAIN_DATA=nowhere: "):
        DataFolders.of()
