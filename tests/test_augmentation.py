"""The key `training.augmentation`: its settings, its role in training, and the image sheet that shows it."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from plugins import stopping
from torch import Tensor
from typer.testing import CliRunner

from retain import load_config
from retain.platform import seeding
from retain.platform.cli.app import app
from retain.platform.cli.image_sheet import augmented_rows, experience_rows, write_image_sheet
from retain.platform.cli.listing import list_entries
from retain.platform.config.load import from_dict, to_dict
from retain.platform.config.schema import Experiment
from retain.platform.contract.outcome import assert_same, differences, outcome
from retain.platform.data.augmentation import colour, spatial
from retain.platform.data.augmentation.pipeline import Augmentation, check_stream
from retain.platform.data.augmentation.presets import PRESETS, TRANSFORMATIONS, resolve_transformations
from retain.platform.data.streams import Arrays, Stream
from retain.platform.errors import UserError
from retain.platform.training import plugin_api
from retain.platform.training.plugin import Plugin
from retain.platform.trial.builder import TrialBuilder, build_trial
from retain.platform.trial.resolve import resolve_experiment
from retain.platform.trial.run import run as run_trial
from retain.platform.trial.stop_request import Stopped

Make = Callable[..., Experiment]


# Settings.


def experiment(augmentation: Any, benchmark: str = "split_digits") -> Experiment:
    """Return a config with this key."""
    stream, model = {benchmark: {}}, {"mlp": {}}
    return from_dict({"name": "t", "benchmark": stream, "model": model, "training": {"augmentation": augmentation}})


def test_defaults_are_filled_in() -> None:
    config = resolve_experiment(experiment(["flip", {"crop": {"padding": 2}}, {"blur": None}])).experiment
    assert config.training.augmentation == (
        {"flip": {"p": 0.5}},
        {"crop": {"padding": 2}},
        {"blur": {"p": 0.5, "low": 0.1, "high": 1.0}},
    )
    assert resolve_experiment(config).experiment == config == from_dict(to_dict(config))
    override = "training.augmentation=[flip, {rotation: {degrees: 5}}]"
    names = [name for name, _ in resolve_transformations(load_config("quickstart", [override]))]
    assert names == ["flip", "rotation"]


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name: str) -> None:
    filled = resolve_experiment(experiment(name)).experiment.training.augmentation
    assert isinstance(filled, tuple) and 2 <= len(filled) <= 5
    mirrored = "flip" in {key for item in filled for key in item}
    assert mirrored == (name != "digits")  # a mirrored digit is another one, or none
    assert resolve_experiment(experiment(list(PRESETS[name]))).experiment.training.augmentation == filled


REFUSED = [
    ("cifr", "training.augmentation='cifr': must be a preset (cifar, digits, ", "'cifar'?"),
    (3, "training.augmentation=3: must be ", "string"),
    ([3], "training.augmentation", "=[3]: must be "),
    (
        ["flipp"],
        "training.augmentation[0].flipp: there is no such transformation. Did you mean 'flip'?",
        "cutout, elastic",
    ),
    ([{"flip": {}, "crop": {}}], "training.augmentation[0]=['flip', 'crop']: must hold exactly one", ""),
    ([{}], "training.augmentation[0]=[]: must hold exactly one", ""),
    ([{"crop": 4}], "training.augmentation[0].crop=4: must be a mapping", ""),
    (["flip", {"crop": {"padding": -1}}], "training.augmentation[1].crop.padding=-1: must be an integer above 0", ""),
    ([{"crop": {"pading": 1}}], "training.augmentation[0].crop.pading: unknown key", "'padding'?"),
    ([{"flip": {"p": "0.5"}}], "training.augmentation[0].flip.p='0.5': must be ", "number"),
    ([{"flip": {"p": 1.5}}], "training.augmentation[0].flip.p=1.5: must be a number in [0, 1]", ""),
    ([{"rotation": {"degrees": -5}}], "training.augmentation[0].rotation.degrees=-5", "[0, 180]"),
    ([{"scale": {"low": 2}}], "training.augmentation[0].scale.low=2", "high=1.1"),
    ([{"scale": {"high": 0}}], "training.augmentation[0].scale.high=0", "[0.1, 10]"),
    ([{"translation": {"amount": 2}}], "training.augmentation[0].translation.amount=2", "[0, 1]"),
    ([{"elastic": {"points": 1}}], "training.augmentation[0].elastic.points=1", "[2, 32]"),
    ([{"elastic": {"amount": -1}}], "training.augmentation[0].elastic.amount=-1", "[0, 1]"),
    ([{"cutout": {"size": 0}}], "training.augmentation[0].cutout.size=0: must be an integer above 0", ""),
    ([{"cutout": {"value": 2}}], "training.augmentation[0].cutout.value=2", "[0, 1]"),
    ([{"random_resized_crop": {"low": 0}}], "training.augmentation[0].random_resized_crop.low=0", "above 0"),
    ([{"random_resized_crop": {"high": 2}}], "training.augmentation[0].random_resized_crop.high=2", "[0, 1]"),
    ([{"contrast": {"amount": 1.1}}], "training.augmentation[0].contrast.amount=1.1", "[0, 1]"),
    ([{"hue": {"amount": 0.6}}], "training.augmentation[0].hue.amount=0.6", "[0, 0.5]"),
    ([{"greyscale": {"p": -0.1}}], "training.augmentation[0].greyscale.p=-0.1", "[0, 1]"),
    ([{"blur": {"low": 0}}], "training.augmentation[0].blur.low=0", "above 0"),
    ([{"blur": {"high": float("inf")}}], "training.augmentation[0].blur.high", "must be"),
    ([{"randaugment": {"magnitude": 31}}], "training.augmentation[0].randaugment.magnitude=31", "[0, 30]"),
    ([{"randaugment": {"num_ops": 0}}], "training.augmentation[0].randaugment.num_ops=0", "[1, 14]"),
    ([{"augmix": {"severity": 11}}], "training.augmentation[0].augmix.severity=11", "[0.1, 10]"),
]


@pytest.mark.parametrize(("augmentation", "start", "within"), REFUSED)
def test_invalid_settings_are_refused(augmentation: Any, start: str, within: str) -> None:
    with pytest.raises(UserError) as error:
        resolve_experiment(experiment(augmentation))
    assert str(error.value).startswith(start) and within in str(error.value), str(error.value)


@pytest.mark.parametrize(
    ("augmentation", "message"),
    [
        ("natural", "training.augmentation[4].colour: changing the colour needs pictures with three colour channels"),
        (["hue"], "training.augmentation[0].hue: changing the hue needs"),
        (["greyscale"], "training.augmentation[0].greyscale: greyscale needs"),
        (["flip", "cutout"], "training.augmentation[1].cutout.size=16: must be below the pictures' side, 8"),
        ([{"crop": {"padding": 8}}], "training.augmentation[0].crop.padding=8: must be below the pictures' side, 8"),
    ],
)
def test_settings_that_do_not_fit_the_pictures_are_refused(augmentation: Any, message: str) -> None:
    """Digits are grey, 8x8."""
    with pytest.raises(UserError) as error:
        build_trial(resolve_experiment(experiment(augmentation)), planning=True)
    assert str(error.value).startswith(message)


def test_samples_that_are_not_pictures_are_refused(tiny_stream: Callable[..., Stream]) -> None:
    """An Avalanche benchmark may have such samples: its transforms have normalised them, or they are vectors."""
    stream, named = tiny_stream(), resolve_transformations(experiment("digits"))
    check_stream(named, stream)
    part = stream.experiences[0].train
    normalised = replace(part, arrays=Arrays(stream.normalise(part.arrays.x), part.arrays.y))
    first = replace(stream.experiences[0], train=normalised)
    with pytest.raises(
        UserError, match=r"training.augmentation: needs pictures in \[0, 1\]; those of benchmark.tiny are"
    ):
        check_stream(named, replace(stream, experiences=(first, *stream.experiences[1:])))
    with pytest.raises(UserError, match="training.augmentation: needs pictures .channels, height, width.; samples are"):
        check_stream(named, replace(stream, shape=(16,)))
    check_stream([], replace(stream, shape=(16,)))


# In training.

ALL = ["crop", "rotation", "scale", "elastic", "brightness", {"blur": {"p": 0.3}}, "randaugment"]


@pytest.fixture
def stops() -> Iterator[set[int]]:
    """Yield the iterations in which the strategy plugins.stopping stops the trial."""
    stopping.AT.clear()
    yield stopping.AT


@pytest.fixture
def folders(quick_folder: Path) -> Iterator[Callable[[], Path]]:
    """Return a function that makes new trial folders."""
    made: list[Path] = []

    def new() -> Path:
        made.append(quick_folder / f"augmentation-{len(made)}")
        return made[-1]

    yield new
    for folder in made:
        shutil.rmtree(folder, ignore_errors=True)


def test_same_bits_when_repeated_or_resumed_mid_epoch(folders: Any, stops: set[int], make_experiment: Make) -> None:
    """Two epochs; stopped mid-epoch and at an epoch boundary of the first experience, and within the second experience."""
    strategies = {"lwf": {}, "replay": {"memory": 40}, "plugins.stopping": {}}
    config = make_experiment("pair", strategies=strategies, epochs=2, augmentation=ALL)
    first, again, stopped = folders(), folders(), folders()
    run_trial(config, first)
    seeding.seed_globals(9)  # the state of the global generators does not matter
    run_trial(config, again)
    assert_same(outcome(again), outcome(first))
    stops |= {5, 12, 35}
    for _ in range(3):
        with pytest.raises(Stopped):
            run_trial(config, stopped)
    assert not stops
    run_trial(config, stopped)
    assert_same(outcome(stopped), outcome(first))


def test_an_empty_list_means_none_and_the_seed_changes_augmentation(folders: Any, make_experiment: Make) -> None:
    ways: dict[str, Any] = {"none": None, "empty": [], "flip": ["flip"], "never": [{"flip": {"p": 0}}]}
    outcomes = {}
    for name, augmentation in ways.items():
        folder = folders()
        run_trial(make_experiment("pair", augmentation=augmentation), folder)
        outcomes[name] = outcome(folder)
    assert_same(outcomes["none"], outcomes["empty"])
    assert "learner.model" in differences(outcomes["none"], outcomes["flip"])
    for name, value in outcomes["never"].weights.items():  # normalising again rounds
        torch.testing.assert_close(value, outcomes["none"].weights[name], atol=1e-4, rtol=0)


class _Watch(Plugin):
    """Keep the mini-batches before and after augmentation."""

    def __init__(self) -> None:
        self.seen: list[tuple[Tensor, Tensor]] = []
        self.evaluated: list[Tensor] = []

    def before_training_iteration(self, learner: Any, **kwargs: Any) -> None:
        self._before = learner.mb_x.clone()

    def before_forward(self, learner: Any, **kwargs: Any) -> None:
        self.seen.append((self._before, learner.mb_x.clone()))

    def before_eval_forward(self, learner: Any, **kwargs: Any) -> None:
        self.evaluated.append(learner.mb_x.clone())


def assembled(make_experiment: Make, augmentation: Any, **more: Any) -> TrialBuilder:
    """Return a trial's parts."""
    return build_trial(resolve_experiment(make_experiment("pair", augmentation=augmentation, **more)))


def test_replayed_samples_are_augmented_and_test_samples_are_not(make_experiment: Make) -> None:
    parts = assembled(make_experiment, [{"flip": {"p": 1}}], strategies={"replay": {"memory": 40}})
    learner, watch = parts.learner(lambda learner: None, lambda text: None), _Watch()
    learner.plugins.insert(1, watch)  # after replay
    assert learner.augments and not plugin_api.is_cacheable(learner)
    for number in (0, 1):
        learner.train_experience(number)
    for before, after in watch.seen:
        torch.testing.assert_close(after, before.flip(3), atol=1e-5, rtol=0)
    assert len(watch.seen[0][0]) == 64 and len(watch.seen[-2][0]) == 64 + 40
    learner.evaluate()
    tested = torch.cat([parts.stream.normalise(e.test.arrays.x[e.test.indices]) for e in parts.stream.experiences])
    assert torch.equal(torch.cat(watch.evaluated), tested)


def test_without_augmentation_teachers_are_cached(make_experiment: Make) -> None:
    learner = assembled(make_experiment, None).learner(lambda learner: None, lambda text: None)
    assert learner.augment is None and plugin_api.is_cacheable(learner)


def test_augmentation_depends_on_the_position_of_a_sample(make_experiment: Make) -> None:
    parts = assembled(make_experiment, "digits")
    augment, other = parts.augmentation(), Augmentation(parts.stream, _built("digits"), seed=parts.seeds.data + 1)
    assert augment is not None
    part = parts.stream.experiences[0].train
    x = parts.stream.normalise(part.arrays.x[part.indices[:32]])
    before = x.clone()
    first = augment(x, (0, 0, 0))
    torch.rand(3)
    assert torch.equal(augment(x, (0, 0, 0)), first) and torch.equal(x, before)
    others = [augment(x, (1, 0, 0)), augment(x, (0, 1, 0)), augment(x, (0, 0, 1)), other(x, (0, 0, 0))]
    assert all(not torch.equal(augmented, first) for augmented in others)
    twice = augment(x[:1].repeat(32, 1, 1, 1), (0, 0, 0))
    assert len({augmented.numpy().tobytes() for augmented in twice}) == 32


def _built(preset: str) -> list[Any]:
    return [built for _, built in resolve_transformations(experiment(preset))]


def test_augmentation_acts_on_stored_pixel_values(tiny_stream: Callable[..., Stream]) -> None:
    """A crop's padding is black, and brightness multiplies the stored values."""
    stream = tiny_stream()
    part = stream.experiences[0].train
    stored = part.arrays.x[part.indices[:16]]
    ways = [spatial.Crop(padding=2), colour.Brightness(amount=0.5)]
    made = Augmentation(stream, ways, seed=3)(stream.normalise(stored), (1, 2, 3))
    u = torch.rand(16, 3, generator=seeding.generator(3, "augmentation", 1, 2, 3), dtype=torch.float64)
    expected = ways[1].apply(ways[0].apply(stored / 255, u[:, :2]), u[:, 2:])
    assert (expected == 0).float().mean() > 0.1
    torch.testing.assert_close(made * 0.3 + 0.4, expected, atol=1e-6, rtol=0)


# Image sheets.


def test_the_image_sheet_shows_originals_and_augmented_pictures(make_experiment: Make, tmp_path: Path) -> None:
    config = resolve_experiment(make_experiment(augmentation=["crop", {"rotation": {"degrees": 90}}]))
    path = write_image_sheet(config, tmp_path / "sheet.png")
    with Image.open(path) as opened:
        image = np.asarray(opened.convert("L"))
    parts = build_trial(config, planning=True)
    rows = augmented_rows(parts)
    assert sorted(row.title for row in rows) == list("0123456789")
    assert all(row.title in row.more for row in rows)  # the experience's name lists its classes
    stored = {pixels.tobytes() for pixels in parts.stream.experiences[0].train.arrays.x.numpy()}
    shown = [(row.pictures * 255).round().to(torch.uint8).numpy() for row in rows]
    assert all(pixels[0].tobytes() in stored for pixels in shown)
    assert all(len({version.tobytes() for version in pixels}) == 9 for pixels in shown)
    enlarged = shown[0][1][0].repeat(10, 0).repeat(10, 1)
    places = [
        (y, x)
        for y in range(len(image) - 79)
        for x in (16 + 190 + 84,)
        if (image[y : y + 80, x : x + 80] == enlarged).all()
    ]
    assert len(places) == 1
    assert write_image_sheet(config, tmp_path / "again.png").read_bytes() == path.read_bytes()


def test_the_image_sheet_without_augmentation_shows_each_experience(make_experiment: Make, tmp_path: Path) -> None:
    config = resolve_experiment(make_experiment("rotated"))
    rows = experience_rows(build_trial(config, planning=True).stream)
    assert [row.title for row in rows] == ["rotation 0", "rotation 45", "rotation 90"]
    assert rows[0].captions == tuple("012345678901") and len(rows[0].pictures) == 12
    with pytest.raises(UserError, match="missing.sheet.png: cannot be written: No such file"):
        write_image_sheet(config, tmp_path / "missing" / "sheet.png")


def test_commands_write_the_image_sheet_and_list_augmentations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments, name in (([], "quickstart-augmentation.png"), (["--output", "x.png"], "x.png")):
        ended = CliRunner().invoke(app, ["show", "quickstart", "--images", *arguments, "training.augmentation=digits"])
        assert (ended.exit_code, ended.output) == (0, f"{name}\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["quickstart-augmentation.png", "x.png"]
    listed = {entry.name: entry for entry in list_entries("augmentation")}
    assert listed["digits"].line == "Preset: rotation, scale, translation."
    assert set(listed) == {*PRESETS, *TRANSFORMATIONS} and listed["crop"].settings == ("padding: int = 4",)
