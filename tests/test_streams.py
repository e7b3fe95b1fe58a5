"""Streams of any data set: division into classes and domains, subset options, and learning with a given task."""

import re
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sets import domains as animals
from torch.nn import functional as F

from retain.benchmarks import class_incremental, classes_and_domains, domain_incremental
from retain.platform.config import registry
from retain.platform.config.load import from_dict, to_dict
from retain.platform.config.schema import Optimizer, Training
from retain.platform.data import class_streams, dataset_key, domain_streams, subsampling
from retain.platform.data.cache import DataFolders
from retain.platform.data.dataset import DataSet, warn_once
from retain.platform.data.streams import Arrays, Part, Stream
from retain.platform.errors import UserError
from retain.platform.ledger.reader import Trial
from retain.platform.models.networks import mlp
from retain.platform.reporting.html_report import report
from retain.platform.seeding import generator
from retain.platform.training.avalanche_learner import AvalancheLearner as Learner
from retain.platform.training.evaluation import TestSet
from retain.platform.training.plugin import Plugin
from retain.platform.trial.builder import build_trial
from retain.platform.trial.resolve import resolve_experiment
from retain.platform.trial.run import run as run_trial
from retain.strategies import early_stopping, replay

ANIMALS = "sets.domains"


def build(name: str, seed: int = 0, **settings: Any) -> Stream:
    """Build a stream by name, by default over the animals."""
    module = registry.resolve("benchmarks", name)
    stream: Stream = module.build(module.Config(**({"data": ANIMALS} | settings)), seed, DataFolders.of())
    return stream


def animal_set(**settings: Any) -> DataSet:
    """Return the data set itself."""
    return animals.build(animals.Config(**settings), DataFolders.of())


def sizes_of(part: Part) -> list[int]:
    """Return the number of samples of each class of the stream."""
    return torch.bincount(part.y, minlength=6).tolist()


def ys(*counts: int) -> torch.Tensor:
    """Return labels: the given numbers of 0s, 1s, 2s."""
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))


def bare_set(*counts: int) -> DataSet:
    """Return a data set with these numbers of training pictures per class, and one test picture each."""
    parts = [Arrays(torch.zeros(len(y), 1, 2, 2, dtype=torch.uint8), y) for y in (ys(*counts), ys(*[1] * len(counts)))]
    return DataSet("bare", tuple("abcdefghij"[: len(counts)]), (0.5,), (0.5,), *parts)


# --- dividing classes ---


@pytest.mark.parametrize(
    ("num_classes", "num_experiences", "first", "expected"),
    [
        (10, 5, None, [2, 2, 2, 2, 2]),
        (100, 11, 50, [50] + [5] * 10),  # B50 with 10 steps
        (100, 6, 50, [50] + [10] * 5),
        (10, 2, 9, [9, 1]),
        (3, 1, None, [3]),
    ],
)
def test_sizes(num_classes: int, num_experiences: int, first: int | None, expected: list[int]) -> None:
    assert class_streams.experience_sizes(num_classes, num_experiences, first) == expected


@pytest.mark.parametrize(
    ("num_classes", "num_experiences", "first", "message"),
    [
        (10, 3, None, r"^num_experiences=3: must divide the number of classes, 10: 1, 2, 5, 10$"),
        (10, 11, None, r"^num_experiences=11: must be between 1 and 10, the number of classes$"),
        (10, 5, 4, r"^num_experiences=5: must divide the 6 classes left: 2, 3, 4, 7$"),
        (10, 1, 4, r"^num_experiences=1: must be between 2 and 7, 1 and the 6 classes left by first=4$"),
        (10, 2, 10, r"^first=10: must be less than 10, the number of classes$"),
    ],
)
def test_sizes_that_do_not_fit(num_classes: int, num_experiences: int, first: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        class_streams.experience_sizes(num_classes, num_experiences, first)


@pytest.mark.parametrize("name", ["class_incremental", "task_incremental"])
def test_a_large_first_experience_and_an_order_by_name(name: str) -> None:
    """Numbers and names may be mixed; the domains of the data set are pooled."""
    order = ("fox", 0, "dog", 1, "cat", "eel")
    stream = build(name, num_experiences=3, first=4, class_order=order)
    assert stream.class_names == ("fox", "ant", "dog", "bee", "cat", "eel")
    assert [e.classes for e in stream.experiences] == [(0, 1, 2, 3), (4,), (5,)]
    assert [e.name for e in stream.experiences] == ["classes fox, ant, dog, bee", "classes cat", "classes eel"]
    assert sizes_of(stream.experiences[1].test) == [0, 0, 0, 0, 3 * (3 + 2) + 3, 0]  # 3 + class + domain pictures


def test_many_classes_are_counted_in_the_name() -> None:
    source = bare_set(*[3] * 10)
    names = tuple(f"class{number}" for number in range(24))
    many = DataSet("many", names, (0.5,), (0.5,), source.train, source.test)
    assert class_streams.joined_class_names(many, range(10)) == ", ".join(names[:10])
    assert class_streams.joined_class_names(many, range(24)) == "class0, class1, class2 and 21 more"


# --- domains ---


def test_domains_in_a_given_order() -> None:
    stream = build("domain_incremental", domains=("pencil", "photo"))
    source = animal_set()
    assert [e.name for e in stream.experiences] == ["pencil", "photo"]
    assert stream.scenario == "domain"
    for experience, number in zip(stream.experiences, (2, 0), strict=True):
        assert experience.classes == tuple(range(6))
        assert source.train_domains is not None and source.test_domains is not None
        for part in (experience.train, experience.validation):
            assert set(source.train_domains[part.indices].tolist()) == {number}
        assert experience.test.indices.tolist() == torch.nonzero(source.test_domains == number).flatten().tolist()
        # a tenth of 8 + class + domain training pictures, rounded, is held out
        assert sizes_of(experience.validation) == [round(0.1 * (8 + label + number)) for label in range(6)]


@pytest.mark.parametrize("name", ["domain_incremental", "classes_and_domains"])
def test_training_domains_are_tested_on_domains_that_only_the_test_part_has(name: str) -> None:
    """Like CORe50's fixed test set: the whole test part, or its pictures of the experience's classes."""
    more = {} if name == "domain_incremental" else {"num_groups": 2}
    stream = build(name, data={ANIMALS: {"sessions": True}}, **more)
    source = animal_set(sessions=True)
    for experience in stream.experiences:
        in_classes = torch.isin(experience.test.arrays.y, torch.tensor(experience.classes))
        assert experience.test.indices.tolist() == torch.nonzero(in_classes).flatten().tolist()
    assert source.domain_names == ("photo", "paint", "pencil", "later")
    assert len(stream.experiences) == (3 if name == "domain_incremental" else 6)


ORDERS = {  # (first class of the group, domain) with groups (0, 1) and (2, 3) and (4, 5) of the stream's labels
    "domain_by_domain": [(c, d) for d in animals.DOMAINS for c in (0, 2, 4)],
    "group_by_group": [(c, d) for c in (0, 2, 4) for d in animals.DOMAINS],
}


@pytest.mark.parametrize("order", [*ORDERS, "shuffled"])
def test_classes_and_domains(order: str) -> None:
    """Each pair of class and domain appears once; labels are numbered in order of appearance; no sample is lost."""
    stream = build("classes_and_domains", num_groups=3, order=order)
    pairs = [(e.classes[0], e.name.partition(": ")[0]) for e in stream.experiences]
    assert stream.scenario == "mixed"
    assert sorted(pairs) == sorted(ORDERS["group_by_group"])
    if order in ORDERS:
        assert pairs == ORDERS[order]
    else:
        assert pairs not in ORDERS.values()
    highest = -1
    for experience in stream.experiences:
        low, high = experience.classes
        assert high == low + 1
        assert low <= highest + 1  # no label is skipped
        highest = max(highest, high)
        assert set(experience.train.y.tolist()) == set(experience.test.y.tolist()) == {low, high}
        names = [stream.class_names[label] for label in experience.classes]
        assert experience.name.partition(": ")[2] == ", ".join(names)
    for part in ("train", "test"):
        total = sum(len(getattr(e, part)) + (len(e.validation) if part == "train" else 0) for e in stream.experiences)
        assert total == len(getattr(animal_set(), part).y)


def test_a_class_that_a_domain_lacks() -> None:
    """Its pair has the existing classes; an empty pair is left out."""
    alone = build("classes_and_domains", data={ANIMALS: {"lacking": True}}, num_groups=6)
    assert len(alone.experiences) == 17
    assert "pencil: fox" not in [e.name for e in alone.experiences]
    pairs = build(
        "classes_and_domains", data={ANIMALS: {"lacking": True}}, num_groups=3, class_order=(0, 1, 2, 3, 4, 5)
    )
    assert pairs.experiences[-1].name == "pencil: eel"
    assert pairs.experiences[-1].classes == (4,)


def test_domain_incremental_says_that_a_domain_lacks_a_class(caplog: pytest.LogCaptureFixture) -> None:
    """On the terminal, once, and in the stream's notes; a data set without gaps has none."""
    warn_once.cache_clear()  # another test may have built the stream
    streams = [build("domain_incremental", seed=seed, data={ANIMALS: {"lacking": True}}) for seed in (0, 1)]
    note = "benchmark.domain_incremental: 1 of 6 classes lack training pictures in a domain: 'fox' is not in 'pencil'"
    assert [len(stream.notes) for stream in streams] == [1, 1] and streams[0].notes[0].startswith(note)
    assert sum(note in record.getMessage() for record in caplog.records) == 1
    assert build("domain_incremental", data=ANIMALS).notes == ()


def test_the_task_aware_view_of_a_mixed_stream_is_among_the_experiences_classes() -> None:
    """Counted by hand from random logits."""
    stream = build("classes_and_domains", num_groups=3)
    tests = TestSet(stream, torch.device("cpu"))
    logits = torch.randn(len(tests.y), 6, generator=torch.Generator().manual_seed(0))
    row, start = tests.row(logits), 0
    for number, experience in enumerate(stream.experiences):
        stop = start + len(experience.test)
        own = list(experience.classes)
        among = torch.tensor(own)[logits[start:stop, own].argmax(1)]
        assert row.task_aware[number] == pytest.approx((among == experience.test.y).double().mean().item())
        agnostic = logits[start:stop].argmax(1) == experience.test.y
        assert row.task_agnostic[number] == pytest.approx(agnostic.double().mean().item())
        start = stop


# --- subset options ---


def test_long_tail_by_hand() -> None:
    """Cao et al.'s CIFAR-10 with a ratio of 100: 5000 * 0.01 ** (c / 9)."""
    sizes = subsampling.long_tail([5000] * 10, 0.01, range(10))
    assert sizes == [
        5000,
        2997,
        1797,
        1077,
        646,
        387,
        232,
        139,
        83,
        50,
    ]  # other implementations truncate: sometimes one less
    assert subsampling.long_tail([5000, 100, 5000], 0.01, [2, 0, 1]) == [50, 100, 500]  # at most the existing samples
    assert subsampling.long_tail([7], 0.5, [0]) == [7]
    assert subsampling.long_tail([4, 4], 0.01, [0, 1]) == [4, 1]  # at least one stays


def test_imbalance_of_a_stream() -> None:
    """The profile holds for training and validation together; the test part is complete; every picture keeps its part."""
    source = bare_set(*[100] * 10)
    config = class_streams.ClassSplit(imbalance=0.1, validation=0.2)
    fit, held = subsampling.train_validation_split(source, config, 3)
    counts = torch.bincount(source.train.y[torch.cat([fit, held])], minlength=10).tolist()
    expected = sorted(round(100 * 0.1 ** (c / 9)) for c in range(10))
    assert sorted(counts) == expected != counts  # the rare classes are sampled
    held_counts = torch.bincount(source.train.y[held], minlength=10).tolist()
    assert held_counts == [round(0.2 * count) for count in counts]
    whole_fit, whole_held = subsampling.train_validation_split(source, class_streams.ClassSplit(validation=0.2), 3)
    assert set(fit.tolist()) <= set(whole_fit.tolist()) and set(held.tolist()) <= set(whole_held.tolist())
    other = subsampling.train_validation_split(source, config, 4)[0]
    assert torch.bincount(source.train.y[other], minlength=10).tolist() != torch.bincount(source.train.y[fit]).tolist()


def test_few_shot_by_hand() -> None:
    """k of each class, all if there are fewer; a smaller k gives a subset; ascending."""
    labels = ys(5, 2, 8)
    three = subsampling.few_shot(torch.arange(15), labels, 3, 0)
    assert torch.bincount(labels[three]).tolist() == [3, 2, 3]
    assert three.tolist() == sorted(three.tolist())
    assert set(subsampling.few_shot(torch.arange(15), labels, 1, 0).tolist()) < set(three.tolist())
    assert subsampling.few_shot(torch.arange(15), labels, 3, 1).tolist() != three.tolist()
    assert subsampling.few_shot(torch.arange(0), labels[:0], 3, 0).tolist() == []


@pytest.mark.parametrize("name", ["class_incremental", "task_incremental", "domain_incremental", "rotated"])
def test_few_shots_of_a_stream(name: str) -> None:
    """From experience `shots_from` on, k of each class; all in earlier experiences and in the other parts."""
    more = {"num_experiences": 3} if name.endswith("s_incremental") or name == "task_incremental" else {}
    few, whole = build(name, shots=2, shots_from=2, **more), build(name, **more)
    for number, (one, other) in enumerate(zip(few.experiences, whole.experiences, strict=True)):
        if number < 2:
            assert torch.equal(one.train.indices, other.train.indices)
        else:
            assert sizes_of(one.train) == [2 if label in one.classes else 0 for label in range(6)]
            assert set(one.train.indices.tolist()) < set(other.train.indices.tolist())
        assert torch.equal(one.validation.indices, other.validation.indices)
        assert torch.equal(one.test.indices, other.test.indices)


def test_assign_blurry_by_hand() -> None:
    """A quarter of 12, 4 and 8 samples of three experiences goes to the other experiences, in turn."""
    labels, home = ys(12, 4, 8), ys(12, 4, 8)
    place = subsampling.assign_blurry(home, labels, 0.25, 3, 0)
    moved = [torch.bincount(place[labels == label], minlength=3).tolist() for label in range(3)]
    assert [row[label] for label, row in enumerate(moved)] == [9, 3, 6]
    assert sorted(moved[0]) == [1, 2, 9]
    assert sorted(moved[2]) == [1, 1, 6]
    assert torch.equal(subsampling.assign_blurry(home, labels, 0.0, 3, 0), home)


def test_blurry_boundaries() -> None:
    """Every training sample is used once; labels follow the major order; validation and test equal the plain stream's."""
    plain, blurry = (build("class_incremental", num_experiences=3, blurry=fraction) for fraction in (0.0, 0.3))
    assert blurry.class_names == plain.class_names
    assert [e.classes for e in blurry.experiences] == [(0, 1), (2, 3), (4, 5)]
    everything = sorted(i for e in plain.experiences for i in e.train.indices.tolist())
    assert sorted(i for e in blurry.experiences for i in e.train.indices.tolist()) == everything
    for one, other in zip(blurry.experiences, plain.experiences, strict=True):
        assert torch.equal(one.validation.indices, other.validation.indices)
        assert torch.equal(one.test.indices, other.test.indices)
        before, after = sizes_of(other.train), sizes_of(one.train)
        assert all(after[label] == before[label] - round(0.3 * before[label]) for label in one.classes)
        assert all(after[label] > 0 for label in range(6))


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (subsampling.SubsetOptions, {"imbalance": 0.0}, r"^imbalance=0.0: must be a number in \(0, 1\] or null"),
        (subsampling.SubsetOptions, {"imbalance": 1.5}, r"^imbalance=1.5: "),
        (subsampling.SubsetOptions, {"imbalance": float("nan")}, r"^imbalance=nan: "),
        (subsampling.SubsetOptions, {"shots": 0}, r"^shots=0: must be an integer above 0 or null"),
        (
            subsampling.SubsetOptions,
            {"shots": 1, "shots_from": -1},
            r"^shots_from=-1: must be an integer of at least 0",
        ),
        (subsampling.SubsetOptions, {"shots_from": 2}, r"^shots_from=2: is not used without shots"),
        (class_incremental.Config, {"blurry": 1.0}, r"^blurry=1.0: must be a number in \[0, 1\)"),
        (class_incremental.Config, {"blurry": 0.1, "shots": 5}, r"^blurry=0.1: cannot be combined with shots=5"),
        (
            class_incremental.Config,
            {"blurry": 0.1, "num_experiences": 1},
            r"^blurry=0.1: needs at least two experiences",
        ),
        (class_streams.ClassSplit, {"first": 0}, r"^first=0: must be an integer above 0 or null"),
        (
            domain_streams.DomainSplit,
            {"domains": ("a", "b", "a")},
            r"^domains=\['a', 'b', 'a'\]: must be one or more names, each once",
        ),
        (domain_streams.DomainSplit, {"domains": ()}, r"^domains=\[\]: must be one or more names"),
        (classes_and_domains.Config, {"num_groups": 0}, r"^num_groups=0: must be an integer above 0"),
    ],
)
def test_settings_are_refused(config: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**settings, **({"data": "digits"} if config.__name__ == "Config" else {}))


@pytest.mark.parametrize(
    ("name", "num"), [("class_incremental", 3), ("domain_incremental", 3), ("classes_and_domains", 9), ("rotated", 5)]
)
def test_few_shots_from_an_experience_that_does_not_exist(name: str, num: int) -> None:
    settings: dict[str, Any] = {"class_incremental": {"num_experiences": 3}, "classes_and_domains": {"num_groups": 3}}
    build(name, shots=2, shots_from=num - 1, **settings.get(name, {}))
    with pytest.raises(UserError, match=rf"benchmark\.{name}\.shots_from={num}: must be below {num}"):
        build(name, shots=2, shots_from=num, **settings.get(name, {}))


@pytest.mark.parametrize(("given", "expected"), [(("11", "2", "1"), [1, 2, 0]), ((0, "11", "2"), [0, 1, 2])])
def test_names_that_are_numbers(given: tuple[Any, ...], expected: list[int]) -> None:
    names = ("1", "11", "2")  # in the order of sorted folders
    assert class_streams.ordered_classes(given, names) == expected
    with pytest.raises(ValueError, match=r"class_order: 1 is a class's name and another's number: .*'1'"):
        class_streams.ordered_classes((0, 1, 2), names)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_are_compared_in_one_normal_form(form: Any) -> None:
    """A name may be typed in another of Unicode's normal forms than the data set's."""
    names = ("caf\u00e9", "the\u0301")
    given = [unicodedata.normalize(form, name) for name in names]
    assert class_streams.ordered_classes([given[1], given[0]], names) == [1, 0]
    y = torch.arange(2)
    parts = [Arrays(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), y) for _ in range(2)]
    source = DataSet("two", ("a", "b"), (0.5,), (0.5,), *parts, domain_names=names, train_domains=y, test_domains=y)
    config = domain_streams.DomainSplit(domains=tuple(reversed(given)))
    assert domain_streams.chosen_domains("domain_incremental", source, config) == [1, 0]
    with pytest.raises(ValueError, match="each once"):
        domain_streams.DomainSplit(domains=(names[0], unicodedata.normalize("NFD", names[0])))


def test_a_domain_without_test_pictures_is_refused_where_others_have_some() -> None:
    source = animal_set()
    assert source.test_domains is not None
    keep = torch.nonzero(source.test_domains != 1).flatten()
    test = Arrays(source.test.x[keep], source.test.y[keep])
    source = replace(source, test=test, test_domains=source.test_domains[keep])
    with pytest.raises(
        UserError, match=r"benchmark\.x\.data: the domain 'paint' has training pictures and no test pictures"
    ):
        domain_incremental.by_domain("x", source, domain_streams.DomainSplit(), 0)


# --- errors with their full path ---


def experiment(name: str, strategies: dict[str, Any] | None = None, **settings: Any) -> Any:
    """Return an experiment on a stream over the animals."""
    return from_dict(
        {
            "name": "test",
            "benchmark": {name: {"data": ANIMALS} | settings},
            "model": {"mlp": {"hidden": [8]}},
            "strategies": strategies or {},
            "training": {"epochs": 2, "batch_size": 16},
        }
    )


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "class_incremental",
            {"data": "cifar01"},
            r"^benchmark.class_incremental.data.cifar01: .* Did you mean 'cifar10'",
        ),
        (
            "class_incremental",
            {"data": {"digits": {"size": 3}}},
            r"^benchmark.class_incremental.data.digits.size: unknown",
        ),
        ("class_incremental", {"data": {}}, r"^benchmark.class_incremental.data=\[\]: must hold exactly one name"),
        ("class_incremental", {"data": 3}, r"^benchmark.class_incremental.data=3: must be a string or a mapping"),
        ("permuted", {"blurry": 0.5}, r"^benchmark.permuted.blurry: unknown key"),
        (
            "corrupted",
            {"corruptions": ["foggy"]},
            r"^benchmark.corrupted.corruptions=\['foggy'\]: must be .* Did you mean 'fog'",
        ),
        (
            "corrupted",
            {"corruptions": ["fog", "fog"]},
            r"^benchmark.corrupted.corruptions=\['fog', 'fog'\]: must be one",
        ),
        ("corrupted", {"severity": 6}, r"^benchmark.corrupted.severity=6: must be an integer in \[1, 5\]"),
        ("restyled", {"styles": []}, r"^benchmark.restyled.styles=\[\]: must be one or more names"),
    ],
)
def test_wrong_settings_are_refused_with_their_path(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        resolve_experiment(experiment(name, **settings))
    assert not str(caught.value).endswith("..")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "class_incremental",
            {"num_experiences": 4},
            r"num_experiences=4: must divide the number of classes, 6: 1, 2, 3, 6\.$",
        ),
        (
            "task_incremental",
            {"class_order": ["anr"], "num_experiences": 3},
            r"class_order: 'anr' is no class: .* Did you mean 'ant'\?$",
        ),
        (
            "class_incremental",
            {"class_order": [0, 1], "num_experiences": 3},
            r"class_order=\[0, 1\]: must hold each class from 0 to 5 once; .* cat",
        ),
        ("classes_and_domains", {"num_groups": 4}, r"num_groups=4: must divide the number of classes, 6: 1, 2, 3, 6\."),
        (
            "classes_and_domains",
            {"num_groups": 3, "class_order": [9]},
            r"class_order: 9 is no class: the numbers 0 to 5, or the names of the classes\.$",
        ),
        ("domain_incremental", {"data": "digits"}, r"data: this data set has no domains; these have: .*emoji"),
        (
            "domain_incremental",
            {"domains": ["paimt"]},
            r"domains: 'paimt' is no domain .* Did you mean 'paint'\? Known: photo",
        ),
        (
            "domain_incremental",
            {"domains": ["later"], "data": {ANIMALS: {"sessions": True}}},
            r"domains: 'later' has no training pictures",
        ),
        (
            "restyled",
            {"styles": ["hue_rotated"], "data": "digits"},
            r"styles: 'hue_rotated' changes nothing in grey",
        ),
    ],
)
def test_what_does_not_fit_the_data_is_refused_when_the_stream_is_built(
    name: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=rf"^benchmark\.{name}\.{message}"):
        build_trial(resolve_experiment(experiment(name, **settings)), planning=True)


def test_show_prints_the_data_sets_settings_and_reads_them_back() -> None:
    filled = resolve_experiment(experiment("class_incremental", num_experiences=2)).experiment
    shown = to_dict(filled)["benchmark"]["class_incremental"]
    assert shown["data"] == {ANIMALS: {"sessions": False, "lacking": False}}
    assert shown["imbalance"] is None
    assert to_dict(resolve_experiment(from_dict(to_dict(filled))).experiment) == to_dict(filled)


@pytest.mark.parametrize(("name", "settings"), [("restyled", {}), ("corrupted", {"corruptions": ["jpeg"]})])
def test_channels_that_do_not_fit_are_refused(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"^benchmark\.{name}\..*\b2\b"):
        build_trial(resolve_experiment(experiment(name, **settings)), planning=True)


def test_a_data_set_without_settings_in_yaml() -> None:
    filled = resolve_experiment(experiment("class_incremental", data={"digits": None})).experiment
    assert filled.benchmark["class_incremental"]["data"] == {"digits": {"normalise": True}}


def test_data_sets_that_declare_domains() -> None:
    assert (
        {"emoji", "digit_domains"}
        <= set(dataset_key.data_sets_with_domains())
        <= set(registry.names("datasets")) - {"mnist"}
    )


# --- given tasks ---


def learner_of(stream: Stream, *strategies: Any, **training: Any) -> Learner:
    """Return a learner with a small network."""
    settings = Training(**({"epochs": 1, "batch_size": 16, "optimizer": Optimizer(lr=0.05, clip=None)} | training))
    model = mlp.build(
        mlp.Config(hidden=(8,)), stream.shape, len(stream.experiences[0].classes), generator(1, "network")
    )
    return Learner(
        model=model, stream=stream, training=settings, plugins=strategies, seed_data=3, seed_initialisation=4
    )


class Look(Plugin):
    """Compare each iteration's loss and gradient with those of separate heads."""

    def __init__(self) -> None:
        self.num_iterations = 0
        self.tasks: set[int] = set()

    def after_backward(self, learner: Any, **kwargs: Any) -> None:
        """Loss: cross-entropy on the task's logits. Gradient: 0 in the rows of classes of tasks without samples."""
        own = learner.stream.class_mask
        logits, y, t = learner.mb_output, learner.mb_y, learner.mb_task_id
        losses = []
        for row, label, task in zip(logits, y.tolist(), t.tolist(), strict=True):
            classes = torch.nonzero(own[task]).flatten()
            losses.append(F.cross_entropy(row[classes][None], torch.tensor([classes.tolist().index(label)])))
        torch.testing.assert_close(learner.loss, torch.stack(losses).mean())
        gradient = learner.model.head.weight.grad
        present = own[t.unique()].any(0)[: len(gradient)]
        assert bool((gradient[~present] == 0).all())
        assert bool((gradient[present] != 0).any())
        self.num_iterations += 1
        self.tasks |= set(t.tolist())


@pytest.mark.parametrize("memory", [0, 12])
def test_a_task_trains_its_own_head(memory: int) -> None:
    """Replayed samples keep their task: their loss is computed among its classes."""
    stream, look = build("task_incremental", num_experiences=3), Look()
    learner = learner_of(stream, replay.ReplayPlugin(replay.Config(memory=memory), 0), look)
    seen = []
    for number in range(3):
        before = look.num_iterations
        look.tasks = set()
        head = learner.model.head.weight.detach().clone()
        learner.train_experience(number)
        seen.append(look.tasks)
        assert look.num_iterations > before
        if not memory and number:  # no bit of the other tasks' rows has changed
            assert torch.equal(learner.model.head.weight[: len(head)], head)
    assert seen == ([{0}, {0, 1}, {0, 1, 2}] if memory else [{0}, {1}, {2}])


def test_evaluation_of_a_task_picks_among_its_classes() -> None:
    """By hand, from the network's logits; both views are the task-aware one."""
    stream = build("task_incremental", num_experiences=3)
    learner = learner_of(stream)
    for number in range(2):
        learner.train_experience(number)
    row = learner.evaluate()
    learner.model.eval()
    for number, experience in enumerate(stream.experiences[:2]):
        x = stream.normalise(experience.test.arrays.x[experience.test.indices])
        own = list(experience.classes)
        right = torch.tensor(own)[learner.model(x)[:, own].argmax(1)] == experience.test.y
        assert row.task_agnostic[number] == row.task_aware[number] == pytest.approx(right.double().mean().item())
    assert row.task_aware[2] != row.task_aware[2]  # the head lacks its classes


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_early_stopping_scores_a_task_among_its_classes(metric: Any) -> None:
    stream = build("task_incremental", num_experiences=3, validation=0.3)
    learner = learner_of(stream, early_stopping.EarlyStoppingPlugin(early_stopping.Config(metric=metric), 0))
    learner.train_experience(0)
    learner.train_experience(1)
    held = stream.experiences[1].validation
    own = list(stream.experiences[1].classes)
    logits = learner.model(stream.normalise(held.arrays.x[held.indices]))[:, own]
    y = held.y - own[0]
    expected = (logits.argmax(1) == y).double().mean() if metric == "accuracy" else F.cross_entropy(logits, y)
    assert learner.measured[f"validation_{metric}"] == pytest.approx(expected.item(), rel=1e-5)


# --- strategies on these streams ---

EVERY: list[dict[str, Any]] = [
    {"lwf": {}, "freezing": {}, "early_stopping": {"patience": 1}},
    {"replay": {"memory": 12}, "early_stopping": {"patience": 1, "metric": "loss"}},
]


@pytest.mark.parametrize("strategies", EVERY, ids=lambda chosen: " ".join(chosen))
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("task_incremental", {"num_experiences": 3}),
        ("classes_and_domains", {"num_groups": 2, "order": "shuffled"}),
        ("class_incremental", {"num_experiences": 3, "blurry": 0.3}),
        ("class_incremental", {"num_experiences": 2, "first": 5, "shots": 3, "imbalance": 0.5}),
    ],
    ids=str,
)
def test_strategies_run(name: str, settings: dict[str, Any], strategies: dict[str, Any], tmp_path: Path) -> None:
    """A trial from its config to its matrix; every value is a number if the head has the classes."""
    state = run_trial(resolve_experiment(experiment(name, strategies, **settings)).experiment, tmp_path / "trial")
    matrix = Trial(tmp_path / "trial").read("matrix")
    assert state is not None and matrix is not None
    assert matrix["scenario"] == {"task_incremental": "task", "classes_and_domains": "mixed"}.get(name, "class")
    assert all(0 <= value <= 1 for value in matrix["task_aware"][-1])
    if "replay" in strategies and matrix["scenario"] != "class":
        page = report([tmp_path / "trial"]).read_text(encoding="utf-8")
        said = {
            "task": "task-incremental, .* The task is given in training and testing",
            "mixed": "of classes and domains, ",
        }
        assert re.search(said[matrix["scenario"]], page)
        assert "Knowing the experience changes no number" not in page
