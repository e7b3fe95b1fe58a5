"""Corruptions and styles: each against a second implementation, all of them deterministic."""

from io import BytesIO
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch.nn import functional as F

from retain.platform.config import registry
from retain.platform.data import corruptions, image_filters, image_styles
from retain.platform.data.cache import DataFolders
from retain.platform.data.corruptions import Corruption, corrupt
from retain.platform.data.image_styles import Style, restyle
from retain.platform.data.streams import Stream

NAMES = [name for name in get_args(Corruption) if name != "none"]
Pictures = np.ndarray[Any, np.dtype[np.uint8]]


def pictures(count: int = 6, channels: int = 3, height: int = 32, width: int = 32, seed: int = 0) -> Pictures:
    """Return smooth pictures with all values, like photographs."""
    rough = np.random.default_rng(seed).random((count, channels, height, width))
    smooth = ndimage.gaussian_filter(rough, (0, 0, 2, 2))
    low, high = smooth.min((1, 2, 3), keepdims=True), smooth.max((1, 2, 3), keepdims=True)
    return np.round((smooth - low) / (high - low) * 255).astype(np.uint8)


def change(name: Any, severity: int, x: Pictures) -> float:
    """Return the mean absolute change."""
    return float(np.abs(corrupt(name, severity, x).astype(float) - x).mean())


# --- all corruptions ---


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (1, 8, 8), (2, 7, 9)], ids=str)
def test_any_shape(name: Any, shape: tuple[int, ...]) -> None:
    """The results are bytes of the same shape, and each picture changes; the input is not modified."""
    channels = shape[0]
    if name == "jpeg" and channels == 2:
        pytest.skip("JPEG has one channel or three")
    x = pictures(3, *shape)
    before = x.copy()
    corrupted = corrupt(name, 5, x)
    assert (corrupted.dtype, corrupted.shape) == (np.uint8, x.shape)
    assert np.array_equal(x, before)
    assert all((one != other).any() for one, other in zip(corrupted, x, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_corruption_of_a_picture_is_deterministic(name: Any) -> None:
    """It does not depend on the other pictures or on chunks; if it is random, another part or position gives another result."""
    x = np.concatenate([pictures(2, 1, 9, 9)] * 130)
    corrupted = corrupt(name, 3, x, "train")
    assert np.array_equal(corrupted[:3], corrupt(name, 3, x[:3], "train"))
    assert np.array_equal(
        corrupted[255:258], corrupt(name, 3, np.concatenate([x[1:2]] * 255 + [x[255:258]]), "train")[255:]
    )
    draws = {"gaussian_noise", "shot_noise", "impulse_noise", "motion_blur", "fog", "elastic"}
    assert np.array_equal(corrupted[7:9], corrupt(name, 3, x[7:9], "train", 7))
    assert np.array_equal(corrupted[0], corrupted[2]) == (name not in draws)
    assert np.array_equal(corrupted[:6], corrupt(name, 3, x[:6], "test")) == (name not in draws)


@pytest.mark.parametrize("name", NAMES)
def test_severities_rise(name: Any) -> None:
    """1 changes a picture less than 5. (elastic is left out: its first strength is a coarse shift, the last a fine one.)"""
    if name != "elastic":
        x = pictures(20)
        changes = [change(name, severity, x) for severity in (1, 3, 5)]
        assert changes == sorted(changes)
        assert changes[0] > 0


# --- each against a second implementation ---


def test_noises_have_the_stated_strength() -> None:
    """Standard deviation, photons' variance mean / count, share of changed values."""
    grey = np.full((40, 3, 32, 32), 128, dtype=np.uint8)
    gauss = corrupt("gaussian_noise", 5, grey) / 255
    assert gauss.std() == pytest.approx(0.10, rel=0.02)
    assert gauss.mean() == pytest.approx(128 / 255, abs=1e-3)
    shot = corrupt("shot_noise", 3, grey) / 255
    assert shot.std() == pytest.approx((128 / 255 / 100) ** 0.5, rel=0.02)
    impulse = corrupt("impulse_noise", 5, grey)
    assert [(impulse == value).mean() for value in (0, 255)] == pytest.approx([0.035, 0.035], rel=0.1)
    assert set(np.unique(impulse)) == {0, 128, 255}


@pytest.mark.parametrize(("severity", "sigma"), [(1, 0.4), (5, 1.0)])
def test_gaussian_blur_is_scipys(severity: int, sigma: float) -> None:
    x = pictures()
    expected = ndimage.gaussian_filter(x.astype(float), (0, 0, sigma, sigma), mode="nearest", truncate=4)
    assert np.abs(corrupt("gaussian_blur", severity, x) - expected).max() <= 0.5 + 1e-6


def test_blur_scales_up_with_the_picture_and_never_down() -> None:
    x = pictures(1, 1, 96, 64)
    expected = ndimage.gaussian_filter(x.astype(float), (0, 0, 2.0, 2.0), mode="nearest", truncate=4)
    assert np.abs(corrupt("gaussian_blur", 5, x) - expected).max() <= 0.5 + 1e-6
    small = pictures(1, 1, 8, 8)
    expected = ndimage.gaussian_filter(small.astype(float), (0, 0, 1.0, 1.0), mode="nearest", truncate=4)
    assert np.abs(corrupt("gaussian_blur", 5, small) - expected).max() <= 0.5 + 1e-6


def test_disk_by_hand() -> None:
    """With little softening, 9 pixels lie within 1.5 of the middle and 5 within 1; the weights sum to 1."""
    wide, narrow = image_filters.disk(1.5, 0.05), image_filters.disk(1.0, 0.05)
    assert np.round(wide * 9, 6).tolist() == np.pad(np.ones((3, 3)), (wide.shape[0] - 3) // 2).tolist()
    assert np.isclose(narrow, 0.2).sum() == 5
    soft = image_filters.disk(0.3, 0.4)
    tap = np.exp(-0.5 * (np.arange(-1, 2) / 0.4) ** 2)
    assert np.allclose(soft, np.outer(tap, tap) / tap.sum() ** 2)


def test_convolution_is_scipys() -> None:
    x, kernel = np.random.default_rng(0).random((2, 2, 9, 7)), image_filters.disk(2.2, 0.5)
    expected = np.stack([[ndimage.correlate(c, kernel, mode="nearest") for c in picture] for picture in x])
    assert np.allclose(image_filters.convolve(x, kernel), expected)


def test_sampling_is_scipys() -> None:
    generator = np.random.default_rng(0)
    x, (rows, columns) = generator.random((3, 2, 9, 7)), generator.uniform(-3, 12, (2, 3, 9, 7))
    expected = [
        [ndimage.map_coordinates(c, [r, k], order=1, mode="nearest") for c in picture]
        for picture, r, k in zip(x, rows, columns, strict=True)
    ]
    assert np.allclose(image_filters.bilinear_sample(x, rows, columns), expected)


def test_motion_blur_of_a_line() -> None:
    """Along its direction the inside of a line does not change; across it each row is the weighted mean of the passed rows."""
    weights = np.exp(-0.5 * (np.arange(10) / 2.5) ** 2)
    x = np.zeros((1, 1, 1, 32), dtype=np.uint8)
    x[..., 16:] = 255  # an edge: the right side trails to the left, by the cosine of the angle
    blurred = corrupt("motion_blur", 5, x)[0, 0, 0] / 255
    assert blurred[16:].min() == 1
    assert blurred[15] < 1 - weights[0] / weights.sum() + 0.01
    assert (np.diff(blurred) >= 0).all() and blurred[:5].max() == 0


def test_zoom_blur_is_the_mean_of_enlarged_pictures() -> None:
    """Against torch's sampling of a smaller grid."""
    x = pictures()
    tensor = torch.from_numpy(x).double()
    total = tensor.clone()
    for percent in range(6):
        theta = torch.eye(2, 3, dtype=torch.float64).expand(len(x), 2, 3) / (1 + percent / 100)
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        total += F.grid_sample(tensor, grid, align_corners=False, padding_mode="border")
    assert np.abs(corrupt("zoom_blur", 1, x) - (total / 7).numpy()).max() <= 0.5 + 1e-6


def test_clouds() -> None:
    """From 0 to 1; a quick decay leaves them smooth; by hand on two by two pixels."""
    noise = np.random.default_rng(0).uniform(-1, 1, (4, 32, 32))
    smooth, rough = image_filters.plasma(noise, 3), image_filters.plasma(noise, 1.2)
    assert np.allclose([smooth.min((1, 2)), smooth.max((1, 2))], [[0] * 4, [1] * 4])
    assert np.abs(np.diff(smooth, axis=2)).mean() < 0.5 * np.abs(np.diff(rough, axis=2)).mean()
    tiny = np.array([[[9.0, 0.5], [0.25, 1.0]]])  # the corner's own noise is not used
    # centre 1; right of the corner (0 + 0 + 1 + 1) / 4 + 0.5 = 1; below it 0.5 + 0.25 = 0.75
    assert np.allclose(image_filters.plasma(tiny, 2), [[[0, 1], [0.75, 1]]])


def test_fog_keeps_the_largest_value_and_lifts_the_darkest() -> None:
    x = pictures(8)
    foggy = corrupt("fog", 3, x)
    assert (foggy.max((1, 2, 3)) <= x.max((1, 2, 3))).all()
    assert (foggy.mean((1, 2, 3)) > 60).all()
    assert foggy.std() < x.std()


def test_brightness_and_contrast_by_hand() -> None:
    x = np.array([[[[0, 100]], [[0, 50]], [[0, 200]]]], dtype=np.uint8)
    bright = corrupt("brightness", 4, x)  # value 0 -> 51, 200 -> 251; the ratios stay
    assert bright[0, :, 0].tolist() == [[51, 126], [51, 63], [51, 251]]
    flat = corrupt("contrast", 4, x)  # 0.3 of the distance from the channel's mean
    assert flat[0, :, 0].tolist() == [[35, 65], [18, 32], [70, 130]]


def test_elastic_moves_and_does_not_mix_pictures() -> None:
    """A uniform picture does not change; severity 1 is an affine map: a plane stays a plane inside."""
    assert (corrupt("elastic", 5, np.full((3, 1, 32, 32), 77, dtype=np.uint8)) == 77).all()
    plane = np.broadcast_to(np.arange(32, dtype=np.uint8) * 8, (2, 1, 32, 32)).copy()
    inside = corrupt("elastic", 1, plane)[:, 0, 10:22, 10:22].astype(float)
    assert np.abs(np.diff(inside, n=2, axis=2)).max() <= 2 and np.abs(np.diff(inside, n=2, axis=1)).max() <= 2
    assert change("elastic", 1, plane) > 1


@pytest.mark.parametrize(("severity", "side"), [(1, 30), (5, 20)])
def test_pixelate_is_pils_box_filter(severity: int, side: int) -> None:
    x = pictures()
    for picture, pixelated in zip(x, corrupt("pixelate", severity, x), strict=True):
        small = Image.fromarray(picture.transpose(1, 2, 0)).resize((side, side), Image.Resampling.BOX)
        expected = np.asarray(small.resize((32, 32), Image.Resampling.BOX)).transpose(2, 0, 1)
        assert np.abs(pixelated.astype(int) - expected).max() <= 2  # PIL rounds in between


def test_jpeg_is_pils() -> None:
    x = pictures(2)
    packed = BytesIO()
    Image.fromarray(x[1].transpose(1, 2, 0)).save(packed, "JPEG", quality=58)
    assert np.array_equal(corrupt("jpeg", 3, x)[1], np.asarray(Image.open(packed)).transpose(2, 0, 1))


# --- styles ---


def test_styles_by_hand() -> None:
    """One black, one white and one orange pixel."""
    x = np.array([[[[0, 255, 255]], [[0, 255, 128]], [[0, 255, 0]]]], dtype=np.uint8)
    expected: dict[Style, list[list[int]]] = {
        "as_is": [[0, 255, 255], [0, 255, 128], [0, 255, 0]],
        "inverted": [[255, 0, 0], [255, 0, 127], [255, 0, 255]],
        "hue_rotated": [[0, 255, 0], [0, 255, 255], [0, 255, 128]],  # orange becomes spring green
        "posterised": [[0, 255, 255], [0, 255, 170], [0, 255, 0]],
        # brightness 0, 255, 151: between (32, 40, 96) and (255, 208, 64)
        "tinted": [[32, 255, 164], [40, 208, 139], [96, 64, 77]],
    }
    for style, values in expected.items():
        assert restyle(style, x)[0, :, 0].tolist() == values, style
    assert set(expected) | {"sketch"} == set(get_args(Style))


def test_sketch_is_scipys_sobel() -> None:
    x = pictures()
    grey = image_styles.brightness(x.astype(np.int32))
    slopes = [np.stack([np.abs(ndimage.sobel(g, axis, mode="nearest")) for g in grey]) for axis in (0, 1)]
    expected = 255 - np.minimum(255, (slopes[0] + slopes[1]) // 4)
    assert np.array_equal(restyle("sketch", x), np.repeat(expected[:, None], 3, axis=1))


@pytest.mark.parametrize("style", get_args(Style))
def test_grey_pictures_become_coloured(style: Style) -> None:
    x = pictures(1030, 1, 4, 4)
    restyled = restyle(style, x)
    assert (restyled.dtype, restyled.shape) == (np.uint8, (1030, 3, 4, 4))
    assert np.array_equal(restyled, restyle(style, np.repeat(x, 3, axis=1)))
    assert np.array_equal(restyled[-3:], restyle(style, x[-3:]))


# --- streams of them ---


def build(name: str, folders: DataFolders, **settings: Any) -> Stream:
    """Return a stream of changed digits."""
    module = registry.resolve("benchmarks", name)
    stream: Stream = module.build(module.Config(data="digits", **settings), 0, folders)
    return stream


def test_corrupted_digits_are_prepared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both parts; the first domain is the unchanged data; the second time nothing is computed."""
    folders = DataFolders(None, tmp_path)
    settings = {"corruptions": ("none", "gaussian_noise", "contrast"), "severity": 2}
    stream = build("corrupted", folders, **settings)
    assert [e.name for e in stream.experiences] == ["none", "gaussian_noise 2", "contrast 2"]
    plain = stream.experiences[0]
    for experience in stream.experiences[1:]:
        name = experience.name.removesuffix(" 2")
        for part in ("train", "test"):
            expected = corrupt(name, 2, getattr(plain, part).arrays.x.numpy(), part)  # type: ignore[arg-type]
            assert np.array_equal(getattr(experience, part).arrays.x.numpy(), expected)
    monkeypatch.setattr(corruptions, "_CORRUPTIONS", {})
    again = build("corrupted", folders, **settings)
    assert torch.equal(again.experiences[1].test.arrays.x, stream.experiences[1].test.arrays.x)


def test_restyled_digits_have_three_channels(tmp_path: Path) -> None:
    stream = build("restyled", DataFolders(None, tmp_path), styles=("as_is", "tinted"))
    assert (stream.shape, len(stream.mean), len(stream.std)) == ((3, 8, 8), 3, 3)
    x = stream.experiences[1].train.arrays.x
    assert stream.normalise(x[:2]).shape == (2, 3, 8, 8)
    assert np.array_equal(x.numpy(), restyle("tinted", stream.experiences[0].train.arrays.x.numpy()))
