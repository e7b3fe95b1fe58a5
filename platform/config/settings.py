"""Settings of a strategy, network, data set, benchmark, probe or transformation: frozen dataclasses that check their values.

A field's annotation states what is allowed, with the constraints of `annotated_types` and pydantic:

    @settings
    class Config:
        weight: NonNegativeFloat = 1.0
        temperature: Annotated[PositiveFloat, OnlyWith(loss="kl")] = 2.0
        loss: Literal["kl", "mse"] = "kl"
"""

import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, Union, dataclass_transform, get_args, get_origin, get_type_hints

from annotated_types import Ge as Ge  # Ge, Gt, Interval and MinLen are for annotations in other modules too
from annotated_types import Gt as Gt
from annotated_types import Interval as Interval
from annotated_types import Le, Lt
from annotated_types import MinLen as MinLen
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic import Field as Constraint
from pydantic.fields import FieldInfo

from ..errors import UserError, nearest
from ..visible_text import shortened
from .repairs import mapping_advice, repairs

T = TypeVar("T")
V = TypeVar("V", int, float)
Finite = Constraint(allow_inf_nan=False)
PositiveFloat = Annotated[float, Gt(0), Finite]
NonNegativeFloat = Annotated[float, Ge(0), Finite]
PositiveInt = Annotated[int, Gt(0)]
NonNegativeInt = Annotated[int, Ge(0)]
Fraction = Annotated[float, Interval(ge=0, lt=1)]
UnitInterval = Annotated[float, Interval(ge=0, le=1)]
Patterns = Annotated[tuple[Annotated[str, MinLen(1)], ...], MinLen(1)]  # on names of layers, as fnmatch
_NOUNS = {float: "a number", int: "an integer", bool: "true or false", str: "a string", type(None): "null"}


class OnlyWith:
    """A setting that is used only with certain values of other settings; otherwise it must keep its default.

    ``OnlyWith(loss="kl")``: `loss` must be "kl" (or one of a tuple); ``OnlyWith("tolerance")``: `tolerance` must not be null, 0,
    false or empty.
    """

    def __init__(self, *switches: str, **values: Any) -> None:
        self.switches, self.values = switches, values

    def problem(self, instance: Any) -> str:
        """Return why the setting is not used by this instance; an empty text if it is used."""
        for switch in self.switches:
            if not getattr(instance, switch):
                return f"is not used without {switch}: leave it out"
        for name, allowed in self.values.items():
            value = getattr(instance, name)
            if value not in (allowed if isinstance(allowed, tuple) else (allowed,)):
                return f"is not used with {name}={_shown(value)}: leave it out"
        return ""


class StreamLimit:
    """A limit on a number that depends on the trial's stream; `stream_problem` checks it.

    ``OnePerClass(per_class=False)``: it holds only while `per_class` is False (or one of a tuple).
    """

    def __init__(self, **values: Any) -> None:
        self._only_with = OnlyWith(**values)

    def applies(self, instance: Any) -> bool:
        """Return whether the limit holds for this instance."""
        return not self._only_with.problem(instance)

    def problem(self, value: int, num_classes: int, num_experiences: int) -> str:
        """Return why the value does not fit the stream; an empty text if it does."""
        raise NotImplementedError


class BelowNumExperiences(StreamLimit):
    """The number of an experience, from 0: it must be one that the trial trains on."""

    def problem(self, value: int, num_classes: int, num_experiences: int) -> str:
        """Return why the value does not fit the stream; an empty text if it does."""
        return "" if value < num_experiences else f"must be below {num_experiences}, the experiences trained on"


class OnePerExperience(StreamLimit):
    """A list with one value for each experience that the trial trains on; a single value is for all of them."""

    def problem(self, value: Any, num_classes: int, num_experiences: int) -> str:
        """Return why the value does not fit the stream; an empty text if it does."""
        if not isinstance(value, tuple) or len(value) == num_experiences:
            return ""
        return f"must have {num_experiences} numbers, one for each experience trained on"


class OnePerClass(StreamLimit):
    """The size of a memory, which must hold at least one sample of each class; 0 is no memory."""

    def problem(self, value: int, num_classes: int, num_experiences: int) -> str:
        """Return why the value does not fit the stream; an empty text if it does."""
        return "" if value == 0 or value >= num_classes else f"must be at least {num_classes}, one for each class"


# one value, or a list with one for each experience
PerExperience = Union[T, Annotated[tuple[T, ...], MinLen(1), OnePerExperience()]]  # noqa: UP007 - mypy takes no generic alias with |
FromExperience = Annotated[int, Ge(0), BelowNumExperiences()]
MemorySize = Annotated[int, Ge(0), OnePerClass()]


@dataclass_transform(frozen_default=True, kw_only_default=True)
def settings(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass with keyword-only fields, whose values are checked when an instance is created.

    Types are strict (no ``"1"`` for 1); lists become tuples, whole numbers become floats where the field is a float. A method
    ``__post_init__`` can check what annotations cannot express; it raises ValueError("name=value: must be ..."). Those of base
    classes are called first, so it must not call ``super().__post_init__()``.

    Raises:
        ValueError: a value is not allowed; the message has a line for each setting: name, value and what is allowed.
    """
    own_checks: list[Callable[[Any], None]] = []
    for each in reversed(cls.__mro__):
        check = vars(each).get("__post_init__")
        checks = getattr(check, "own_checks", [check] if check else [])
        own_checks += [method for method in checks if method not in own_checks]

    def __post_init__(self: Any) -> None:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        for name, value in checked_values(type(self), values).items():
            object.__setattr__(self, name, value)
        _check_unused(self)
        for own_check in own_checks:
            own_check(self)

    __post_init__.own_checks = own_checks  # type: ignore[attr-defined]
    cls.__post_init__ = __post_init__  # type: ignore[attr-defined]
    return dataclass(frozen=True, kw_only=True, slots=True)(cls)


def is_settings(cls: Any) -> bool:
    """Return whether a class was made by `settings`, or derives from such a class (as an alias of a benchmark does)."""
    return hasattr(getattr(cls, "__post_init__", None), "own_checks")


def value_at(value: V | tuple[V, ...], experience: int, key: str) -> V:
    """Return the value for an experience (0-based): `value` itself, or the entry of a list with one value per experience.

    Raises:
        UserError: the list is shorter than the stream.
    """
    if not isinstance(value, tuple):
        return value
    if experience >= len(value):
        raise UserError(
            f"{key}={list(value)}: needs a value for each experience; there is none for number {experience + 1}."
        )
    return value[experience]


def checked_values(cls: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values of a dataclass's fields, checked against their annotations and converted as `settings` says.

    Raises:
        ValueError: a line for each value that is not allowed.
    """
    checked, problems = {}, []
    for name, value in values.items():
        hint = _hints(cls)[name]
        try:
            checked[name] = _adapter(cls, name).validate_python(_from_yaml(hint, value))
        except ValidationError as error:
            problems.extend(_problems(name, hint, value, error))
    if problems:
        raise ValueError("\n".join(problems))
    return checked


def stream_problem(config: Any, num_classes: int, num_experiences: int) -> str:
    """Return the first setting that does not fit a stream, with the reason; an empty text if all do.

    Args:
        config: the settings.
        num_classes: classes of the stream.
        num_experiences: experiences that are trained on.
    """
    cls: Any = type(config)
    for name, hint in _hints(cls).items():
        value = getattr(config, name)
        members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
        for each in (each for member in members for each in _metadata(member)):
            if isinstance(each, StreamLimit) and value is not None and each.applies(config):
                if problem := each.problem(value, num_classes, num_experiences):
                    return f"{name}={_shown(value)}: {problem}"
    return ""


def per_experience(config: Any) -> list[str]:
    """Return the settings that may be a list with one value for each experience; none of what is no dataclass."""
    if not is_dataclass(config):
        return []
    cls: Any = config if isinstance(config, type) else type(config)
    members = {name: get_args(hint) or (hint,) for name, hint in _hints(cls).items()}
    return [
        name
        for name, each in members.items()
        if any(isinstance(mark, OnePerExperience) for member in each for mark in _metadata(member))
    ]


def _check_unused(instance: Any) -> None:
    """Refuse a setting that differs from its default although another setting makes it unused."""
    cls: Any = type(instance)
    for field in fields(instance):
        conditions = [each for each in _metadata(_hints(cls)[field.name]) if isinstance(each, OnlyWith)]
        value = getattr(instance, field.name)
        if conditions and value != _default(field):
            for condition in conditions:
                if problem := condition.problem(instance):
                    raise ValueError(f"{field.name}={_shown(value)}: {problem}")


def _default(field: "Field[Any]") -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


@cache
def _hints(cls: Any) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


@cache  # building one takes up to a millisecond
def _adapter(cls: Any, name: str) -> TypeAdapter[Any]:
    """Return pydantic's validator of a field; a field that is a dataclass takes instances only."""
    hint = _hints(cls)[name]
    if is_dataclass(hint):
        return TypeAdapter(hint)
    return TypeAdapter(hint, config=ConfigDict(strict=True, arbitrary_types_allowed=True))


def _from_yaml(hint: Any, value: Any) -> Any:
    """Return a value from YAML with tuples instead of lists wherever the annotation is a tuple, and texts as keys."""
    bare, origin = _bare(hint), get_origin(_bare(hint))
    if origin in (Union, types.UnionType):
        member = _container_member(bare, value)
        return value if member is None else _from_yaml(member, value)
    arguments = get_args(bare)
    if isinstance(value, list | tuple):
        if bare is tuple or (origin is tuple and arguments[-1:] != (...,) and len(arguments) != len(value)):
            return tuple(value)
        if origin in (tuple, list, Sequence):
            hints = arguments if origin is tuple and arguments[-1] is not ... else arguments[:1] * len(value)
            items = [_from_yaml(item_hint, item) for item_hint, item in zip(hints, value, strict=True)]
            return items if origin is list else tuple(items)
    if isinstance(value, Mapping):
        if is_dataclass(bare) and isinstance(bare, type):
            return bare(**value)
        if origin in (Mapping, dict):
            return {str(key): _from_yaml(arguments[1], item) for key, item in value.items()}
    return value


def _container_member(union: Any, value: Any) -> Any | None:
    """Return the member of a union that a list or mapping is meant for; None for any other value or annotation."""
    kinds = (tuple, list, Sequence) if isinstance(value, list | tuple) else (Mapping, dict)
    if not isinstance(value, list | tuple | Mapping) or get_origin(_bare(union)) not in (Union, types.UnionType):
        return None
    return next((each for each in get_args(_bare(union)) if get_origin(_bare(each)) in kinds), None)


def _bare(hint: Any) -> Any:
    """Return an annotation without its constraints."""
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _metadata(hint: Any) -> list[Any]:
    return list(get_args(hint)[1:]) if get_origin(hint) is Annotated else []


def _problems(name: str, hint: Any, value: Any, error: ValidationError) -> list[str]:
    """Return one sentence for each key at fault: the field's, or one inside its mapping."""
    faults: dict[str, tuple[Any, Any]] = {}  # key -> its annotation and value
    for item in error.errors():
        key, key_hint, key_value = name, hint, value
        for part in item["loc"]:
            kind = _bare(_container_member(key_hint, key_value) or key_hint)
            if get_origin(kind) is Mapping and isinstance(key_value, Mapping) and part in key_value:
                key, key_hint, key_value = f"{key}.{part}", get_args(kind)[1], key_value[part]
        faults[key] = key_hint, key_value
    if len(faults) > 1:  # the keys inside are more precise
        faults.pop(name, None)
    return [
        f"{key}={_shown(part)}: must be {describe(of)}{_nearest(of, part) or _advice(of, part)}"
        for key, (of, part) in faults.items()
    ]


def _advice(hint: Any, value: Any) -> str:
    """Return how to write what the user probably meant, if the annotation allows it; an empty text otherwise."""
    if is_dataclass(hint) or get_origin(_bare(_container_member(hint, {}) or hint)) in (Mapping, dict):
        if value is None and not is_dataclass(hint):
            return ": write {} if it has no content, or indent its content under it"
        return mapping_advice(value, names=not is_dataclass(hint)) or _key_of(hint, value)
    adapter: TypeAdapter[Any] = TypeAdapter(hint, config=ConfigDict(strict=True, arbitrary_types_allowed=True))
    for repaired, advice in repairs(value):
        try:
            adapter.validate_python(_from_yaml(hint, repaired))
        except ValidationError:
            continue
        return f": {advice}"
    return ""


def _key_of(section: Any, value: Any) -> str:
    """Return the form with the key of a section that takes a value as its name: ``{name: adam}``; an empty text if none does."""
    hints = get_type_hints(section) if is_dataclass(section) and isinstance(value, str) else {}
    key = next((key for key, hint in hints.items() if value in _names(hint)), None)
    return f": write {{{key}: {value}}}" if key else ""


def _nearest(hint: Any, value: Any) -> str:
    """Return a suggestion for a misspelt name, or for the first one in a list."""
    if get_origin(_bare(hint)) is tuple and isinstance(value, list | tuple):
        item_hint = get_args(_bare(hint))[0]
        return next((_nearest(item_hint, item) for item in value if item not in get_args(_bare(item_hint))), "")
    suggestion = nearest(value, _names(hint)) if isinstance(value, str) else ""
    return suggestion and f".{suggestion}"


def _names(hint: Any) -> list[str]:
    """Return the texts that an annotation lists, ``Literal["a", "b"] | None`` too."""
    members = get_args(_bare(hint)) if get_origin(_bare(hint)) in (Union, types.UnionType) else (hint,)
    names = [name for member in members if get_origin(_bare(member)) is Literal for name in get_args(_bare(member))]
    return [name for name in names if isinstance(name, str)]


def _shown(value: Any) -> str:
    return shortened(repr(list(value) if isinstance(value, tuple) else value), 200)


def describe(hint: Any) -> str:
    """Return in words what an annotation allows: ``a finite number of at least 0 or a list with ...``."""
    bare, origin, limits = _bare(hint), get_origin(_bare(hint)), _metadata(hint)
    arguments = get_args(bare)
    if origin in (Union, types.UnionType):
        words = (
            "a list with one for each experience" if _is_per_experience(member, arguments) else describe(member)
            for member in arguments
        )
        return _limited(" or ".join(words), limits)
    if origin is Literal:
        names = [repr(name) for name in arguments]
        return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    if origin is tuple and arguments and arguments[1:] != (...,):
        return f"a list of {len(arguments)} values: {', '.join(map(describe, arguments))}"
    if origin in (tuple, list, Sequence) and arguments:
        return f"{_limited('a list', limits)}, each item {describe(arguments[0])}"
    if origin in (Mapping, dict) or is_dataclass(bare):
        return "a mapping"
    return _limited(_NOUNS.get(bare, getattr(bare, "__name__", str(bare))), limits)


def _is_per_experience(member: Any, members: tuple[Any, ...]) -> bool:
    """Return whether a member of a union is the list of `PerExperience`."""
    is_list = get_origin(_bare(member)) is tuple and any(isinstance(each, MinLen) for each in _metadata(member))
    return is_list and get_args(_bare(member))[0] in members


def _limited(noun: str, metadata: list[Any]) -> str:
    """Return a noun with its limits in words: ``a finite number of at least 0``, ``a number in [0, 1)``."""
    flat = [part for each in metadata for part in (each.metadata if isinstance(each, FieldInfo) else [each])]
    flat = [part for each in flat for part in (each if isinstance(each, Interval) else [each])]
    low = next((each for each in flat if isinstance(each, Ge | Gt)), None)
    high = next((each for each in flat if isinstance(each, Le | Lt)), None)
    finite = any(getattr(each, "allow_inf_nan", None) is False for each in flat)
    words = [noun]
    if low is not None and high is not None:
        opening = f"[{low.ge}" if isinstance(low, Ge) else f"({low.gt}"
        words.append(f"in {opening}, {high.le}]" if isinstance(high, Le) else f"in {opening}, {high.lt})")
    elif low is not None:
        words.append(f"of at least {low.ge}" if isinstance(low, Ge) else f"above {low.gt}")
    elif high is not None:
        words.append(f"of at most {high.le}" if isinstance(high, Le) else f"below {high.lt}")
    if finite and high is None:
        words[0] = noun.replace("a number", "a finite number")
    for each in flat:
        if isinstance(each, MinLen):
            words.append("that is not empty" if noun == "a string" else "of at least one item")
        elif not isinstance(each, Ge | Gt | Le | Lt | OnlyWith | StreamLimit) and not hasattr(each, "allow_inf_nan"):
            words.append(f"({each})")
    return " ".join(words)
