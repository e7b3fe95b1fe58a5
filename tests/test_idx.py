"""Finding and reading MNIST's files: every layout, damage, absence."""

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.idx_sets import REAL_ROOT, is_real, write_idx, write_set

from retain.platform.data.cache import DataFolders
from retain.platform.data.dataset import DataSet
from retain.platform.data.datasets import _idx, fashion_mnist, mnist
from retain.platform.errors import UserError


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """Return what `write_set` writes, read from the simplest layout."""
    root = tmp_path_factory.mktemp("known")
    write_set(root / "mnist")
    return mnist.build(mnist.Config(), DataFolders.of(str(root), str(root / "cache")))


@pytest.mark.parametrize("end", [".gz", ""])
@pytest.mark.parametrize("dot", ["-", "."])
@pytest.mark.parametrize("layout", [".", "mnist", "MNIST/raw"])
def test_idx_layouts(layout: str, dot: str, end: str, tmp_path: Path, known: DataSet) -> None:
    """Every usual path and name is found, and gives the same pictures."""
    write_set(tmp_path / "data" / layout, dot, end)
    data_set = mnist.build(mnist.Config(), DataFolders.of(str(tmp_path / "data"), str(tmp_path / "cache")))
    assert torch.equal(data_set.train.x, known.train.x)
    assert torch.equal(data_set.test.y, known.test.y)


def test_changed_files_are_read_again(tmp_path: Path) -> None:
    """Changed files under the same names do not use the old files' cache entry."""
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
    """A wrong file is refused by name, and no cache entry is made."""
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
    """Send downloads to a closed port."""
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
    """If nothing is found and nothing can be fetched, the message says which files to put where."""
    if (_idx.DEBIAN / "fashion-mnist").exists() and read is fashion_mnist:
        pytest.skip("the package dataset-fashion-mnist is installed")
    with pytest.raises(UserError) as caught:
        read.build(read.Config(), DataFolders.of(str(tmp_path), str(tmp_path / "cache")))
    for word in [*words, str(tmp_path)]:
        assert word in str(caught.value)


@pytest.mark.usefixtures("no_network")
def test_mnist_and_fashion_mnist_are_not_confused(tmp_path: Path) -> None:
    """Both sets use the same file names: MNIST's folder as the data folder is not taken for Fashion-MNIST."""
    if REAL_ROOT is None or not is_real("split_mnist"):
        pytest.skip("the files of MNIST are not here; set RETAIN_DATA")
    folder = next(REAL_ROOT / name for name in ("mnist", "MNIST/raw") if _idx.files_in(REAL_ROOT / name))
    assert set(_idx.find(mnist.FILES, DataFolders(folder, tmp_path))["train_y"].parents) >= {folder}
    try:
        paths = _idx.find(fashion_mnist.FILES, DataFolders(folder, tmp_path))
    except UserError:
        return
    assert folder not in paths["train_y"].parents
