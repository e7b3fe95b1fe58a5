"""How a data set becomes a stream of new classes, each in one experience; and the settings of that.

Shapes: N samples of a part of the data set, n of them chosen. Labels are numbered in order of appearance.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from ..errors import UserError, nearest
from .dataset import DataSet
from .streams import Arrays, Experience, Part, Scenario, Stream
from .subsampling import ORDER, SubsetOptions, assign_blurry, few_shot, numpy_generator, train_validation_split

_SHOWN = 10  # so many classes are named in an experience's name


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskSplit(SubsetOptions):
    """Settings of a stream that has each class in one experience.

    num_experiences: how many experiences; must divide the number of classes (after those of `first`) equally.
    first: classes in a large first experience, the rest divided equally among the others: 50 with num_experiences 11 is
        B50 with 10 steps on 100 classes; null: all alike.
    class_order: the classes, by number or by name, in their order of appearance; null: shuffled by the seed.
    """

    NUM_CLASSES: ClassVar[int | None] = None  # where it is known before the data are
    num_experiences: int = 5
    first: int | None = None
    class_order: tuple[int | str, ...] | None = None

    def __post_init__(self) -> None:
        SubsetOptions.__post_init__(self)
        if self.num_experiences < 1:
            raise ValueError(f"num_experiences={self.num_experiences!r}: must be at least 1")
        if self.first is not None and self.first < 1:
            raise ValueError(f"first={self.first!r}: must be at least 1, or null")
        if self.NUM_CLASSES is not None:
            experience_sizes(self.NUM_CLASSES, self.num_experiences, self.first)
            if all(isinstance(label, int) for label in self.class_order or ()):  # names are known with the data
                ordered_classes(self.class_order, tuple(str(label) for label in range(self.NUM_CLASSES)))


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassSplit(TaskSplit):
    """Settings of a stream of new classes that are told apart among all.

    blurry: blurry boundaries: this fraction of each class's training samples is met in the other experiences, evenly; the
        test and validation samples stay with the class's own experience.
    """

    blurry: float = 0.0

    def __post_init__(self) -> None:
        TaskSplit.__post_init__(self)
        if not 0 <= self.blurry < 1:
            raise ValueError(f"blurry={self.blurry!r}: must be at least 0 and less than 1, a fraction of the samples")
        if self.blurry and self.shots is not None:
            raise ValueError(f"blurry={self.blurry!r}: goes not together with shots={self.shots!r}")
        if self.blurry and self.num_experiences == 1:
            raise ValueError(f"blurry={self.blurry!r}: needs at least two experiences")


def experience_sizes(num_classes: int, num_experiences: int, first: int | None) -> list[int]:
    """How many new classes each experience has.

    Raises:
        ValueError: they cannot be divided so; says which numbers of experiences can.
    """
    before = 0 if first is None else 1
    rest, steps = num_classes - (first or 0), num_experiences - before
    if rest < 1:
        raise ValueError(f"first={first}: must be less than {num_classes}, the number of classes")
    if not 1 <= steps <= rest:
        what = "the number of classes" if first is None else f"1 and the {rest} classes left by first={first}"
        raise ValueError(f"num_experiences={num_experiences}: must be between {1 + before} and {rest + before}, {what}")
    if rest % steps:
        allowed = ", ".join(str(number + before) for number in range(1, rest + 1) if rest % number == 0)
        what = f"divide the number of classes, {num_classes}" if first is None else f"divide the {rest} classes left"
        raise ValueError(f"num_experiences={num_experiences}: must {what}: {allowed}")
    return ([] if first is None else [first]) + [rest // steps] * steps


def ordered_classes(given: Sequence[int | str] | None, class_names: tuple[str, ...]) -> list[int] | None:
    """Numbers of the classes in the order given by number or by name; None: none is given.

    Raises:
        ValueError: a class is unknown, missing or named twice.
    """
    if given is None:
        return None
    found = [_number(one, class_names) for one in given]
    if sorted(found) != list(range(len(class_names))):
        missing = [class_names[label] for label in range(len(class_names)) if found.count(label) != 1]
        wrong = f"once; missing or twice: {', '.join(missing[:_SHOWN])}"
        raise ValueError(f"class_order={list(given)}: must hold each class from 0 to {len(class_names) - 1} {wrong}")
    return found


def _number(given: int | str, class_names: tuple[str, ...]) -> int:
    if isinstance(given, int) and str(given) in class_names and class_names.index(str(given)) != given:
        raise ValueError(
            f"class_order: {given} is a class's name and another's number: write names in quotes, '{given}'"
        )
    if isinstance(given, int) and 0 <= given < len(class_names):
        return given
    if given in class_names:
        return class_names.index(str(given))
    known = f"the numbers 0 to {len(class_names) - 1}, or the names of the classes"
    raise ValueError(f"class_order: {given!r} is no class: {known}.{nearest(str(given), class_names)}")


def class_stream(name: str, source: DataSet, config: TaskSplit, seed: int, scenario: Scenario = "class") -> Stream:
    """Build a stream of new classes, each in one experience; the data set's domains, where it has some, are pooled.

    Raises:
        UserError: the data set's classes cannot be divided or ordered as the settings say.
    """
    try:
        steps = experience_sizes(len(source.class_names), config.num_experiences, config.first)
        order = ordered_classes(config.class_order, source.class_names)
    except ValueError as error:
        raise refusal(name, error) from None
    check_shots(name, config, len(steps))
    found = renumbered(source, order or drawn_order(source, seed))
    fit, held = train_validation_split(source, config, seed)
    home = torch.repeat_interleave(torch.arange(len(steps)), torch.tensor(steps))  # of each class
    place = home[found.train.y[fit]]
    blurry = config.blurry if isinstance(config, ClassSplit) else 0.0
    if blurry:
        place = assign_blurry(place, source.train.y[fit], blurry, len(steps), seed)
    experiences = []
    for number in range(len(steps)):
        classes = tuple(torch.nonzero(home == number).flatten().tolist())
        parts = (
            Part(found.train, shots_of(source, config, fit[place == number], number, seed)),
            Part(found.train, of_classes(found.train.y, held, classes)),
            Part(found.test, of_classes(found.test.y, torch.arange(len(found.test.y)), classes)),
        )
        experiences.append(Experience("classes " + names_of(found, classes), classes, *parts))
    return make_stream(name, scenario, found, experiences)


def shared_labels_stream(name: str, source: DataSet, config: TaskSplit, seed: int) -> Stream:
    """Build a stream of groups of classes that share their labels: the first class of each group is 0, the second is 1, ...

    Raises:
        UserError: the data set's classes cannot be divided or ordered as the settings say.
    """
    stream = class_stream(name, source, config, seed)
    size = len(stream.experiences[0].classes)
    labels = tuple(range(size))
    first = stream.experiences[0]
    train, test = (Arrays(part.arrays.x, part.arrays.y % size) for part in (first.train, first.test))
    experiences = []
    for one in stream.experiences:
        parts = Part(train, one.train.indices), Part(train, one.validation.indices), Part(test, one.test.indices)
        experiences.append(Experience(one.name, labels, *parts))
    found = replace(source, class_names=stream.class_names)
    names = tuple(names_of(found, range(label, len(found.class_names), size)) for label in labels)
    return make_stream(name, "domain", replace(source, class_names=names), experiences)


def refusal(name: str, error: ValueError) -> UserError:
    """What does not fit the data set, with the key's full path."""
    text = f"benchmark.{name}.{error}"
    return UserError(text if text.endswith((".", "?")) else f"{text}.")


def drawn_order(source: DataSet, seed: int) -> list[int]:
    """The classes in the order that the seed gives."""
    return [int(label) for label in numpy_generator(seed, ORDER).permutation(len(source.class_names))]


def renumbered(source: DataSet, order: Sequence[int]) -> DataSet:
    """The data set with its classes numbered by their place in `order`; the pictures are the same."""
    label_of = torch.empty(len(order), dtype=torch.int64)
    label_of[list(order)] = torch.arange(len(order))
    train, test = (Arrays(part.x, label_of[part.y]) for part in (source.train, source.test))
    return replace(source, train=train, test=test, class_names=tuple(source.class_names[label] for label in order))


def of_classes(y: torch.Tensor, indices: torch.Tensor, classes: Sequence[int]) -> torch.Tensor:
    """Those of the positions `indices` (n,) whose label in `y` (N,) is among the classes."""
    return indices[torch.isin(y[indices], torch.tensor(list(classes)))]


def shots_of(source: DataSet, config: SubsetOptions, indices: torch.Tensor, number: int, seed: int) -> torch.Tensor:
    """What experience `number` (0-based) trains on of the positions `indices` (n,): all, or a few shots of each class."""
    if config.shots is None or number < config.shots_from:
        return indices
    return few_shot(indices, source.train.y[indices], config.shots, seed)


def check_shots(name: str, config: SubsetOptions, num_experiences: int) -> None:
    """Refuse few shots from an experience on that the stream does not have."""
    if config.shots is not None and config.shots_from >= num_experiences:
        raise UserError(
            f"benchmark.{name}.shots_from={config.shots_from}: must be below {num_experiences}, the number of experiences."
        )


def names_of(source: DataSet, classes: Sequence[int]) -> str:
    """The names of the classes, for an experience's name; of many, the first."""
    names = [source.class_names[label] for label in classes]
    if len(names) <= _SHOWN:
        return ", ".join(names)
    return f"{', '.join(names[:3])} and {len(names) - 3} more"


def make_stream(name: str, scenario: Scenario, source: DataSet, experiences: Sequence[Experience]) -> Stream:
    """Put the experiences together with what the data set says of its pictures."""
    return Stream(name, scenario, tuple(experiences), source.class_names, source.shape, source.mean, source.std)
