"""Each transformation of pictures against torchvision or slices, and what it does with the numbers that it draws."""

import math
from collections.abc import Callable

import pytest
import torch
import torchvision.transforms.v2.functional as F
from torch import Tensor

from retain.platform.config.load import build_config
from retain.platform.data.augmentation import affine, colour, policies, spatial, tones
from retain.platform.data.augmentation.pipeline import transformed
from retain.platform.data.augmentation.presets import TRANSFORMATIONS

B, C, H, W = 6, 3, 24, 32


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Uniform numbers."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def x() -> Tensor:
    """Pictures (6, 3, 24, 32) in whole 255ths: noise, a smooth one, one of few values, one of a single value."""
    made = draw(B, C, H, W).mul(256).floor() / 255
    made[1] = torch.linspace(0, 1, W).mul(255).round() / 255
    made[2] = made[2].mul(4).floor().mul(64) / 255
    made[3] = 60 / 255
    return made.float().clamp(0, 1)


def each(function: Callable[..., Tensor], x: Tensor, *values: Tensor) -> Tensor:
    """A function of one picture and its values, over all of them."""
    return torch.stack([function(one, *(value[i].item() for value in values)) for i, one in enumerate(x)])


# Each transformation with given parameters, against slices (exact) or torchvision on single pictures.


def test_crop_is_slicing(x: Tensor) -> None:
    top, left = torch.tensor([0, 3, 6, 1, 5, 2]), torch.tensor([6, 3, 0, 2, 1, 4])
    padded = torch.zeros(B, C, H + 6, W + 6)
    padded[:, :, 3:-3, 3:-3] = x
    wanted = [one[:, t : t + H, s : s + W] for one, t, s in zip(padded, top.tolist(), left.tolist(), strict=True)]
    assert torch.equal(spatial.crop(x, top, left, 3), torch.stack(wanted))


def test_flip_is_slicing(x: Tensor) -> None:
    u = torch.tensor([0.1, 0.5, 0.49, 0.9, 0.0, 0.7])[:, None]
    wanted = x.clone()
    wanted[[0, 2, 4]] = x[[0, 2, 4]].flip(3)
    assert torch.equal(spatial.Flip().apply(x, u), wanted)
    assert torch.equal(spatial.Flip(p=0.0).apply(x, u), x)


@pytest.mark.parametrize("size", [4, 5])
def test_cutout_is_slicing(x: Tensor, size: int) -> None:
    rows, columns = torch.tensor([0, 23, 10, 1, 20, 12]), torch.tensor([31, 0, 16, 2, 30, 9])
    wanted = x.clone()
    for one, row, column in zip(wanted, rows.tolist(), columns.tolist(), strict=True):
        top, left = row - size // 2, column - size // 2
        one[:, max(top, 0) : top + size, max(left, 0) : left + size] = 0.25
    assert torch.equal(spatial.cutout(x, rows, columns, size, 0.25), wanted)


def test_resized_crop_is_torchvisions(x: Tensor) -> None:
    corner = torch.tensor([[0, 0], [3, 5], [12, 20], [0, 31], [23, 0], [4, 4]])
    size = torch.tensor([[24, 32], [10, 7], [12, 12], [24, 1], [1, 32], [13, 9]])
    wanted = [
        F.resized_crop(one, *place, *sides, [H, W], antialias=False)
        for one, place, sides in zip(x, corner.tolist(), size.tolist(), strict=True)
    ]
    torch.testing.assert_close(spatial.resized_crop(x, corner, size), torch.stack(wanted), atol=1e-5, rtol=0)


def test_affine_ones_together_are_torchvisions_one_resampling(x: Tensor) -> None:
    """Turn, then scale, then move: what torchvision's affine does with whole pixels; its angle goes clockwise."""
    u = draw(B, 4, seed=1)
    u[:, 2] = (torch.tensor([-3, 0, 2, 5, -1, 4]) / W + 0.25) / 0.5
    u[:, 3] = (torch.tensor([1, -4, 0, 3, -2, 2]) / H + 0.25) / 0.5
    ways = [affine.Rotation(degrees=60), affine.Scale(low=0.5, high=1.5), affine.Translation(amount=0.25)]
    moved = transformed(x, ways, u.split([1, 1, 2], 1))

    def wanted(one: Tensor, angle: float, scale: float, right: float, down: float) -> Tensor:
        bilinear = F.InterpolationMode.BILINEAR
        return F.affine(one, -angle, [right, down], scale, [0.0, 0.0], interpolation=bilinear)

    values = [120 * u[:, 0] - 60, 0.5 + u[:, 1], (0.5 * u[:, 2] - 0.25) * W, (0.5 * u[:, 3] - 0.25) * H]
    torch.testing.assert_close(moved, each(wanted, x, *values), atol=2e-4, rtol=0)
    alone = [ways[0].apply(x, u[:, :1])]
    for way, columns in ((ways[1], u[:, 1:2]), (ways[2], u[:, 2:])):
        alone.append(way.apply(alone[-1], columns))
    assert not torch.allclose(alone[-1], moved, atol=0.01)  # resampled three times: blurred


def test_what_stands_between_affine_ones_keeps_its_place(x: Tensor) -> None:
    ways = [affine.Rotation(degrees=90), spatial.Crop(padding=6), affine.Scale(low=0.5, high=1.5), colour.Brightness()]
    draws = draw(B, 5, seed=8).split([1, 2, 1, 1], 1)
    wanted = x
    for way, u in zip(ways, draws, strict=True):
        wanted = way.apply(wanted, u)
    torch.testing.assert_close(transformed(x, ways, draws), wanted, atol=1e-6, rtol=0)


def test_rotation_is_counter_clockwise(x: Tensor) -> None:
    square = x[:, :, :, :H]
    turned = affine.warp(square, affine.rotation(torch.full((B,), 90.0)))
    torch.testing.assert_close(turned, torch.rot90(square, 1, (2, 3)), atol=1e-4, rtol=0)


def test_displacement_is_torchvisions(x: Tensor) -> None:
    way = (0.3 * draw(B, H, W, 2, seed=2) - 0.15).float()
    wanted = torch.stack([F.elastic(one, by[None]) for one, by in zip(x, way, strict=True)])
    torch.testing.assert_close(affine.displace(x, way), wanted, atol=1e-5, rtol=0)


def test_elastic_moves_the_corners_by_their_points(x: Tensor) -> None:
    """Every point draws 1/2, which is no way, but the one at the upper left: what is far from it stays."""
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
    wanted = torch.where(u.view(-1, 1, 1, 1) < 0.2, F.rgb_to_grayscale(x, 3), x)
    torch.testing.assert_close(colour.Greyscale().apply(x, u), wanted, atol=1e-6, rtol=0)


def test_one_channel_has_contrast_and_no_colour(x: Tensor) -> None:
    grey = x[:, :1]
    torch.testing.assert_close(
        colour.contrast(grey, FACTORS), each(F.adjust_contrast, grey, FACTORS), atol=1e-5, rtol=0
    )
    assert torch.allclose(colour.colour(grey, FACTORS), grey)


def test_blur_is_torchvisions(x: Tensor) -> None:
    sigma = torch.tensor([0.1, 0.5, 1.0, 1.5, 2.0, 0.8], dtype=torch.float64)
    wanted = each(lambda one, s: F.gaussian_blur(one, [17, 17], [s, s]), x, sigma)
    torch.testing.assert_close(colour.blur(x, sigma), wanted, atol=1e-5, rtol=0)


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
    wanted = theirs((x * 255).round().to(torch.uint8)).float() / 255
    noisy = (x + 1e-6 * (draw(B, C, H, W, seed=3) - 0.5)).float().clamp(0, 1)  # what normalising and back leaves
    for given in (x, noisy):
        torch.testing.assert_close(ours(given), wanted, atol=1 / 255 if name == "autocontrast" else 1e-5, rtol=0)


def test_randaugment_applies_each_samples_own_operations(x: Tensor) -> None:
    names = list(policies.RANDAUGMENT)
    which = [("rotate", "solarize"), ("equalize", "identity"), ("colour", "shear_x")]
    u = torch.tensor([[(names.index(n) + 0.5) / 14 if i == 0 else 0.2 for n in two for i in (0, 1)] for two in which])
    made = policies.RandAugment(magnitude=15).apply(x[:3], u.double())
    for sample, two in zip((0, 1, 2), which, strict=True):
        wanted = x[sample : sample + 1]
        for name in two:
            wanted = policies.RANDAUGMENT[name](wanted, torch.tensor([-0.5], dtype=torch.float64))
        torch.testing.assert_close(made[sample : sample + 1], wanted, atol=1e-5, rtol=0)


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
    """At half of the highest: torchvision's table (its shears about the centre, the other way first); AugMix's own."""
    operations = policies.RANDAUGMENT if policy == "randaugment" else policies.AUGMIX
    made = operations[name](x, torch.full((B,), 0.5, dtype=torch.float64))
    torch.testing.assert_close(made, STRENGTHS[policy][name](x), atol=2e-4, rtol=0)


def _moved(x: Tensor, by: list[float]) -> Tensor:
    return F.affine(x, 0.0, by, 1.0, [0.0, 0.0], interpolation=BILINEAR)


def _sheared(x: Tensor, degrees: list[float]) -> Tensor:
    return F.affine(x, 0.0, [0.0, 0.0], 1.0, degrees, interpolation=BILINEAR)


def test_augmix_mixes_what_its_draws_say(x: Tensor) -> None:
    """Three chains with weights 1/6, 2/6, 3/6 of one, two and three operations; 0.25 of the picture is the mix."""
    names = list(policies.AUGMIX)
    chains = [(["equalize"], 1), (["rotate", "autocontrast"], 2), (["solarize", "shear_y", "translate_x"], 3)]
    row, wanted = [0.25], 0.75 * x
    for used, weight in chains:
        row += [1 - math.exp(-0.1 * weight), (len(used) - 0.5) / 3]
        chain = x
        for number in range(3):
            name = used[number] if number < len(used) else "posterize"
            row += [(names.index(name) + 0.5) / 9, 0.5, 0.7]
            if number < len(used):  # halfway from 0.1 to 3, of 10
                chain = policies.AUGMIX[name](chain, torch.full((B,), 0.155, dtype=torch.float64))
        wanted = wanted + 0.25 * weight / 6 * chain
    made = policies.AugMix().apply(x, torch.tensor([row] * B, dtype=torch.float64))
    torch.testing.assert_close(made, wanted, atol=1e-5, rtol=0)


# What each does with the numbers that it draws.


@pytest.mark.parametrize("name", TRANSFORMATIONS)
@pytest.mark.parametrize("shape", [(3, 24, 32), (1, 20, 20)])
def test_every_transformation(name: str, shape: tuple[int, ...], x: Tensor) -> None:
    """By default: another picture of the same kind, each sample its own, whoever else is in the mini-batch."""
    one = build_config(TRANSFORMATIONS[name], {})
    try:
        one.check_shape(shape)
    except ValueError as error:
        assert shape[0] == 1 and "three colour channels; these have 1" in str(error)
        return
    pictures = x[:1, : shape[0], : shape[1], : shape[2]].repeat(40, 1, 1, 1)
    before, u = pictures.clone(), draw(40, one.num_draws, seed=4)
    made = one.apply(pictures, u)
    assert torch.equal(pictures, before)
    assert made.shape == pictures.shape and made.dtype == torch.float32
    assert made.min() >= -1e-5 and made.max() <= 1 + 1e-5
    assert len({picture.numpy().tobytes() for picture in made}) >= (2 if hasattr(one, "p") else 25)
    for rows in (torch.tensor([7]), torch.arange(39, -1, -1)):
        torch.testing.assert_close(one.apply(pictures[rows], u[rows]), made[rows], atol=2e-5, rtol=0)


def test_draws_are_spread_as_said(x: Tensor) -> None:
    n = 20000
    u = draw(n, 4, seed=5)
    crops = (u[:, :2] * 9).long()
    assert crops.unique().tolist() == list(range(9))
    spots = torch.arange(H * W).view(1, 1, H, W).float().expand(n, 1, H, W)[:200] + 1
    tops = spatial.Crop(padding=2).apply(spots, draw(200, 2, seed=6))[:, 0, 2, 2]  # which pixel came there
    assert sorted({int(v) - 1 for v in tops}) == [W * row + column for row in range(5) for column in range(5)]
    angles = affine.Rotation(degrees=20).matrix(u, (H, W))[:, 0, 1].asin() * 180 / math.pi
    assert angles.abs().max() < 20 and abs(angles.mean()) < 0.4 and abs(angles.std() - 40 / 12**0.5) < 0.2
    factors = colour.Colour(amount=0.4).factors(u)
    assert 0.6 <= factors.min() < 0.601 and 1.399 < factors.max() < 1.4 and abs(factors.mean() - 1) < 0.01
    moved = affine.Translation(amount=0.1).matrix(u, (H, W))[:, :2, 2]
    assert (moved.abs().amax(0) - torch.tensor([0.1 * W, 0.1 * H])).abs().max() < 0.01
    tiny = x[:1, :, :4, :4].repeat(n, 1, 1, 1)
    for one, p in ((spatial.Flip(p=0.3), 0.3), (colour.Greyscale(), 0.2)):
        changed = (one.apply(tiny, u) != tiny).flatten(1).any(1).float().mean()
        assert abs(changed - p) < 0.015


def test_parts_of_a_resized_crop_are_of_the_area_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Tensor, Tensor]] = []
    monkeypatch.setattr(spatial, "resized_crop", lambda x, corner, size: seen.append((corner, size)) or x)
    spatial.RandomResizedCrop(low=0.2, high=0.5).apply(torch.zeros(5000, 3, 64, 64), draw(5000, 4))
    corner, size = seen[0]
    area, ratio = size.prod(1) / 64**2, size[:, 1] / size[:, 0]
    assert 0.18 < area.min() < 0.22 and 0.48 < area.max() < 0.52 and abs(area.mean() - 0.35) < 0.01
    assert 0.7 < ratio.min() < 0.78 and 1.28 < ratio.max() < 1.4 and abs(ratio.log().mean()) < 0.01
    assert corner.min() == 0 and (corner + size).max() == 64
