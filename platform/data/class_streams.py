"""Build streams of new classes, each class in one experience, and define their settings.

Shapes: N samples of a part of the data set, n of them chosen. Labels are numbered in order of appearance.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import replace

import torch

from ..config.settings import PositiveInt, settings
from ..errors import UserError, nearest
from .dataset import DataSet
from .streams import Arrays, Experience, Part, Scenario, Stream
from .subsampling import ORDER, SubsetOptions, assign_blurry, few_shot, numpy_generator, train_validation_split

_SHOWN = 10  # classes listed in an experience's name or in an error


@settings
class ClassSplit(SubsetOptions):
    """Settings of a stream that has each class in one experience.

    num_experiences: number of experiences; must divide the number of classes (without those of `first`) evenly.
    first: number of classes in a large first experience; the others share the rest equally. On 100 classes, 50 with
        num_experiences 11 is B50 with 10 steps. null: all experiences have the same size.
    class_order: the classes, by number or by name, in order of appearance; null: shuffled by the seed.
    """

    num_experiences: PositiveInt = 5
    first: PositiveInt | None = None
    class_order: tuple[int | str, ...] | None = None

    def check_classes(self, num_classes: int | None) -> None:
        """Refuse settings that do not fit the number of classes; None: it is known only when the data set is open.

        Raises:
            ValueError: the classes cannot be divided or ordered so.
        """
        if num_classes is not None:
            experience_sizes(num_classes, self.num_experiences, self.first)
            if all(isinstance(label, int) for label in self.class_order or ()):  # names are known only with the data
                ordered_classes(self.class_order, tuple(str(label) for label in range(num_classes)))


def experience_sizes(num_classes: int, num_experiences: int, first: int | None) -> list[int]:
    """Return the number of new classes of each experience.

    Raises:
        ValueError: the classes cannot be divided evenly; the message lists the possible numbers of experiences.
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


def ordered_classes(class_order: Sequence[int | str] | None, class_names: tuple[str, ...]) -> list[int] | None:
    """Convert a class order, by number or by name, to class numbers; None stays None.

    Raises:
        ValueError: a class is unknown, missing or named twice.
    """
    if class_order is None:
        return None
    labels = [_number(entry, class_names) for entry in class_order]
    if sorted(labels) != list(range(len(class_names))):
        missing = [class_names[label] for label in range(len(class_names)) if labels.count(label) != 1]
        wrong = f"once; missing or twice: {', '.join(missing[:_SHOWN])}"
        raise ValueError(
            f"class_order={list(class_order)}: must hold each class from 0 to {len(class_names) - 1} {wrong}"
        )
    return labels


def _number(entry: int | str, class_names: tuple[str, ...]) -> int:
    if isinstance(entry, int) and str(entry) in class_names and class_names.index(str(entry)) != entry:
        raise ValueError(
            f"class_order: {entry} is a class's name and another's number: write names in quotes, '{entry}'"
        )
    if isinstance(entry, int) and 0 <= entry < len(class_names):
        return entry
    normal_names = [unicodedata.normalize("NFC", name) for name in class_names]  # files of a Mac may have form D
    if isinstance(entry, str) and (name := unicodedata.normalize("NFC", entry)) in normal_names:
        return normal_names.index(name)
    known = f"the numbers 0 to {len(class_names) - 1}, or the names of the classes"
    raise ValueError(f"class_order: {entry!r} is no class: {known}.{nearest(str(entry), class_names)}")


def class_stream(
    name: str, source: DataSet, config: ClassSplit, seed: int, *, scenario: Scenario = "class", blurry: float = 0.0
) -> Stream:
    """Build a stream of new classes, each in one experience; the data set's domains, if any, are pooled.

    Args:
        name: the benchmark's, for errors.
        source: the data set.
        config: the settings.
        seed: of the class order, the validation pictures and the subsets.
        scenario: "task" gives the experience in training and testing.
        blurry: the fraction of each class's training samples that moves to the other experiences.

    Raises:
        UserError: the data set's classes cannot be divided or ordered as the settings require.
    """
    try:
        sizes = experience_sizes(len(source.class_names), config.num_experiences, config.first)
        order = ordered_classes(config.class_order, source.class_names)
    except ValueError as error:
        raise setting_error(name, error) from None
    check_shots(name, config, len(sizes))
    relabelled = relabel(source, order or shuffled_order(source, seed))
    train_indices, validation_indices = train_validation_split(source, config, seed)
    class_experience = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    sample_experience = class_experience[relabelled.train.y[train_indices]]
    if blurry:
        sample_experience = assign_blurry(sample_experience, source.train.y[train_indices], blurry, len(sizes), seed)
    experiences = []
    for number in range(len(sizes)):
        classes = tuple(torch.nonzero(class_experience == number).flatten().tolist())
        parts = (
            Part(
                relabelled.train,
                training_indices(source, config, train_indices[sample_experience == number], number, seed),
            ),
            Part(relabelled.train, indices_of_classes(relabelled.train.y, validation_indices, classes)),
            Part(relabelled.test, indices_of_classes(relabelled.test.y, torch.arange(len(relabelled.test.y)), classes)),
        )
        experiences.append(Experience("classes " + joined_class_names(relabelled, classes), classes, *parts))
    return make_stream(name, scenario, relabelled, experiences)


def setting_error(name: str, error: ValueError) -> UserError:
    """Turn a refused setting into a UserError with the key's full path."""
    text = f"benchmark.{name}.{error}"
    return UserError(text if text.endswith((".", "?")) else f"{text}.")


def shuffled_order(source: DataSet, seed: int) -> list[int]:
    """Return the classes in an order shuffled by the seed."""
    return [int(label) for label in numpy_generator(seed, ORDER).permutation(len(source.class_names))]


def relabel(source: DataSet, order: Sequence[int]) -> DataSet:
    """Return the data set with its classes renumbered by their position in `order`; the pictures are shared."""
    label_of = torch.empty(len(order), dtype=torch.int64)
    label_of[list(order)] = torch.arange(len(order))
    train, test = (Arrays(part.x, label_of[part.y]) for part in (source.train, source.test))
    return replace(source, train=train, test=test, class_names=tuple(source.class_names[label] for label in order))


def indices_of_classes(y: torch.Tensor, indices: torch.Tensor, classes: Sequence[int]) -> torch.Tensor:
    """Return those of the `indices` (n,) whose label in `y` (N,) is one of the classes."""
    return indices[torch.isin(y[indices], torch.tensor(list(classes)))]


def training_indices(
    source: DataSet, config: SubsetOptions, indices: torch.Tensor, number: int, seed: int
) -> torch.Tensor:
    """Return the training indices of experience `number` (0-based): all `indices` (n,), or a few shots of each class."""
    if config.shots is None or number < config.shots_from:
        return indices
    return few_shot(indices, source.train.y[indices], config.shots, seed)


def check_shots(name: str, config: SubsetOptions, num_experiences: int) -> None:
    """Check that few shots start at an experience of the stream.

    Raises:
        UserError: `shots_from` is not below the number of experiences.
    """
    if config.shots is not None and config.shots_from >= num_experiences:
        raise UserError(
            f"benchmark.{name}.shots_from={config.shots_from}: must be below {num_experiences}, the number of experiences."
        )


def joined_class_names(source: DataSet, classes: Sequence[int]) -> str:
    """Return the names of the classes for an experience's name; of many, only the first."""
    names = [source.class_names[label] for label in classes]
    if len(names) <= _SHOWN:
        return ", ".join(names)
    return f"{', '.join(names[:3])} and {len(names) - 3} more"


def make_stream(name: str, scenario: Scenario, source: DataSet, experiences: Sequence[Experience]) -> Stream:
    """Build a stream from its experiences and the data set's class names, shape, mean, deviation and notes."""
    return Stream(
        name, scenario, tuple(experiences), source.class_names, source.shape, source.mean, source.std, source.notes
    )
