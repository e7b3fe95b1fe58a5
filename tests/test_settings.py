"""What `@settings` accepts, and what it says of what it refuses; a plain dataclass is validated by pydantic as a whole."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Interval, MaxLen, MultipleOf

from retain.platform.config.load import build_config
from retain.platform.config.registry import is_neutral
from retain.platform.config.settings import (
    FromExperience,
    MemorySize,
    NonNegativeFloat,
    OnePerClass,
    OnlyWith,
    PerExperience,
    PositiveInt,
    describe,
    settings,
    stream_problem,
)
from retain.platform.errors import UserError


@settings
class Config:
    weight: PerExperience[NonNegativeFloat] = 1.0
    loss: Literal["kl", "mse"] = "kl"
    temperature: Annotated[float, OnlyWith(loss="kl")] = 2.0
    every: Annotated[PositiveInt | None, OnlyWith("share")] = None
    share: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    pairs: list[tuple[int, int]] = field(default_factory=list)
    names: Mapping[str, int] = field(default_factory=dict)
    steps: Annotated[int, MultipleOf(3)] = 3
    bounds: Annotated[float | None, Interval(ge=0)] = None
    memory: Annotated[int, OnePerClass(per_class=False)] = 0
    per_class: bool = False
    start: FromExperience = 0


@pytest.mark.parametrize(
    ("values", "stored"),
    [
        ({"weight": 2}, {"weight": 2.0}),
        ({"weight": [1, 2.5]}, {"weight": (1.0, 2.5)}),
        ({"pairs": [[1, 2], [3, 4]]}, {"pairs": [(1, 2), (3, 4)]}),
        ({"names": {1: 2}}, {"names": {"1": 2}}),
        ({"loss": "mse", "temperature": 2.0}, {"loss": "mse"}),
        ({"every": 2, "share": 0.5}, {"every": 2}),
    ],
)
def test_values_of_yaml_are_converted(values: dict[str, Any], stored: dict[str, Any]) -> None:
    config = build_config(Config, values)
    assert {name: getattr(config, name) for name in stored} == stored
    assert config == Config(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"weight": "1"},
            "p.weight='1': must be a finite number of at least 0 or a list with one for each experience: remove the quotes.",
        ),
        ({"weight": []}, "p.weight=[]: must be a finite number of at least 0 or a list with one for each experience."),
        ({"loss": "kll"}, "p.loss='kll': must be 'kl' or 'mse'. Did you mean 'kl'?"),
        ({"loss": "mse", "temperature": 3.0}, "p.temperature=3.0: is not used with loss='mse': leave it out."),
        ({"every": 2}, "p.every=2: is not used without share: leave it out."),
        ({"share": 1}, "p.share=1: must be a number in [0, 1)."),
        ({"pairs": [[1]]}, "p.pairs=[[1]]: must be a list, each item a list of 2 values: an integer, an integer."),
        ({"names": {"a": "b"}}, "p.names.a='b': must be an integer."),
        ({"steps": 4}, "p.steps=4: must be an integer (MultipleOf(multiple_of=3))."),
        ({"bounds": -1.0}, "p.bounds=-1.0: must be a number or null of at least 0."),
        ({"shar": 1}, "p.shar: unknown key. Did you mean 'share'?"),
    ],
)
def test_refused_values_say_what_is_allowed(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as refused:
        build_config(Config, values, "p")
    assert str(refused.value).startswith(message)
    if "unknown key" not in message:
        with pytest.raises(ValueError, match="must be|is not used"):
            Config(**values)


def test_all_refused_values_are_listed() -> None:
    with pytest.raises(UserError) as refused:
        build_config(Config, {"share": 2, "steps": "x"}, "p")
    assert [line.partition("=")[0] for line in str(refused.value).splitlines()] == ["p.share", "p.steps"]


def test_limits_of_the_stream() -> None:
    assert stream_problem(Config(weight=(1.0, 2.0)), 4, 2) == ""
    assert stream_problem(Config(weight=(1.0, 2.0)), 4, 3).startswith("weight=[1.0, 2.0]: must have 3 numbers")
    assert stream_problem(Config(start=3), 4, 3) == "start=3: must be below 3, the experiences trained on"
    assert stream_problem(Config(memory=3), 4, 3) == "memory=3: must be at least 4, one for each class"
    assert stream_problem(Config(memory=3, per_class=True), 4, 3) == ""


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (Annotated[tuple[str, ...], OnlyWith("x")], "a list, each item a string"),
        (Annotated[str, OnlyWith("x")], "a string"),
        (Annotated[str, MaxLen(3)], "a string (MaxLen(max_length=3))"),
        (MemorySize, "an integer of at least 0"),
        (int | None, "an integer or null"),
        (tuple[()], "tuple"),
    ],
)
def test_annotations_in_words(hint: Any, words: str) -> None:
    assert describe(hint) == words


class Mixin:
    def __post_init__(self) -> None:
        if self.a < 0:  # type: ignore[attr-defined]
            raise ValueError("a: must be at least 0")


def test_checks_of_base_classes_run_too() -> None:
    @settings
    class Base(Mixin):
        a: int = 1

    @settings
    class Derived(Base):
        b: int = 1

        def __post_init__(self) -> None:
            if self.a > 5:
                raise ValueError("a: must be at most 5")

    for cls in (Base, Derived):
        with pytest.raises(ValueError, match="at least 0"):
            cls(a=-1)
    with pytest.raises(ValueError, match="at most 5"):
        Derived(a=6)
    assert Derived(a=3).b == 1


@dataclass
class Stage:
    size: int = 1


@dataclass(frozen=True, kw_only=True)
class Plain:
    """A user's Config in the old style."""

    weight: float = 1.0
    stages: tuple[Stage, ...] = ()
    pairs: Sequence[tuple[int, int]] = ()
    table: dict[str, tuple[int, int]] = field(default_factory=dict)
    derived: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "derived", 3)
        if self.weight <= 0:
            raise ValueError(f"weight={self.weight}: must be above 0")


def test_a_plain_dataclass_is_a_config_too() -> None:
    built = build_config(Plain, {"weight": 2, "stages": [{"size": 2}], "pairs": [[1, 2]], "table": {1: [1, 2]}}, "p")
    assert (built.weight, built.stages, built.table, built.derived) == (2.0, (Stage(2),), {"1": (1, 2)}, 3)
    for values, message in (
        ({"weight": -1}, "p.weight=-1.0: must be above 0."),
        ({"weight": "1"}, "p.weight='1': must be a valid number: remove the quotes."),
        ({"stages": [{"size": "x"}]}, "p.stages"),
        ({"wait": 1}, "p.wait: unknown key. Did you mean 'weight'?"),
    ):
        with pytest.raises(UserError) as refused:
            build_config(Plain, values, "p")
        assert str(refused.value).startswith(message)


def test_settings_that_change_nothing_are_known_without_building_them() -> None:
    class Module:
        __name__ = "mine"
        Config = Plain

    assert not is_neutral(Module, Plain(weight=0.5))  # its weight cannot be 0
    Module.NEUTRAL = {"stages": []}  # type: ignore[attr-defined]
    assert is_neutral(Module, Plain(weight=0.5)) and not is_neutral(Module, Plain(stages=(Stage(),)))
