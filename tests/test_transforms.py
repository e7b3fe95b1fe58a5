"""Each transformation of pictures against torchvision or slices, and how it uses its random numbers."""

import math
from collections.abc import Callable

import pytest
import torch
import torchvision.transforms.v2.functional as F
from torch import Tensor

from retain.platform.config.load import build_config
from retain.platform.data.augmentation import affine, colour, policies, spatial, tones
from retain.platform.data.augmentation.pipeline import apply_all
from retain.platform.data.augmentation.presets import TRANSFORMATIONS

B, C, H, W = 6, 3, 24, 32


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Return uniform random numbers."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def x() -> Tensor:
    """Return pictures (6, 3, 24, 32) in whole 255ths: noise, a smooth one, one of few values, one of a single value."""
    made = draw(B, C, H, W).mul(256).floor() / 255
    made[1] = torch.linspace(0, 1, W).mul(255).round() / 255
    made[2] = made[2].mul(4).floor().mul(64) / 255
    made[3] = 60 / 255
    return made.float().clamp(0, 1)


def each(function: Callable[..., Tensor], x: Tensor, *values: Tensor) -> Tensor:
    """Apply a function of one picture and its values to all of them."""
    return torch.stack([function(picture, *(value[i].item() for value in values)) for i, picture in enumerate(x)])


# Each transformation with given parameters, against slices (exact) or torchvision on single pictures.


def test_crop_is_slicing(x: Tensor) -> None:
    top, left = torch.tensor([0, 3, 6, 1, 5, 2]), torch.tensor([6, 3, 0, 2, 1, 4])
    padded = torch.zeros(B, C, H + 6, W + 6)
    padded[:, :, 3:-3, 3:-3] = x
    expected = [
        picture[:, t : t + H, s : s + W] for picture, t, s in zip(padded, top.tolist(), left.tolist(), strict=True)
    ]
    assert torch.equal(spatial.crop(x, top, left, 3), torch.stack(expected))


def test_flip_is_slicing(x: Tensor) -> None:
    u = torch.tensor([0.1, 0.5, 0.49, 0.9, 0.0, 0.7])[:, None]
    expected = x.clone()
    expected[[0, 2, 4]] = x[[0, 2, 4]].flip(3)
    assert torch.equal(spatial.Flip().apply(x, u), expected)
    assert torch.equal(spatial.Flip(p=0.0).apply(x, u), x)


@pytest.mark.parametrize("size", [4, 5])
def test_cutout_is_slicing(x: Tensor, size: int) -> None:
    rows, columns = torch.tensor([0, 23, 10, 1, 20, 12]), torch.tensor([31, 0, 16, 2, 30, 9])
    expected = x.clone()
    for picture, row, column in zip(expected, rows.tolist(), columns.tolist(), strict=True):
        top, left = row - size // 2, column - size // 2
        picture[:, max(top, 0) : top + size, max(left, 0) : left + size] = 0.25
    assert torch.equal(spatial.cutout(x, rows, columns, size, 0.25), expected)


def test_resized_crop_is_torchvisions(x: Tensor) -> None:
    corner = torch.tensor([[0, 0], [3, 5], [12, 20], [0, 31], [23, 0], [4, 4]])
    size = torch.tensor([[24, 32], [10, 7], [12, 12], [24, 1], [1, 32], [13, 9]])
    expected = [
        F.resized_crop(picture, *place, *sides, [H, W], antialias=False)
        for picture, place, sides in zip(x, corner.tolist(), size.tolist(), strict=True)
    ]
    torch.testing.assert_close(spatial.resized_crop(x, corner, size), torch.stack(expected), atol=1e-5, rtol=0)


def test_consecutive_affine_transforms_are_one_resampling_as_in_torchvision(x: Tensor) -> None:
    """Rotate, scale, translate: equal to torchvision's affine for whole pixels; its angle is clockwise."""
    u = draw(B, 4, seed=1)
    u[:, 2] = (torch.tensor([-3, 0, 2, 5, -1, 4]) / W + 0.25) / 0.5
    u[:, 3] = (torch.tensor([1, -4, 0, 3, -2, 2]) / H + 0.25) / 0.5
    ways = [affine.Rotation(degrees=60), affine.Scale(low=0.5, high=1.5), affine.Translation(amount=0.25)]
    moved = apply_all(x, ways, u.split([1, 1, 2], 1))

    def oracle(picture: Tensor, angle: float, scale: float, right: float, down: float) -> Tensor:
        bilinear = F.InterpolationMode.BILINEAR
        return F.affine(picture, -angle, [right, down], scale, [0.0, 0.0], interpolation=bilinear)

    values = [120 * u[:, 0] - 60, 0.5 + u[:, 1], (0.5 * u[:, 2] - 0.25) * W, (0.5 * u[:, 3] - 0.25) * H]
    torch.testing.assert_close(moved, each(oracle, x, *values), atol=2e-4, rtol=0)
    alone = [ways[0].apply(x, u[:, :1])]
    for way, columns in ((ways[1], u[:, 1:2]), (ways[2], u[:, 2:])):
        alone.append(way.apply(alone[-1], columns))
    assert not torch.allclose(alone[-1], moved, atol=0.01)  # resampled three times: blurred


def test_transforms_between_affine_ones_keep_their_position(x: Tensor) -> None:
    ways = [affine.Rotation(degrees=90), spatial.Crop(padding=6), affine.Scale(low=0.5, high=1.5), colour.Brightness()]
    draws = draw(B, 5, seed=8).split([1, 2, 1, 1], 1)
    expected = x
    for way, u in zip(ways, draws, strict=True):
        expected = way.apply(expected, u)
    torch.testing.assert_close(apply_all(x, ways, draws), expected, atol=1e-6, rtol=0)


def test_rotation_is_counter_clockwise(x: Tensor) -> None:
    square = x[:, :, :, :H]
    turned = affine.warp(square, affine.rotation(torch.full((B,), 90.0)))
    torch.testing.assert_close(turned, torch.rot90(square, 1, (2, 3)), atol=1e-4, rtol=0)


def test_displacement_is_torchvisions(x: Tensor) -> None:
    way = (0.3 * draw(B, H, W, 2, seed=2) - 0.15).float()
    expected = torch.stack([F.elastic(picture, by[None]) for picture, by in zip(x, way, strict=True)])
    torch.testing.assert_close(affine.displace(x, way), expected, atol=1e-5, rtol=0)


def test_elastic_moves_the_corners_by_their_points(x: Tensor) -> None:
    """All points have the number 1/2, no displacement, except the upper left one: pixels far from it do not change."""
    u = torch.full((B, 2 * 16), 0.5, dtype=torch.float64)
    assert torch.allclose(affine.Elastic().apply(x, u), x, atol=1e-5)
    u[:, 0] = 1.0  # the corner's pixel comes from `amount` of the side to the right
    ramp = (torch.arange(W) / (W - 1)).expand(B, C, H, W)
    moved = affine.Elastic(amount=0.1).apply(ramp, u)
    torch.testing.assert_close(moved[:, 0, 0, 0], torch.full((B,), 0.1 * W / (W - 1)), atol=1e-4, rtol=0)
    torch.testing.assert_close(moved[:, :, 18:, 24:], ramp[:, :, 18:, 24:], atol=1e-4, rtol=0)


FACTORS = torch.tensor([0.2, 0.7, 1.0, 1.3, 1.9, 0.0], dtype=torch.float64)
TURNS = torch.tensor([-0.5, -0.2, 0.0, 0.1, 0.35, 0.5], dtype=torch.float64)
POINTWISE: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], Tensor]] = {
    "brightness": (colour.brightness, F.adjust_brightness, FACTORS),
    "contrast": (colour.contrast, F.adjust_contrast, FACTORS),
    "colour": (colour.colour, F.adjust_saturation, FACTORS),
    "hue": (colour.hue, F.adjust_hue, TURNS),
    "sharpness": (tones.sharpness, F.adjust_sharpness, FACTORS),
}


@pytest.mark.parametrize("name", POINTWISE)
def test_colours_are_torchvisions(name: str, x: Tensor) -> None:
    ours, theirs, values = POINTWISE[name]
    torch.testing.assert_close(ours(x, values), each(theirs, x, values), atol=2e-5, rtol=0)


def test_grey_is_torchvisions(x: Tensor) -> None:
    u = torch.tensor([0.1, 0.9, 0.1, 0.9, 0.1, 0.9])[:, None]
    expected = torch.where(u.view(-1, 1, 1, 1) < 0.2, F.rgb_to_grayscale(x, 3), x)
    torch.testing.assert_close(colour.Greyscale().apply(x, u), expected, atol=1e-6, rtol=0)


def test_one_channel_has_contrast_and_no_colour(x: Tensor) -> None:
    grey = x[:, :1]
    torch.testing.assert_close(
        colour.contrast(grey, FACTORS), each(F.adjust_contrast, grey, FACTORS), atol=1e-5, rtol=0
    )
    assert torch.allclose(colour.colour(grey, FACTORS), grey)


def test_blur_is_torchvisions(x: Tensor) -> None:
    sigma = torch.tensor([0.1, 0.5, 1.0, 1.5, 2.0, 0.8], dtype=torch.float64)
    expected = each(lambda picture, s: F.gaussian_blur(picture, [17, 17], [s, s]), x, sigma)
    torch.testing.assert_close(colour.blur(x, sigma), expected, atol=1e-5, rtol=0)


BITS = torch.tensor([1, 2, 3, 4, 6, 8], dtype=torch.float64)
TONES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "posterize": (
        lambda x: tones.posterize(x, BITS),
        lambda x: each(lambda one, bits: F.posterize(one, int(bits)), x, BITS),
    ),
    "solarize": (
        lambda x: tones.solarize(x, 31 * BITS),
        lambda x: each(lambda one, bits: F.solarize(one, 31 * bits), x, BITS),
    ),
    "autocontrast": (tones.autocontrast, F.autocontrast),
    "equalize": (tones.equalize, F.equalize),
}


@pytest.mark.parametrize("name", TONES)
def test_tones_are_torchvisions_on_bytes(name: str, x: Tensor) -> None:
    """On 256 levels, as in Pillow; autocontrast is not rounded to them."""
    ours, theirs = TONES[name]
    expected = theirs((x * 255).round().to(torch.uint8)).float() / 255
    noisy = (x + 1e-6 * (draw(B, C, H, W, seed=3) - 0.5)).float().clamp(0, 1)  # as after normalising and back
    for inputs in (x, noisy):
        torch.testing.assert_close(ours(inputs), expected, atol=1 / 255 if name == "autocontrast" else 1e-5, rtol=0)


def test_randaugment_samples_operations_for_each_sample(x: Tensor) -> None:
    names = list(policies.RANDAUGMENT)
    which = [("rotate", "solarize"), ("equalize", "identity"), ("colour", "shear_x")]
    u = torch.tensor([[(names.index(n) + 0.5) / 14 if i == 0 else 0.2 for n in two for i in (0, 1)] for two in which])
    made = policies.RandAugment(magnitude=15).apply(x[:3], u.double())
    for sample, two in zip((0, 1, 2), which, strict=True):
        expected = x[sample : sample + 1]
        for name in two:
            expected = policies.RANDAUGMENT[name](expected, torch.tensor([-0.5], dtype=torch.float64))
        torch.testing.assert_close(made[sample : sample + 1], expected, atol=1e-5, rtol=0)


BILINEAR = F.InterpolationMode.BILINEAR
STRENGTHS: dict[str, dict[str, Callable[[Tensor], Tensor]]] = {
    "randaugment": {
        "rotate": lambda x: F.rotate(x, 15.0, interpolation=BILINEAR),
        "shear_x": lambda x: _sheared(x, [-math.degrees(math.atan(0.15)), 0.0]),
        "shear_y": lambda x: _sheared(x, [0.0, -math.degrees(math.atan(0.15))]),
        "translate_x": lambda x: _moved(x, [W * 75 / 331, 0.0]),
        "translate_y": lambda x: _moved(x, [0.0, H * 75 / 331]),
        "brightness": lambda x: F.adjust_brightness(x, 1.45),
        "colour": lambda x: F.adjust_saturation(x, 1.45),
        "contrast": lambda x: F.adjust_contrast(x, 1.45),
        "sharpness": lambda x: F.adjust_sharpness(x, 1.45),
        "posterize": lambda x: F.posterize((x * 255).round().to(torch.uint8), 6) / 255,
        "solarize": lambda x: F.solarize(x, 127.5 / 255),
    },
    "augmix": {
        "rotate": lambda x: F.rotate(x, 15.0, interpolation=BILINEAR),
        "shear_x": lambda x: _sheared(x, [-math.degrees(math.atan(0.15)), 0.0]),
        "shear_y": lambda x: _sheared(x, [0.0, -math.degrees(math.atan(0.15))]),
        "translate_x": lambda x: _moved(x, [W / 6, 0.0]),
        "translate_y": lambda x: _moved(x, [0.0, H / 6]),
        "posterize": lambda x: F.posterize((x * 255).round().to(torch.uint8), 2) / 255,
        "solarize": lambda x: F.solarize((x * 255).round().to(torch.uint8), 128.0) / 255,
    },
}


@pytest.mark.parametrize(("policy", "name"), [(policy, name) for policy in STRENGTHS for name in STRENGTHS[policy]])
def test_strengths_are_those_of_the_sources(policy: str, name: str, x: Tensor) -> None:
    """At half of the maximum: torchvision's table (its shears are about the centre, in the other order), and AugMix's."""
    operations = policies.RANDAUGMENT if policy == "randaugment" else policies.AUGMIX
    made = operations[name](x, torch.full((B,), 0.5, dtype=torch.float64))
    torch.testing.assert_close(made, STRENGTHS[policy][name](x), atol=2e-4, rtol=0)


def _moved(x: Tensor, by: list[float]) -> Tensor:
    return F.affine(x, 0.0, by, 1.0, [0.0, 0.0], interpolation=BILINEAR)


def _sheared(x: Tensor, degrees: list[float]) -> Tensor:
    return F.affine(x, 0.0, [0.0, 0.0], 1.0, degrees, interpolation=BILINEAR)


def test_augmix_mixes_as_its_random_numbers_say(x: Tensor) -> None:
    """Three chains with weights 1/6, 2/6, 3/6 of one, two and three operations; 0.25 of the picture is the mix."""
    names = list(policies.AUGMIX)
    chains = [(["equalize"], 1), (["rotate", "autocontrast"], 2), (["solarize", "shear_y", "translate_x"], 3)]
    row, expected = [0.25], 0.75 * x
    for used, weight in chains:
        row += [1 - math.exp(-0.1 * weight), (len(used) - 0.5) / 3]
        chain = x
        for number in range(3):
            name = used[number] if number < len(used) else "posterize"
            row += [(names.index(name) + 0.5) / 9, 0.5, 0.7]
            if number < len(used):  # halfway from 0.1 to 3, of 10
                chain = policies.AUGMIX[name](chain, torch.full((B,), 0.155, dtype=torch.float64))
        expected = expected + 0.25 * weight / 6 * chain
    made = policies.AugMix().apply(x, torch.tensor([row] * B, dtype=torch.float64))
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=0)


# The use of random numbers.


@pytest.mark.parametrize("name", TRANSFORMATIONS)
@pytest.mark.parametrize("shape", [(3, 24, 32), (1, 20, 20)])
def test_every_transformation(name: str, shape: tuple[int, ...], x: Tensor) -> None:
    """With default settings: a changed picture of the same type, different per sample, independent of the mini-batch."""
    transformation = build_config(TRANSFORMATIONS[name], {})
    try:
        transformation.check_shape(shape)
    except ValueError as error:
        assert shape[0] == 1 and "three colour channels; these have 1" in str(error)
        return
    pictures = x[:1, : shape[0], : shape[1], : shape[2]].repeat(40, 1, 1, 1)
    before, u = pictures.clone(), draw(40, transformation.num_draws, seed=4)
    made = transformation.apply(pictures, u)
    assert torch.equal(pictures, before)
    assert made.shape == pictures.shape and made.dtype == torch.float32
    assert made.min() >= -1e-5 and made.max() <= 1 + 1e-5
    assert len({picture.numpy().tobytes() for picture in made}) >= (2 if hasattr(transformation, "p") else 25)
    for rows in (torch.tensor([7]), torch.arange(39, -1, -1)):
        torch.testing.assert_close(transformation.apply(pictures[rows], u[rows]), made[rows], atol=2e-5, rtol=0)


def test_random_parameters_have_the_documented_distribution(x: Tensor) -> None:
    n = 20000
    u = draw(n, 4, seed=5)
    crops = (u[:, :2] * 9).long()
    assert crops.unique().tolist() == list(range(9))
    spots = torch.arange(H * W).view(1, 1, H, W).float().expand(n, 1, H, W)[:200] + 1
    tops = spatial.Crop(padding=2).apply(spots, draw(200, 2, seed=6))[:, 0, 2, 2]  # which pixel is there now
    assert sorted({int(v) - 1 for v in tops}) == [W * row + column for row in range(5) for column in range(5)]
    angles = affine.Rotation(degrees=20).matrix(u, (H, W))[:, 0, 1].asin() * 180 / math.pi
    assert angles.abs().max() < 20 and abs(angles.mean()) < 0.4 and abs(angles.std() - 40 / 12**0.5) < 0.2
    factors = colour.Colour(amount=0.4).factors(u)
    assert 0.6 <= factors.min() < 0.601 and 1.399 < factors.max() < 1.4 and abs(factors.mean() - 1) < 0.01
    moved = affine.Translation(amount=0.1).matrix(u, (H, W))[:, :2, 2]
    assert (moved.abs().amax(0) - torch.tensor([0.1 * W, 0.1 * H])).abs().max() < 0.01
    tiny = x[:1, :, :4, :4].repeat(n, 1, 1, 1)
    for transformation, p in ((spatial.Flip(p=0.3), 0.3), (colour.Greyscale(), 0.2)):
        changed = (transformation.apply(tiny, u) != tiny).flatten(1).any(1).float().mean()
        assert abs(changed - p) < 0.015


def test_resized_crops_have_the_documented_area(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Tensor, Tensor]] = []
    monkeypatch.setattr(spatial, "resized_crop", lambda x, corner, size: seen.append((corner, size)) or x)
    spatial.RandomResizedCrop(low=0.2, high=0.5).apply(torch.zeros(5000, 3, 64, 64), draw(5000, 4))
    corner, size = seen[0]
    area, ratio = size.prod(1) / 64**2, size[:, 1] / size[:, 0]
    assert 0.18 < area.min() < 0.22 and 0.48 < area.max() < 0.52 and abs(area.mean() - 0.35) < 0.01
    assert 0.7 < ratio.min() < 0.78 and 1.28 < ratio.max() < 1.4 and abs(ratio.log().mean()) < 0.01
    assert corner.min() == 0 and (corner + size).max() == 64
