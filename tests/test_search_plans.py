"""Plans of searches: what is refused or said before anything starts because it would see too much, or would mean nothing."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers.search_driver import begin, drive, search_config

from retain.platform.config.load import load_config
from retain.platform.config.search import LEAST_SEEDS_TO_PRUNE, Objective
from retain.platform.errors import UserError
from retain.platform.ledger.journal import read_journal
from retain.platform.sweep.search_checks import check_search
from retain.platform.sweep.search_plan import SearchPlan, plan_search
from retain.platform.sweep.search_space import check_search_space, identity
from retain.platform.sweep.seed_pruning import is_worse
from retain.platform.sweep.suggestions import Outcome, PointList, Suggestion, suggestions_for

LR, BATCH, ITEM = "training.optimizer.lr", "training.batch_size", "training.iterations[{}]"
TPE = {"tpe": {"startup": 2}}


def planned(
    overrides: Sequence[str] = (),
    *,
    top: Mapping[str, Any] | None = None,
    space: Any = None,
    shared: Any = None,
    **sweep: Any,
) -> SearchPlan:
    """The plan of a search; `top`: sections of the config; `space`: of the variant naive; `shared`: of the sweep."""
    if space is not None:
        sweep["variants"] = {"naive": {"space": space}}
    if shared is not None:
        sweep["space"] = shared
    plan = plan_search(load_config({**search_config(**sweep), **(top or {})}, overrides))
    assert plan is not None
    return plan


def iterations(*values: int, **more: Any) -> dict[str, Any]:
    return {"training": {"iterations": list(values), "batch_size": 16}, **more}


def first(k: int, evaluate: str = "whole") -> dict[str, Any]:
    return {"first_experiences": {"k": k, "evaluate": evaluate}}


EPOCHS = iterations(4, 4, 4, 4, 4)
CHOICE = {"choice": [1, 50]}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an item after the first k": (
        {"top": EPOCHS, "space": {ITEM.format(4): CHOICE}},
        f"sweep.space.{ITEM.format(4)}: its values 1 and 50 give the same search trial: it has only the first 3 experiences",
    ),
    "an item of the user's part after the first k": (
        {"top": iterations(4, 4, 4, 4, stream_part={"after": 1}), "space": {ITEM.format(3): CHOICE}},
        f"sweep.space.{ITEM.format(3)}: its values 1 and 50 give the same search trial",
    ),
    "an item of the first k, which are not reported": (
        {"top": EPOCHS, "space": {ITEM.format(0): CHOICE}, "protocol": first(2, "rest")},
        f"sweep.space.{ITEM.format(0)}: its values 1 and 50 give the same reported trial: it leaves out the first 2",
    ),
    "lists that differ after the first k": (
        {"top": EPOCHS, "space": {"training.iterations": {"choice": [[4, 4, 4, 4, 4], [4, 4, 4, 1, 1]]}}},
        "sweep.space.training.iterations: its values [4, 4, 4, 4, 4] and [4, 4, 4, 1, 1] give the same search trial",
    ),
    "test samples, which the protocol sets": (
        {"space": {"stream_part.test": {"choice": ["test", "validation"]}}, "protocol": "end_of_stream"},
        "sweep.space.stream_part.test: its values 'test' and 'validation' give the same search trial",
    ),
    "a variant with a shorter stream": (
        {
            "variants": {
                "naive": {"space": {LR: CHOICE}},
                "short": {"benchmark": {"split_digits": {"num_experiences": 2}}, "space": {LR: CHOICE}},
            },
            "protocol": first(2),
        },
        "sweep (split_digits, short): sweep.protocol.first_experiences.k=2: must be below 2",
    ),
    "a space with a shorter stream": (
        {"space": {"benchmark.split_digits.num_experiences": {"choice": [5, 2]}}, "protocol": first(2)},
        "sweep.protocol.first_experiences.k=2: must be below 2",
    ),
    "a space of the stream that is only evaluated": (
        {
            "streams": {"A": {}, "B": {"space": {BATCH: {"choice": [8, 16]}}}},
            "variants": {"naive": {}, "lwf": {"space": {LR: CHOICE}}},
            "protocol": {"transfer": {"to": "B"}},
        },
        f"sweep (B, naive): sweep.streams.B.space.{BATCH}: differs from the space on A",
    ),
    "another domain on the stream that is only evaluated": (
        {
            "streams": {"A": {}, "B": {"space": {LR: {"choice": [1, 2]}}}},
            "shared": {LR: CHOICE},
            "variants": {"naive": {}},
            "protocol": {"transfer": {"to": "B"}},
        },
        f"sweep (B, naive): sweep.streams.B.space.{LR}: differs",
    ),
    "a domain that the search lacks": (
        {
            "streams": {"A": {"space": {LR: None, BATCH: CHOICE}}, "B": {}},
            "shared": {LR: CHOICE},
            "variants": {"naive": {}},
            "protocol": {"transfer": {"to": "B"}},
        },
        f"sweep (B, naive): sweep.space.{LR}: differs from the space on A",
    ),
    "four seeds to prune": (
        {"prune_seeds": "wilcoxon", "search_seeds": [100, 101, 102, 103]},
        "sweep.prune_seeds=wilcoxon: needs at least 5 of sweep.search_seeds, which has 4",
    ),
    "no seeds left to prune": (
        {"prune_seeds": "wilcoxon", "search_seeds": [100, 101, 102, 103, 104], "seeds_first": 5},
        "sweep.seeds_first=5: must be below the number of sweep.search_seeds",
    ),
    "a rung before its metric is defined": (
        {"scheduler": {"asha": {"metric": "validation.forgetting_max"}}},
        "sweep.scheduler.asha.grace_period=1: must be at least 2: validation.forgetting_max is not defined",
    ),
    "an objective that the first rung does not define": (
        {"scheduler": "asha", "objective": "validation.backward_transfer"},
        "sweep.scheduler.asha.grace_period=1: must be at least 2: validation.backward_transfer is not defined",
    ),
    "a value twice": (
        {"space": {BATCH: {"choice": [8, 16, 8.0]}}},
        f"sweep.space.{BATCH}.choice=[8, 16, 8.0]: a search takes each value once",
    ),
    "infinity": (
        {"space": {LR: {"choice": [0.1, float("inf")]}}},
        f"sweep.space.{LR}.choice[1]=inf: must be a finite number",
    ),
    "a number that is none, in a list": (
        {"space": {"model.mlp.hidden": {"grid": [[8], [8, float("nan")]]}}},
        "sweep.space.model.mlp.hidden.grid[1][1]=nan: must be a finite number",
    ),
    "a grid of a million points": (
        {"search": "grid", "space": {key: {"randint": [1, 1001]} for key in (BATCH, "training.epochs")}},
        f"has at most 10000 points, and this one has 1000000 (1000 of {BATCH} x 1000 of training.epochs)",
    ),
    "a grid of a million points with random draws": (
        {"space": {key: {"grid": [*range(1, 1001)]} for key in (BATCH, "training.epochs")} | {LR: CHOICE}},
        "has at most 10000 points, and this one has 1000000",
    ),
    "more points than a grid has": (
        {
            "search": "grid",
            "space": {LR: CHOICE, BATCH: {"choice": [8]}},
            "points_to_evaluate": [{LR: 1}, {LR: 50}, {LR: 1, BATCH: 8}],
        },
        "sweep.points_to_evaluate: has 3 points, and the search 2 (all combinations of its values): some would not run",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_mean_nothing_or_see_too_much_is_refused(name: str) -> None:
    arguments, message = REFUSED[name]
    with pytest.raises(UserError) as error:
        check_search(planned(**arguments))
    assert message in str(error.value)


def test_a_key_that_is_no_text_is_refused() -> None:
    """A file cannot have one; an Experiment that is made in Python can."""
    with pytest.raises(
        UserError, match=r"sweep.space.training.optimizer.choice\[1\].groups: has the key 1: keys must be"
    ):
        check_search_space({"training.optimizer": {"choice": [{"lr": 0.1}, {"groups": {1: 2}}]}})


@pytest.mark.parametrize(
    ("top", "protocol", "searched", "reported"),
    [
        ({}, first(2), (1, 2), (1, 2, 3, 4, 5)),
        ({}, first(2, "rest"), (1, 2), (3, 4, 5)),
        ({}, "end_of_stream", (1, 2, 3, 4, 5), (1, 2, 3, 4, 5)),
        ({"stream_part": {"after": 2}}, "end_of_stream", (1, 2, 3), (1, 2, 3)),
        ({"stream_part": {"after": 2}}, first(1), (1,), (1, 2, 3)),
        ({"stream_part": {"after": 1, "first": 4}}, first(2), (1, 2), (1, 2, 3)),
        ({"stream_part": {"after": 1, "first": 4}}, first(2, "rest"), (1, 2), (3,)),
        ({"stream_part": {"first": 3}}, "oracle", (1, 2, 3), (1, 2, 3)),
    ],
)
def test_lists_lose_only_what_the_protocol_cuts_from_the_users_part(
    top: dict[str, Any], protocol: Any, searched: tuple[int, ...], reported: tuple[int, ...]
) -> None:
    """A list fits the user's own part of the stream: `retain best` of evaluate: rest writes such configs."""
    objective = "average_accuracy" if protocol == "oracle" else "validation.average_accuracy"
    values = iterations(*(reported if protocol != first(2, "rest") else range(1, len(searched) + len(reported) + 1)))
    plan = planned(top={**values, **top}, protocol=protocol, objective=objective)
    check_search(plan)
    (part,) = plan.searched
    point = {LR: 0.1}
    assert plan.search_trial(part, point, 0, 100, 0).config.training.iterations == searched
    (trial,) = plan.reported_trials(part, point, 0, 0)
    assert trial.config.training.iterations == reported


def test_a_part_that_is_left_out_whole_is_refused() -> None:
    plan = planned(top={"stream_part": {"first": 3}}, protocol=first(3, "rest"))
    with pytest.raises(UserError, match=r"first_experiences.k=3: must be below 3, the experiences"):
        plan.reported_trials(plan.searched[0], {LR: 0.1}, 0, 0)


@pytest.mark.parametrize(
    ("space_of_a", "variants", "expected"),
    [
        ({BATCH: {"choice": [8, 16]}}, {"naive": {}}, [("B", "naive", 8)]),
        ({}, {"naive": {"space": {BATCH: {"choice": [8, 16]}}}, "lwf": {}}, [("B", "lwf", 16), ("B", "naive", 8)]),
    ],
)
def test_each_variant_of_a_transfer_is_either_searched_or_fixed(
    space_of_a: dict[str, Any], variants: dict[str, Any], expected: list[tuple[str, str, int]]
) -> None:
    """A variant with a space on A only is searched there: its one trial on B is that of the choice."""
    streams = {"A": {"space": space_of_a}, "B": {}}
    plan = planned(streams=streams, variants=variants, protocol={"transfer": {"to": "B"}})
    check_search(plan)
    (study,) = plan.searched
    trials = [*plan.fixed_trials(), *plan.reported_trials(study, {BATCH: 8}, 0, 0)]
    found = [(each.identity["stream"], each.identity["variant"], each.config.training.batch_size) for each in trials]
    assert found == expected


@pytest.mark.parametrize(("num_seeds", "expected"), [(2, False), (3, False), (4, True)])
def test_the_seed_test_can_end_a_configuration_from_four_pairs_on(num_seeds: int, expected: bool) -> None:
    """So at least five seeds are needed for one to be saved."""
    worse = {seed: (0.1 + seed / 100,) for seed in range(num_seeds)}
    best = {seed: (0.9,) for seed in range(num_seeds + 1)}
    assert is_worse(Objective("validation.average_accuracy", "maximize"), worse, best) is expected
    assert LEAST_SEEDS_TO_PRUNE == 5


# --- the command line ---


@pytest.mark.parametrize(
    ("override", "is_refused"),
    [
        (f"{LR}=0.5", True),
        (f"{LR}=0.1", True),  # also if it is a value of the space
        ("seed=7", True),
        (f"{BATCH}=8", False),
        ("training.iterations=[3,3,3,3,3]", False),  # only one item is searched
        ("sweep.samples=3", False),
    ],
)
def test_an_override_that_the_search_replaces_is_refused(override: str, is_refused: bool) -> None:
    space = {LR: {"choice": [0.1, 1.0]}, ITEM.format(0): {"choice": [4, 5]}}
    plan = planned([override], top=EPOCHS, space=space)
    if not is_refused:
        check_search(plan)
        return
    with pytest.raises(UserError) as error:
        check_search(plan)
    assert f"override '{override}': changes no trial" in str(error.value)


def test_a_key_of_the_whole_sweep_cannot_depend_on_a_searched_one() -> None:
    plan = planned(top={"checkpoint": {"keep": "${training.batch_size}"}}, space={BATCH: {"choice": [8, 16]}})
    with pytest.raises(UserError, match=r"checkpoint.keep=.*: would differ between trials"):
        check_search(plan)


@pytest.mark.parametrize(
    ("arguments", "note"),
    [
        ({"space": {LR: CHOICE}}, f"sweep.samples=4: {LR}: only 2 different draws; each runs once"),
        ({"space": {LR: CHOICE}, "search": TPE}, "sweep.samples=4: the space has only 2 different points"),
        ({"space": {LR: CHOICE}, "search": "grid"}, "sweep.samples=4: search: grid does not use it"),
        ({"space": {LR: CHOICE}, "samples": 2}, None),
        ({"space": {LR: CHOICE}, "search": "grid", "samples": 1}, None),
        (
            {
                "variants": {"naive": {LR.split(".")[0]: {"optimizer": {"lr": 0.3}}, "space": {LR: CHOICE}}},
                "samples": 2,
            },
            f"sweep.variants.naive: the search space replaces {LR}=0.3",
        ),
        (
            {"variants": {name: {"space": {LR: CHOICE}} for name in ("naive", "same")}, "samples": 2},
            "the same trials run under two names: (split_digits, naive) and (split_digits, same)",
        ),
        (
            {"variants": {"naive": {"space": {LR: CHOICE}}, "a": {}, "b": {}}, "samples": 2},
            "the same trials run under two names: (split_digits, a) and (split_digits, b)",
        ),
    ],
)
def test_what_runs_less_than_it_says_is_said(
    arguments: dict[str, Any], note: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="retain"):
        check_search(planned(**arguments))
    said = [record.getMessage() for record in caplog.records if "sweep" in record.getMessage() or note]
    assert any(note in line for line in said) if note else said == []


# --- retain add ---


@pytest.mark.parametrize("old_samples", [2, 3])
def test_more_samples_at_each_grid_point_run_no_more_than_that(old_samples: int) -> None:
    """Draws of later grid points change with `samples`: those that have run count."""
    space = {"training.epochs": {"grid": [1, 2, 3]}, LR: {"uniform": [0.1, 1.0]}}

    def points_of(samples: int, have_run: Sequence[dict[str, Any]] = ()) -> list[dict[str, Any]]:
        plan = planned(shared=space, variants={"naive": {}}, samples=samples)
        (part,) = plan.searched
        source = suggestions_for(plan.settings, part.sweep, part.added, "", plan.first_points(part))
        assert isinstance(source, PointList)
        for point in have_run:
            source.add(Suggestion(point), Outcome("running"))
        points = []
        while (suggestion := source.ask()) is not None:
            points.append(suggestion.point)
        return points

    old = points_of(old_samples)
    added = points_of(5, old)
    new = [*old, *added]
    assert [sum(point["training.epochs"] == epochs for point in new) for epochs in (1, 2, 3)] == [5, 5, 5]
    assert len({identity(point) for point in new}) == 15
    for killed_after in range(len(added) + 1):  # a process that is killed suggests the same again
        assert points_of(5, new[: len(old) + killed_after]) == added[killed_after:]


# --- sweep.from ---


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of searches that have run: of the first two experiences, of whole streams, of streams A and B."""
    folders = {}
    streams = {"A": {}, "B": {"benchmark": {"split_digits": {"class_order": [*range(10)]}}}}
    sweeps: dict[str, dict[str, Any]] = {
        "first": {"protocol": first(2)},
        "whole": {"protocol": "end_of_stream"},
        "streams": {"protocol": first(2), "streams": streams},
    }
    for name, sweep in sweeps.items():
        folders[name] = tmp_path_factory.mktemp(name) / "out"
        config = search_config(samples=2, **sweep)
        config["training"]["iterations"] = 1
        begin(folders[name], config)
        drive(folders[name])
    return folders


B = {"benchmark": {"split_digits": {"class_order": [*range(10)]}}}
FROM_REFUSED = {
    "results of all experiences": ("whole", {}, "its protocol is end_of_stream: its results are of all experiences"),
    "more experiences": ("first", {"protocol": first(1)}, "sweep.protocol.first_experiences.k=2: must be at most 1"),
    "another stream": ("first", {"streams": {"A": {}}}, "it searched naive on split_digits; here: naive on A"),
    "another variant": (
        "first",
        {"variants": {"other": {"space": {LR: {"loguniform": [0.001, 1.0]}}}}},
        "it searched naive on split_digits; here: other on split_digits",
    ),
    "another order of the classes": (
        "streams",
        {"streams": {"B": {}}, "protocol": first(2)},
        "its B has other settings of the benchmark or of stream_part",
    ),
    "the target of a transfer under the name of the other": (
        "streams",
        {"streams": {"B": {}, "C": B}, "protocol": {"transfer": {"to": "C"}}},
        "its B is the benchmark of C, which protocol transfer must not see",
    ),
    "only the target of a transfer": (
        "first",
        {"streams": {"split_digits": {}, "A": B}, "protocol": {"transfer": {"to": "split_digits"}}},
        "it searched naive on split_digits; here: naive on A",
    ),
}


@pytest.mark.parametrize("name", FROM_REFUSED)
def test_earlier_results_that_a_search_must_not_see_are_refused(name: str, earlier: dict[str, Path]) -> None:
    folder, sweep, message = FROM_REFUSED[name]
    with pytest.raises(UserError) as error:
        check_search(planned(search=TPE, **{"from": [str(earlier[folder])], **sweep}))
    assert f"sweep.from={earlier[folder]}"[:60] in str(error.value) and message in str(error.value)


@pytest.mark.parametrize(
    ("folder", "sweep"),
    [
        ("first", {"protocol": first(2)}),
        ("first", {"protocol": first(3)}),
        ("first", {"protocol": "end_of_stream"}),
        ("whole", {"protocol": "end_of_stream"}),
    ],
)
def test_earlier_results_of_no_more_than_the_protocol_allows_are_taken(
    folder: str, sweep: dict[str, Any], earlier: dict[str, Path]
) -> None:
    check_search(planned(search=TPE, **{"from": [str(earlier[folder])], **sweep}))


def test_only_results_of_the_stream_of_the_same_name_are_taken(earlier: dict[str, Path], tmp_path: Path) -> None:
    config = search_config(
        search=TPE, samples=2, streams={"B": B, "C": {}}, protocol=first(2), **{"from": [str(earlier["streams"])]}
    )
    config["training"]["iterations"] = 1
    plan = plan_search(load_config(config))
    assert plan is not None
    check_search(plan)
    begin(tmp_path / "out", config)
    drive(tmp_path / "out")
    taken = {line["stream"]: line["results"] for line in read_journal(tmp_path / "out") if line["kind"] == "earlier"}
    own = [
        line["point"]
        for line in read_journal(earlier["streams"])
        if line["kind"] == "suggested" and line["stream"] == "B"
    ]
    assert taken["C"] == [] and [each["point"] for each in taken["B"]] == own
