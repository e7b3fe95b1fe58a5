"""The laws of every file in benchmarks/.

The idx sets run on tiny files in the real format, written here; the golden digests need the real ones: RETAIN_DATA,
or a folder shared/data in or next to the checkout. After an intended change, write new digests:
``RETAIN_UPDATE_GOLDEN=1 pytest tests/test_benchmarks.py -k golden``.
"""

import dataclasses
import hashlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.idx_sets import REAL_ROOT, is_real, write_set

from retain.platform.config import registry
from retain.platform.config.load import load_config
from retain.platform.data.cache import DataFolders
from retain.platform.data.datasets import mnist
from retain.platform.data.image_rotation import rotate
from retain.platform.data.streams import Part, Stream
from retain.platform.errors import UserError
from retain.platform.trial.resolve import resolve_experiment

BENCHMARKS = registry.names("benchmarks")
GOLDEN = Path(__file__).parent / "golden" / "benchmarks.json"
SPLIT = [n for n in BENCHMARKS if n.startswith("split_")] + ["class_incremental", "task_incremental"]
GENERIC = [name for name in BENCHMARKS if name not in registry.aliases()]  # over any data set
OWN_DOMAINS = ["domain_incremental", "classes_and_domains"]
DOMAIN = [n for n in BENCHMARKS if n not in SPLIT + OWN_DOMAINS + ["shared_labels"]]  # domains of changed pictures


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> DataFolders:
    """Return folders with a tiny MNIST, gzipped, and a tiny Fashion-MNIST, plain."""
    root = tmp_path_factory.mktemp("tiny")
    write_set(root / "mnist")
    write_set(root / "fashion-mnist", end="", seed=1)
    return DataFolders.of(str(root), str(tmp_path_factory.mktemp("tiny-cache")))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> DataFolders:
    """Return folders with the real sets, and a new cache."""
    return DataFolders(REAL_ROOT, tmp_path_factory.mktemp("real-cache"))


def config_of(name: str, **settings: Any) -> Any:
    """Return a benchmark's settings, with a tiny data set if it takes any."""
    config = registry.resolve("benchmarks", name).Config
    if name in GENERIC:
        settings = {"data": "sets.domains" if name in OWN_DOMAINS else "mnist"} | settings
    if name == "classes_and_domains":
        settings = {"num_groups": 3} | settings
    return config(**settings)


def build(name: str, folders: DataFolders, seed: int = 0, **settings: Any) -> Stream:
    """Build a benchmark by name."""
    stream: Stream = registry.resolve("benchmarks", name).build(config_of(name, **settings), seed, folders)
    return stream


def indices(part: Part) -> set[int]:
    """Return the indices of a part's base pictures."""
    return set(part.indices.tolist())


def digest(stream: Stream) -> str:
    """Return a digest of a stream's content: names, classes, indices, labels, and some pictures of each part."""
    hasher = hashlib.sha256(repr((stream.scenario, stream.class_names, stream.shape, stream.mean, stream.std)).encode())
    for experience in stream.experiences:
        hasher.update(repr((experience.name, experience.classes)).encode())
        for part in (experience.train, experience.validation, experience.test):
            some = part.indices[[0, 1, -1]] if len(part) else part.indices
            for tensor in (part.indices, part.y, part.arrays.x[some]):
                hasher.update(tensor.numpy().tobytes())
    return hasher.hexdigest()


# --- the laws ---


@pytest.mark.parametrize("name", BENCHMARKS)
def test_settings_are_documented(name: str) -> None:
    """`Config` or its base documents each field, and its first line says what the benchmark is."""
    config = registry.resolve("benchmarks", name).Config
    assert config.__doc__.splitlines()[0].endswith(".")
    said = "".join(base.__doc__ or "" for base in config.__mro__[:-1])
    for field in dataclasses.fields(config):
        assert f"    {field.name}: " in said, field.name


def test_imports_are_light(tiny: DataFolders) -> None:
    """No benchmark imports a heavy library; digits come from a warm cache without scikit-learn."""
    build("rotated_digits", tiny)
    code = f"""
import sys
from pathlib import Path
from retain.platform.config import registry
from retain.platform.data.cache import DataFolders
modules = [registry.resolve("benchmarks", name) for name in {BENCHMARKS!r}]
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
    assert stream.scenario == ("task" if name == "task_incremental" else "class")
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
    """A given order is used; under any order a picture keeps its class's name and its side of the validation split."""
    order = (9, 8, 7, 6, 5, 4, 3, 2, 1, 0)
    ordered, plain = build(name, tiny, class_order=order), build(name, tiny, class_order=tuple(range(10)))
    assert ordered.class_names == plain.class_names[::-1]
    streams = [ordered, plain, build(name, tiny)]
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
def test_train_validation_and_test_are_disjoint(name: str, tiny: DataFolders) -> None:
    """In the whole stream no base picture is in two parts: by index, and by content between training and test."""
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
    """The split is stratified, and never takes a whole class."""
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
    config = config_of(name, validation=0.2)
    assert pickle.loads(pickle.dumps(config)) == config
    stream = build(name, tiny)
    assert digest(pickle.loads(pickle.dumps(stream))) == digest(stream)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_normalise(name: str, tiny: DataFolders) -> None:
    """Stored bytes become float32 of the declared shape, normalised with the declared mean and deviation."""
    stream = build(name, tiny)
    for part in _parts(stream.experiences[-1]):
        assert part.arrays.x.dtype == torch.uint8
        stored = part.arrays.x[part.indices[:3]]
        x = stream.normalise(stored)
        assert (x.dtype, x.shape) == (torch.float32, (len(stored), *stream.shape))
        expected = (stored.double() / 255 - stream.mean[0]) / stream.std[0]
        torch.testing.assert_close(x, expected.float())


@pytest.mark.parametrize("name", BENCHMARKS)
def test_golden(name: str, real: DataFolders) -> None:
    """Indices, labels and pictures are the same as when the published numbers were made."""
    if not is_real(name):
        pytest.skip(f"the files of {name.split('_', 1)[1]} are not here; set RETAIN_DATA")
    settings: dict[str, Any] = {"data": "digits"} if name in GENERIC and name not in OWN_DOMAINS else {}
    if name.endswith("mnist") and name in DOMAIN:  # two domains of the large sets: the others are made in the same way
        settings = {"angles": (0.0, 30.0)} if name.startswith("rotated") else {"num_experiences": 2}
    digests = {f"seed {seed}": digest(build(name, real, seed, **settings)) for seed in (0, 1)}
    known = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if os.environ.get("RETAIN_UPDATE_GOLDEN"):
        GOLDEN.write_text(json.dumps(known | {name: digests}, indent=1, sort_keys=True) + "\n")
    else:
        assert known.get(name) == digests, "meant? RETAIN_UPDATE_GOLDEN=1 pytest tests/test_benchmarks.py -k golden"


@pytest.mark.parametrize("name", ["split_mnist", "split_fashion_mnist", "split_digits"])
def test_statistics_are_of_the_training_pictures(name: str, real: DataFolders) -> None:
    """The mean and deviation stated in the code are those of the data, to 4 digits."""
    if not is_real(name):
        pytest.skip(f"the files of {name.split('_', 1)[1]} are not here; set RETAIN_DATA")
    stream = build(name, real)
    x = stream.experiences[0].train.arrays.x.numpy()
    shares = np.bincount(x.ravel(), minlength=256) / x.size
    values = np.arange(256) / 255
    mean = float(shares @ values)
    assert stream.mean[0] == pytest.approx(mean, abs=6e-5)
    assert stream.std[0] == pytest.approx(float(shares @ (values - mean) ** 2) ** 0.5, abs=6e-5)


def test_real_data_is_here_in_ci() -> None:
    """CI must check the golden digests of the large sets."""
    exists = is_real("split_mnist") or is_real("split_fashion_mnist")
    if not os.environ.get("CI") and not exists:
        pytest.skip("neither MNIST nor Fashion-MNIST is here; it would fail in CI")
    assert exists, "set RETAIN_DATA to a folder with mnist/ or fashion-mnist/, or install dataset-fashion-mnist"


# --- settings ---

_CLASS, _PERMUTED, _ROTATED = (
    registry.resolve("benchmarks", "split_digits").Config,
    registry.resolve("benchmarks", "permuted_digits").Config,
    registry.resolve("benchmarks", "rotated_digits").Config,
)


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (_CLASS, {"num_experiences": 11}, r"^num_experiences=11: must be between 1 and 10, the number of classes"),
        (_CLASS, {"num_experiences": 0}, r"^num_experiences=0: must be an integer above 0"),
        (_CLASS, {"num_experiences": 3}, r"^num_experiences=3: must divide .* 1, 2, 5, 10$"),
        (_CLASS, {"class_order": (0, 1, 2)}, r"^class_order=\[0, 1, 2\]: must hold each class from 0 to 9 once"),
        (_CLASS, {"class_order": (0, *range(9))}, r"^class_order="),
        (_CLASS, {"validation": 1.0}, r"^validation=1.0: must be a number in \[0, 1\)"),
        (_CLASS, {"blurry": 1.0}, r"^blurry=1.0: must be a number in \[0, 1\)"),
        (_CLASS, {"blurry": 0.1, "shots": 5}, r"^blurry=0.1: cannot be combined with shots=5"),  # its kind's own check
        (_CLASS, {"shots_from": 2}, r"^shots_from=2: is not used without shots"),
        (_PERMUTED, {"validation": -0.1}, r"^validation=-0.1: "),
        (_PERMUTED, {"num_experiences": 0}, r"^num_experiences=0: must be an integer above 0"),
        (_ROTATED, {"validation": float("nan")}, r"^validation=nan: "),
        (_ROTATED, {"angles": ()}, r"^angles=\[\]: must be a list of at least one item"),
        (_ROTATED, {"angles": (0.0, float("inf"))}, r"^angles=\[0.0, inf\]: "),
        (_ROTATED, {"angles": (0.0, 360.0)}, r"^angles=\(0.0, 360.0\): must differ"),
        (_ROTATED, {"num_random_angles": 0}, r"^num_random_angles=0: must be an integer above 0 or null"),
        (
            _ROTATED,
            {"num_random_angles": 3, "angles": (0.0, 1.0)},
            r"^angles=\[0.0, 1.0\]: is not used with num_random_angles=3",
        ),
    ],
)
def test_settings_are_refused(config: Any, settings: dict[str, Any], message: str) -> None:
    """A wrong setting is refused; the message starts with its name and value and says what is allowed."""
    with pytest.raises(ValueError, match=message):
        config(**settings)


def test_groups_share_their_labels(tiny: DataFolders) -> None:
    """Pictures and experiences are the same as class by class; the label is the position in the group."""
    order = (3, 1, 4, 0, 5, 9, 2, 6, 8, 7)
    shared = build("shared_labels", tiny, class_order=order)
    split = build("class_incremental", tiny, class_order=order)
    assert (shared.scenario, shared.class_names) == ("domain", ("3, 4, 5, 2, 8", "1, 0, 9, 6, 7"))
    for ours, theirs in zip(shared.experiences, split.experiences, strict=True):
        assert ours.classes == (0, 1)
        for part, base in zip(_parts(ours), _parts(theirs), strict=True):
            assert torch.equal(part.indices, base.indices)
            assert torch.equal(part.y, base.y % 2)


def test_groups_have_equal_size(tiny: DataFolders) -> None:
    with pytest.raises(ValueError, match=r"^first=4: all groups must be of one size"):
        config_of("shared_labels", first=4)
    with pytest.raises(ValueError, match=r"^num_experiences=3: must divide the number of classes, 10"):
        config_of("shared_labels", num_experiences=3)
    with pytest.raises(UserError, match=r"^benchmark.shared_labels.num_experiences=5: must divide"):
        build("shared_labels", tiny, data="sets.domains", num_experiences=5)  # known only with the data


def test_random_angles(tiny: DataFolders) -> None:
    """The requested number of angles in [0, 180), which depend on the seed; the pictures equal those for given angles."""
    names = [
        [e.name for e in build("rotated_mnist", tiny, seed, num_random_angles=4).experiences] for seed in (0, 0, 1)
    ]
    assert names[0] == names[1]
    assert not set(names[0]) & set(names[2])
    angles = [float(name.removeprefix("rotation ")) for name in names[0]]
    assert len(set(angles)) == 4
    assert all(0 <= angle < 180 for angle in angles)
    drawn = build("rotated_mnist", tiny, 0, num_random_angles=4).experiences[1].train.arrays.x
    rotated = rotate(mnist.build(mnist.Config(), tiny).train.x.numpy(), angles[1])
    assert np.abs(drawn.numpy().astype(int) - rotated.astype(int)).max() <= 1  # the name has fewer digits


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "digits"])
def test_without_normalisation_pixels_are_divided_by_255(name: str, tiny: DataFolders) -> None:
    stream = build("class_incremental", tiny, data={name: {"normalise": False}})
    part = stream.experiences[0].train
    stored = part.arrays.x[part.indices[:3]]
    torch.testing.assert_close(stream.normalise(stored), stored / 255)


# --- transformations ---


def test_permutations(tiny: DataFolders) -> None:
    """The first domain is the unchanged data; each other one is a single permutation of the pixels of all pictures."""
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
    """Our integer rotation equals torch's bilinear one up to rounding; counter-clockwise."""
    x = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    turn, (height, width) = torch.deg2rad(torch.tensor(angle, dtype=torch.float64)), shape[2:]
    cos, sin, zero = turn.cos(), turn.sin(), torch.zeros((), dtype=torch.float64)
    rows = torch.stack([cos, -sin * height / width, zero]), torch.stack([sin * width / height, cos, zero])
    theta = torch.stack(rows).expand(shape[0], 2, 3)
    grid = torch.nn.functional.affine_grid(theta, list(shape), align_corners=False)
    expected = torch.nn.functional.grid_sample(torch.from_numpy(x).double(), grid, align_corners=False).numpy()
    assert np.abs(rotate(x, angle) - expected).max() < 1
    if angle == 90 and height == width:
        assert np.array_equal(rotate(x, angle), np.rot90(x, axes=(2, 3)))


# Aliases: names for a kind of benchmark on a data set.


@pytest.mark.parametrize("name", registry.aliases())
def test_an_alias_is_its_kind_with_settings(name: str, tiny: DataFolders) -> None:
    ((kind, settings),) = registry.aliases()[name]["is"].items()
    ours, base = build(name, tiny), build(kind, tiny, **settings)
    assert (ours.name, base.name) == (name, kind)
    assert dataclasses.replace(ours, name=kind).class_names == base.class_names
    for one, other in zip(ours.experiences, base.experiences, strict=True):
        assert one.name == other.name
        for mine, theirs in zip(_parts(one), _parts(other), strict=True):
            assert torch.equal(mine.indices, theirs.indices) and torch.equal(mine.y, theirs.y)


def test_settings_are_added_to_an_alias(tiny: DataFolders) -> None:
    assert len(build("split_mnist", tiny, num_experiences=2).experiences) == 2
    config = resolve_experiment(
        load_config("quickstart", ["benchmark={split_digits: {num_experiences: 2}}"])
    ).experiment
    assert config.benchmark["split_digits"]["num_experiences"] == 2
    assert "data" not in config.benchmark["split_digits"], "the name says it"
    other = resolve_experiment(
        load_config("quickstart", ["benchmark={split_digits: {data: fashion_mnist}}"])
    ).experiment
    assert list(other.benchmark["split_digits"]["data"]) == ["fashion_mnist"]


def test_an_alias_is_imported_like_a_module() -> None:
    from retain.benchmarks import split_mnist

    assert split_mnist is registry.resolve("benchmarks", "split_mnist")
    config = split_mnist.Config(num_experiences=2)
    assert pickle.loads(pickle.dumps(config)) == config
    with pytest.raises(ImportError):
        from retain.benchmarks import split_nothing  # noqa: F401
