"""The cache of prepared arrays: made once by the first process, either complete or absent."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from retain.platform.data import cache
from retain.platform.data.cache import DataFolders, load_or_make
from retain.platform.errors import UserError


def _numbers() -> dict[str, np.ndarray[Any, Any]]:
    return {"x": np.arange(5000, dtype=np.uint8).reshape(50, 100), "y": np.arange(50)}


class Maker:
    """Make `_numbers` and count the calls."""

    calls = 0

    def __call__(self) -> dict[str, np.ndarray[Any, Any]]:
        """Count and make."""
        self.calls += 1
        return _numbers()


def _check(tensors: dict[str, torch.Tensor]) -> None:
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {n: a.tolist() for n, a in _numbers().items()}
    assert (tensors["x"].dtype, tensors["y"].dtype) == (torch.uint8, torch.int64)


def test_an_entry_is_prepared_once(tmp_path: Path) -> None:
    """Opening it again makes nothing; writing into the tensors of one opening does not change another's."""
    make = Maker()
    first = load_or_make("numbers", make, tmp_path)
    first["x"].fill_(7)
    _check(load_or_make("numbers", make, tmp_path))
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
    """A flipped bit, a missing or half-written file: another process makes the entry again, once."""
    make = Maker()
    load_or_make("numbers", make, tmp_path)
    damage(next(tmp_path.glob("numbers-v*/manifest.json")).parent)
    cache._hashed.clear()  # as in a new process, which has verified nothing
    _check(load_or_make("numbers", make, tmp_path))
    assert make.calls == 2
    _check(load_or_make("numbers", make, tmp_path))
    assert make.calls == 2


def test_a_flipped_bit_is_detected_after_verification(tmp_path: Path) -> None:
    """Checksums are computed again for a file that has changed since."""
    make = Maker()
    load_or_make("numbers", make, tmp_path)
    path = next(tmp_path.glob("numbers-v*/x.npy"))
    _flip(path)
    os.utime(path, (0, 0))  # file times have a resolution of milliseconds, and this test is faster
    _check(load_or_make("numbers", make, tmp_path))
    assert make.calls == 2


def test_large_entries_are_checked_by_size_and_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the size limit nothing is hashed, but a short file or a different header is detected."""
    monkeypatch.setattr(cache, "HASHED_BELOW", 0)
    make = Maker()
    load_or_make("numbers", make, tmp_path)
    path = next(tmp_path.glob("numbers-v*/x.npy"))
    _flip(path)
    load_or_make("numbers", make, tmp_path)
    assert make.calls == 1
    np.save(path, _numbers()["x"].reshape(100, 50))
    _check(load_or_make("numbers", make, tmp_path))
    path.write_bytes(path.read_bytes()[:-1])
    _check(load_or_make("numbers", make, tmp_path))
    assert make.calls == 3


_CHILD = """
import os, sys, time
from pathlib import Path
import numpy as np
from retain.platform.data.cache import load_or_make
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
found = load_or_make("shared", (lambda: Dying(make())) if mine == "dies" else make, folder / "cache")
print(int(found["x"].sum()))
"""


def _child(folder: Path, own: str, other: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", _CHILD, str(folder), own, other], stdout=subprocess.PIPE, text=True)


def test_two_processes_prepare_once(tmp_path: Path) -> None:
    """Of two processes that start together, one makes the entry; the other waits and reads it."""
    children = [_child(tmp_path, "a", "b"), _child(tmp_path, "b", "a")]
    outputs = [child.communicate(timeout=300)[0].strip() for child in children]
    assert outputs == ["30000", "30000"]
    assert len((tmp_path / "made").read_text()) == 1
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"shared-v1", "shared-v1.lock"}


def test_a_process_that_dies_while_writing_leaves_no_entry(tmp_path: Path) -> None:
    """Its lock and its half-written folder do not block the next process."""
    child = _child(tmp_path, "dies", "dies")
    child.communicate(timeout=300)
    assert child.returncode == 9
    assert (tmp_path / "cache" / ".shared-v1.tmp" / "x.npy").exists()
    make = Maker()
    _check(load_or_make("shared", make, tmp_path / "cache"))
    assert make.calls == 1
    assert not (tmp_path / "cache" / ".shared-v1.tmp").exists()


def test_cache_that_is_a_file(tmp_path: Path) -> None:
    """A cache path that is a file is refused with the setting's name."""
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=f"data.cache={folder}: cannot be written .* RETAIN_CACHE"):
            load_or_make("numbers", _numbers, folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into a read-only folder")
def test_read_only_cache(tmp_path: Path) -> None:
    """A complete entry opens in a read-only cache; a missing one is refused."""
    load_or_make("numbers", _numbers, tmp_path)
    tmp_path.chmod(0o500)
    _check(load_or_make("numbers", _numbers, tmp_path))
    with pytest.raises(UserError, match="data.cache=.*: cannot be written"):
        load_or_make("others", _numbers, tmp_path)


def test_errors_in_make_pass_through_unchanged(tmp_path: Path) -> None:
    """Errors in `make` are raised unchanged, and the lock is released."""

    def make() -> dict[str, np.ndarray[Any, Any]]:
        raise OSError("source gone")

    with pytest.raises(OSError, match="source gone"):
        load_or_make("numbers", make, tmp_path)
    _check(load_or_make("numbers", _numbers, tmp_path))


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings take precedence over the environment, and that over the home folder; paths become absolute."""
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
