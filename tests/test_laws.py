"""Laws that every file in strategies/ must keep, asserted for each of them; `retain check` asserts the same of a user's."""

import json
import pickle
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
from helpers.processes import forkserver

from retain.platform import seeding
from retain.platform.config import registry
from retain.platform.config.load import from_dict
from retain.platform.config.registry import neutral_settings
from retain.platform.config.schema import Experiment
from retain.platform.contract import settings, strategy
from retain.platform.contract.avalanche_script import check_plain_avalanche
from retain.platform.contract.errors import NotApplicable
from retain.platform.contract.outcome import assert_same, outcome
from retain.platform.contract.trials import WATCHER, Trials, stops_of
from retain.platform.ledger.reader import Trial
from retain.platform.training.plugin import Plugin
from retain.platform.trial.resolve import ResolvedPart, resolve_experiment
from retain.platform.trial.run import run as run_trial

Make = Callable[..., Experiment]
Settings = dict[str, Any]
NAMES = registry.names("strategies")
STREAMS = ("split", "rotated")
# In addition to the defaults: settings that take other branches. A new strategy needs no entry.
MORE: dict[str, list[Settings]] = {
    "adapters": [{"width": None}],
    "gradual_unfreezing": [{"per": "experience"}],
    "bic": [{"memory": 0, "weight": 0.5}],
    "stop_at_budget": [{"accuracy": None, "loss": 0.3}],
    "attention_distillation": [{"kind": "gradcam"}],
    "feature_distillation": [{"loss": "mse", "layers": ["trunk.1", "features"]}],
    "der": [{"memory": 20, "beta": 0.0, "batch_size": 7}],
    "early_stopping": [{"patience": 1, "metric": "loss"}],
    "ewc": [{"mode": "online", "decay": 0.9, "fisher": "sampled", "num_samples": 20}],
    "l2_sp": [{"reference": "pretrained"}],
    "mas": [{"alpha": 0.5, "num_samples": 20}],
    "si": [{"gradient": "total", "clip": False}],
    "eeil": [{"memory": 0}],
    "freezing": [{"layers": ["trunk.1.*"], "from_experience": 0}],
    "head_init": [{"rows": "mean"}],
    "lwf": [{"loss": "mse"}],
    "forgetting_stop": [{"tolerance": 0.5, "every": 4}],
    "replay": [
        {"memory": 30, "policy": "reservoir", "batch_size": 7},
        {"memory": 30, "policy": "gss", "batch_size": 7, "selection": "mir"},
        {"policy": "herding"},
    ],
}
TOGETHER: Settings = {"lwf": {}, "replay": {"memory": 20}, "early_stopping": {"patience": 1}, "freezing": {}}
CASES: list[Any] = [pytest.param({name: {}}, id=name) for name in NAMES]
CASES += [
    pytest.param({name: settings}, id=f"{name}-{number}")
    for name, more in MORE.items()
    for number, settings in enumerate(more)
]
CASES.append(pytest.param(TOGETHER, id="together"))


def spread(cases: list[Any], others: tuple[Any, ...] = STREAMS) -> list[Any]:
    """Combine each case with one of `others` in a seeded rotation; combinations with the rest are slow."""
    combined = []
    for number, case in enumerate(cases):
        made = case if isinstance(case, type(pytest.param())) else pytest.param(case, id=str(case))
        values, name = made.values, str(made.id)
        turn = (number + seeding.derive(0, name)) % len(others)
        for place, other in enumerate(others):
            marks = made.marks if place == turn else [pytest.mark.slow]
            combined.append(pytest.param(*values, other, id=f"{name}-{other}", marks=marks))
    return combined


@pytest.fixture(scope="module")
def runs(quick_folder: Path) -> Trials:
    folder = quick_folder / "laws"
    folder.mkdir()
    return Trials(folder)


def module(name: str) -> Any:
    """Return a strategy's module."""
    return registry.resolve("strategies", name)


def part(name: str) -> ResolvedPart:
    """Return a strategy with its default settings."""
    experiment = {"name": "laws", "benchmark": "split_digits", "model": "mlp", "strategies": {name: {}}}
    return resolve_experiment(from_dict(experiment)).strategies[0]


# Built from defaults and from YAML; picklable.


@pytest.mark.parametrize("name", NAMES)
def test_settings_keep_their_contract(name: str, make_experiment: Make, tmp_path: Path) -> None:
    own = part(name)
    assert own.config == module(name).Config()
    assert isinstance(own.build_strategy(0), Plugin)
    settings.check_frozen(own)
    settings.check_documented(own)
    settings.check_copies(own)
    for written in ({}, json.loads(json.dumps(asdict(own.config)))):
        experiment = make_experiment(strategies={name: written})
        settings.check_yaml(experiment, tmp_path)
        resolved = resolve_experiment(experiment)
        assert [each.config for each in resolved.strategies] == [own.config]
        assert resolved.experiment.strategies[name] == json.loads(json.dumps(asdict(own.config)))


@pytest.mark.parametrize("name", NAMES)
def test_names_declarations_and_state_keep_their_contract(name: str, make_experiment: Make) -> None:
    strategy.check_names(part(name))
    strategy.check_declarations(part(name), make_experiment(strategies={name: {}}))
    strategy.check_resumable(part(name))  # its exception for a strategy without a state fails the test


@pytest.mark.parametrize("name", NAMES)
def test_config_pickles(name: str, make_experiment: Make) -> None:
    own = module(name).Config()
    assert pickle.loads(pickle.dumps(own)) == own
    config = resolve_experiment(make_experiment(strategies={name: {}})).experiment
    assert pickle.loads(pickle.dumps(config)) == config


# Neutral settings give the naive curve.


def test_neutral_settings_or_the_reason_is_stated() -> None:
    """Print the strategies without neutral settings (pytest -rP shows it)."""
    without = {name: module(name).NEUTRAL_REASON for name in NAMES if neutral_settings(module(name)) is None}
    for name, reason in without.items():
        print(f"no neutral settings: {name}: {reason}")
    assert all(len(reason) > 20 for reason in without.values())
    assert set(without) == {
        "cosine_head",
        "cumulative",
        "fecam",
        "icarl",
        "joint",
        "local_similarity",
        "lucir",
        "lwf_mc",
        "ncm",
        "ranpac",
        "slda",
        "ss_il",
        "wa",
    }


@pytest.mark.parametrize(
    ("name", "stream"), spread([name for name in NAMES if neutral_settings(module(name)) is not None])
)
def test_neutral_settings_give_the_naive_bits(name: str, stream: str, runs: Trials, make_experiment: Make) -> None:
    neutral = make_experiment(stream, strategies={name: strategy.neutral_settings_of(part(name))})
    strategy.check_neutral(make_experiment(stream, network_for=name), neutral, runs)


@pytest.mark.parametrize("name", NAMES)
def test_default_settings_do_something(name: str, runs: Trials, make_experiment: Make) -> None:
    """Otherwise the law above would hold for a strategy that never acts. Enough epochs for patience to run out."""
    training = {"epochs": 6, "optimizer": {"lr": 0.2}}
    pairs = (
        (
            make_experiment(stream, network_for=name, **training),
            make_experiment(stream, strategies={name: {}}, **training),
        )
        for stream in ("pair", "split")  # the longer stream if the shorter one shows no effect
    )
    strategy.check_acts(pairs, runs)


# Determinism.


@pytest.mark.parametrize(("name", "stream"), spread(NAMES))
def test_same_seed_same_bits(name: str, stream: str, runs: Trials, make_experiment: Make) -> None:
    strategy.check_seed(make_experiment(stream, strategies={name: {}}), runs)


def test_another_seed_gives_other_bits(runs: Trials, make_experiment: Make) -> None:
    strategy.check_other_seed(make_experiment(strategies=TOGETHER), runs)


# Evaluation changes nothing.


@pytest.mark.parametrize(("strategies", "stream", "watched"), spread(spread(CASES), ("one pass", "its loop")))
def test_evaluation_changes_no_state_and_nothing_is_left_in_the_network(
    strategies: Settings, stream: str, watched: str, make_experiment: Make
) -> None:
    """States are compared after every epoch, inside an experience; the final bits are those without evaluation.

    At the end the network is as it was built: no hooks, nothing frozen, all layers in training mode.
    """
    config = make_experiment(stream, strategies={**strategies, **({WATCHER: {}} if watched == "its loop" else {})})
    for learner in strategy.check_evaluation(config):
        strategy.check_nothing_left(learner, len(config.strategies))


# In a plain Avalanche script.

NEED_OUR_TRIAL = {  # they change the network when a trial is built
    *(
        "adapters",
        "coda_prompt",
        "continual_norm",
        "cosine_head",
        "l2p",
        "local_similarity",
        "lora",
        "lucir",
        "swap_norm",
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_in_a_plain_avalanche_script(name: str) -> None:
    if name in NEED_OUR_TRIAL:
        with pytest.raises(NotApplicable, match="adds parts to the network"):
            check_plain_avalanche(part(name))
    else:
        check_plain_avalanche(part(name))


# Stopped and resumed equals uninterrupted.


GROUPS = {"name": "adam", "lr": 0.01, "weight_decay": 0.1, "groups": {"head.*": {"lr": 3, "weight_decay": 0}}}
RESUMED = [
    pytest.param({}, "split", {}, id="naive"),
    pytest.param({}, "split", {"optimizer": {"name": "adam", "lr": 0.01, "reset": False}}, id="adam kept"),
    pytest.param(
        TOGETHER, "split", {"optimizer": {"name": "adam", "lr": 0.01, "reset": False}}, id="adam kept-together"
    ),
    pytest.param({}, "rotated", {"optimizer": {"name": "sgd", "reset": False}}, id="momentum kept"),
    pytest.param({}, "split", {"optimizer": GROUPS, "schedule": {"name": "cosine"}}, id="groups"),
    pytest.param({}, "split", {"optimizer": GROUPS | {"reset": False}}, id="groups kept"),
    pytest.param({}, "split", {"iterations": 13, "schedule": {"name": "cosine", "warmup": 0.2}}, id="cosine"),
    pytest.param({"plugins.noisy": {}}, "rotated", {}, id="global generators"),
    pytest.param({"plugins.keeper": {}}, "split", {}, id="mutable state"),
    pytest.param(TOGETHER, "split", {"precision": "bfloat16"}, id="bfloat16-together"),
    pytest.param(
        {"lwf": {}}, "split", {"precision": "float16", "optimizer": {"name": "adam", "reset": False}}, id="float16"
    ),
    pytest.param({"replay": {}}, "split", {"optimizer": {"clip": 0.1}, "schedule": {"name": "step"}}, id="clip, steps"),
]


@pytest.mark.parametrize(
    ("strategies", "stream", "training"),
    [*(pytest.param(*c.values, {}, id=c.id, marks=c.marks) for c in spread(CASES)), *RESUMED],
)
def test_stopped_mid_experience_and_resumed_equals_uninterrupted(
    strategies: Settings, stream: str, training: Settings, runs: Trials, make_experiment: Make
) -> None:
    """SIGTERM in the middle of each experience, and around the last iteration of its first epoch.

    A single strategy is stopped less often.
    """
    experiment = make_experiment(stream, strategies=strategies, **training)
    strategy.check_resume_mid_experience(experiment, runs, often=len(strategies) != 1)


@pytest.mark.parametrize(
    ("strategies", "stream", "training"),
    # slow, since test_stopped_by_the_report_callback_and_resumed_equals_uninterrupted resumes from the same boundaries
    [*(pytest.param(*c.values, {}, id=c.id, marks=pytest.mark.slow) for c in spread(CASES)), *RESUMED],
)
def test_stopped_between_experiences_and_resumed_equals_uninterrupted(
    strategies: Settings, stream: str, training: Settings, runs: Trials, make_experiment: Make
) -> None:
    experiment = make_experiment(stream, strategies=strategies, **training)
    stops = strategy.check_resume_between_experiences(experiment, runs)
    assert len(stops) == (1 if "joint" in strategies else 9 if stream == "split" else 5)


def every_nth(num: int) -> list[Any]:
    """Return the names; all are slow except every `num`-th in a seeded order, since each is also stopped at these boundaries."""
    order = sorted(NAMES, key=lambda name: seeding.derive(3, name))
    return [
        pytest.param(name, marks=[] if place % num == 0 else [pytest.mark.slow]) for place, name in enumerate(order)
    ]


@pytest.mark.parametrize("name", every_nth(4))
def test_stopped_by_the_report_callback_and_resumed_equals_uninterrupted(
    name: str, runs: Trials, make_experiment: Make
) -> None:
    """`report` raises after an experience's checkpoint: the experience is not trained again, and is reported again."""
    config, folder = make_experiment(strategies={name: {}}), runs.new_folder()
    never, reported = runs(config), []

    def report(values: dict[str, Any]) -> None:
        reported.append(values["experience"])
        if reported.count(reported[-1]) == 1:
            raise RuntimeError("the scheduler has enough")

    experiences = [5] if name == "joint" else [1, 2, 3, 4, 5]
    for _ in experiences:
        with pytest.raises(RuntimeError, match="the scheduler has enough"):
            run_trial(config, folder, report=report)
        assert Trial(folder).status().status == "failed"
    run_trial(config, folder, report=report)
    assert reported == [each for each in experiences for _ in range(2)]
    assert_same(outcome(folder), never)


@pytest.fixture(scope="module")
def server() -> ForkServerContext:
    """Yield a server of new processes that have imported what a trial needs."""
    return forkserver()


@pytest.mark.parametrize("strategies", [{"lwf": {}}, {"replay": {"memory": 40}, "early_stopping": {"patience": 1}}])
def test_killed_and_resumed_equals_uninterrupted(
    strategies: Settings, runs: Trials, make_experiment: Make, server: Any
) -> None:
    """SIGKILL at a boundary and mid-experience; another process resumes."""
    config = runs.with_stopper(make_experiment(strategies=strategies))
    never, folder = runs(config), runs.new_folder()
    boundary = stops_of(never.events)[1]
    for iteration in (boundary, boundary + 20):
        runs.flag.write_text(f"KILL {iteration}")
        process = server.Process(target=run_trial, args=(config, folder))
        process.start()
        process.join(300)
        assert process.exitcode == -signal.SIGKILL
        assert Trial(folder).status().status == "running"
    run_trial(config, folder)
    assert_same(outcome(folder), never)


@pytest.mark.parametrize("all_damaged", [False, True])
def test_a_damaged_checkpoint_is_skipped(
    all_damaged: bool, runs: Trials, make_experiment: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """The previous checkpoint is used or, if there is none, the trial starts again; the bits are the same."""
    config, folder = runs.with_stopper(make_experiment(strategies={"replay": {}})), runs.new_folder()
    never = runs(config)
    runs.flag.write_text(f"stop {stops_of(never.events)[-1]}")
    with pytest.raises(KeyboardInterrupt):
        run_trial(config, folder)
    saved = sorted((folder / "checkpoints").iterdir())
    assert [path.name for path in saved] == ["000003", "000004"]
    for path in saved[0 if all_damaged else 1 :]:
        file = path / "tensors.safetensors"
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    run_trial(config, folder)
    assert caplog.text.count("is passed over") == (2 if all_damaged else 1)
    assert_same(outcome(folder), never)


def test_a_strategy_by_dotted_path_is_recorded_in_the_config(runs: Trials, make_experiment: Make) -> None:
    folder = runs.new_folder()
    run_trial(make_experiment("pair", strategies={"plugins.keeper": {}}), folder)
    config = Trial(folder).read("config")
    assert config is not None and config["strategies"] == {"plugins.keeper": {}}
    assert "plugins.keeper" in sys.modules
